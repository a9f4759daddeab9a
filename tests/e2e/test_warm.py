"""``warm`` fills the cache: through a mount, beside one and without one; counted at the server."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys

import pytest

from tigrismount.cache.inspect import read_cache_statistics
from tigrismount.demo.command import run_child, wait_until
from tigrismount.demo.faults import FaultRule
from tigrismount.demo.model import plan_model, upload_model
from tigrismount.errors import CacheError

MIB = 1 << 20
BLOCK = MIB

_READ = """
for name in sys.argv[2:]:
    with open(os.path.join(path, name), "rb") as file:
        print(hashlib.file_digest(file, "sha256").hexdigest())
"""


@pytest.fixture
def warm(mount):
    """Run ``warm`` with the test's cache and no mount."""

    def run(*arguments: str, flags: bool = True):
        return mount.run("warm", *arguments, *(mount.flags if flags else ()))

    return run


def fetched(s3) -> int:
    return sum(get.bytes for get in s3.requests("GetObject"))


def test_what_was_warmed_without_a_mount_is_read_without_the_store(warm, mount, bucket, s3, python, noise):
    data = {f"m/part-{n}": noise(3 * BLOCK + n, n) for n in range(3)} | {"m/small": b"small", "m/empty": b""}
    for key, body in data.items():
        bucket.put(key, body)
    bucket.put("other", noise(BLOCK, 9))
    s3.reset_requests()

    ended = warm(f"s3://{bucket.name}/m").check()

    size = sum(map(len, data.values()))
    assert ended.output.startswith("5 files, 9 MiB: all cached; 9 MiB fetched in ")
    assert fetched(s3) == size
    assert len(s3.requests("ListObjectsV2")) == 1

    s3.reset_requests()
    with mount(f"s3://{bucket.name}") as mounted:
        found = python(_READ, mounted.path, *data).split()
    assert found == [hashlib.sha256(body).hexdigest() for body in data.values()]
    assert s3.requests("GetObject") == []


def test_warming_again_costs_one_listing(warm, bucket, s3, noise):
    for n in range(5):
        bucket.put(f"m/{n}", noise(BLOCK + 1, n))
    warm(f"s3://{bucket.name}/m/").check()
    s3.reset_requests()

    ended = warm(f"s3://{bucket.name}/m/", "--json").check()

    report = json.loads(ended.output)
    assert report["ok"] is True
    assert (report["fetched_bytes"], report["cached_bytes"]) == (0, 5 * (BLOCK + 1))
    assert [request.operation for request in s3.requests()] == ["ListObjectsV2"]


def test_warming_a_path_is_done_by_the_daemon_of_its_mount(mount, bucket, s3, python, noise):
    bodies = {f"m/{n}": noise(4 * BLOCK, n) for n in range(3)}
    for key, body in bodies.items():
        bucket.put(key, body)
    with mount(f"s3://{bucket.name}/m") as mounted:
        s3.reset_requests()
        ended = mount.run("warm", mounted.path, "--json").check()
        assert json.loads(ended.output)["runs"][0]["where"] == mounted.path
        assert mounted.status()["bytes"]["remote"] == 12 * BLOCK == fetched(s3)
        before = len(s3.requests("GetObject"))
        assert python(_READ, mounted.path, "0", "1", "2").split() == [
            hashlib.sha256(body).hexdigest() for body in bodies.values()
        ]
        assert len(s3.requests("GetObject")) == before

        bucket.put("m/one.bin", noise(BLOCK, 5))
        mount.run("warm", f"{mounted.path}/*.bin").check()
        assert fetched(s3) == 13 * BLOCK


def test_a_mount_without_a_cache_is_named_once(mount, bucket):
    bucket.put("m/one", b"1")
    with mount(f"s3://{bucket.name}", "--cache-dir", "off") as mounted:
        ended = mount.run("warm", mounted.path)
        assert ended.status == 1
        assert ended.errors.startswith(f"tigrismount: error: {mounted.path}: is mounted without a disk cache: ")


def test_a_source_that_is_mounted_with_this_cache_is_warmed_by_the_mount(mount, bucket, s3, noise):
    bucket.put("m/file", noise(3 * BLOCK, 1))
    with mount(f"s3://{bucket.name}") as mounted:
        ended = mount.run("warm", f"s3://{bucket.name}/m", f"--cache-dir={mount.cache_dir}", "--json").check()
        assert json.loads(ended.output)["runs"][0]["where"] == mounted.path
        assert mounted.status()["bytes"]["remote"] == 3 * BLOCK
        other = mount.run("warm", f"s3://{bucket.name}/m", f"--cache-dir={mount.cache_dir}-2", "--json").check()
        assert json.loads(other.output)["runs"][0]["where"] == f"s3://{bucket.name}"


def test_an_index_brings_its_shards_and_the_small_files_beside_it(warm, bucket, s3, noise):
    model = plan_model(12 * MIB, shard_bytes=5 * MIB)
    upload_model(bucket.client, bucket.name, "m", model)
    bucket.put("m/original/consolidated.00.pth", noise(2 * BLOCK, 1))
    bucket.put("m/pytorch_model.bin", noise(40 * MIB, 2))
    s3.reset_requests()

    ended = warm(f"s3://{bucket.name}/m/model.safetensors.index.json").check()

    keys = {get.key for get in s3.requests("GetObject")}
    assert {f"m/{shard.name}" for shard in model.shards} <= keys
    assert "m/config.json" in keys
    assert not {"m/pytorch_model.bin", "m/original/consolidated.00.pth"} & keys
    assert "all cached" in ended.output


def test_patterns_and_lists_of_names(warm, bucket, s3, tmp_path):
    for key in ("m/a.safetensors", "m/b.safetensors", "m/b.bin", "m/sub/c.safetensors", "x/[1].gguf", "x/y"):
        bucket.put(key, key.encode())

    def keys(*names: str) -> set[str]:
        s3.reset_requests()
        warm(*names).check()
        return {get.key for get in s3.requests("GetObject")}

    assert keys(f"s3://{bucket.name}/m/*.safetensors") == {"m/a.safetensors", "m/b.safetensors"}
    assert keys(f"s3://{bucket.name}/**/c*") == {"m/sub/c.safetensors"}
    assert keys(f"{bucket.name}:x/[1].gguf") == {"x/[1].gguf"}
    names = tmp_path / "names"
    names.write_text(f"# what we serve\n\ns3://{bucket.name}/m/b.bin\ns3://{bucket.name}/x\n")
    assert keys("--from-file", str(names)) == {"m/b.bin", "x/y"}


def test_what_is_not_there_or_cannot_be_had_is_a_line_and_a_status(warm, bucket, s3, noise):
    bucket.put("m/good", noise(BLOCK, 1))
    bucket.put("m/cold", b"x", StorageClass="GLACIER")

    nothing = warm(f"s3://{bucket.name}/nowhere")
    assert nothing.status == 3
    assert "there is no such key or prefix" in nothing.errors

    some = warm(f"s3://{bucket.name}/m", f"s3://{bucket.name}/nowhere")
    assert some.status == 1
    assert f"s3://{bucket.name}/m/cold: archived as GLACIER" in some.errors
    assert some.errors.count("tigrismount: error: ") == 2
    assert "3 files" not in some.output
    assert "2 failed" in some.output

    assert warm("/not/a/mount").status == 3
    assert warm(f"s3://{bucket.name}/m", "--spread", "soon").status == 2
    assert warm(f"s3://{bucket.name}/m", "--cache-dir=off", flags=False).status == 2


def test_more_than_the_cache_holds_is_refused_before_anything_is_fetched(warm, bucket, s3, noise):
    bucket.put("m/file", noise(9 * BLOCK, 1))
    s3.reset_requests()
    ended = warm(f"s3://{bucket.name}/m", "--cache-size=8MiB")
    assert ended.status == 1
    assert "raise --cache-size" in ended.errors
    assert s3.requests("GetObject") == []


def test_an_interrupted_run_keeps_what_it_has_and_the_next_one_goes_on(warm, mount, bucket, s3, noise):
    size = 24 * BLOCK
    bucket.put("m/file", noise(size, 1))
    s3.reset_requests()
    s3.inject(FaultRule(match="GET /[^/]*/m/file", action="delay", delay_s=0.15, count=-1))
    command = [sys.executable, "-m", "tigrismount", "warm", f"s3://{bucket.name}/m", "--jobs=2", *mount.flags]
    with subprocess.Popen(command, env=mount.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        assert wait_until(lambda: len(s3.requests("GetObject")) >= 8)
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=90)
    assert first.returncode == 130
    assert "goes on from here" in errors
    s3.inject()
    so_far = fetched(s3)
    assert 0 < so_far < size

    report = json.loads(warm(f"s3://{bucket.name}/m", "--json").check().output)
    assert report["cached_bytes"] > 0
    assert report["cached_bytes"] + report["fetched_bytes"] == size
    # What was in flight at the interruption is all that is fetched twice.
    assert fetched(s3) <= size + 4 * BLOCK


def test_a_run_that_is_killed_loses_what_was_on_its_way_and_nothing_else(warm, mount, bucket, s3, python, noise):
    """Mutation: a cache that records blocks at its end alone has nothing to wait for."""
    data = noise(24 * BLOCK + 17, 1)
    bucket.put("m/file", data)
    s3.inject(FaultRule(match="GET /[^/]*/m/file", action="delay", delay_s=0.25, count=-1))
    command = [sys.executable, "-m", "tigrismount", "warm", f"s3://{bucket.name}/m", "--jobs=2", *mount.flags]

    def cached_bytes() -> int:
        try:
            return read_cache_statistics(str(mount.cache_dir)).bytes_cached
        except CacheError:  # there is none yet
            return 0

    for _ in range(2):
        enough_bytes = cached_bytes() + 2 * BLOCK
        with subprocess.Popen(command, env=mount.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
            assert wait_until(lambda: cached_bytes() >= enough_bytes)  # noqa: B023 -- asked within the turn
            killed.kill()
        kept_bytes = cached_bytes()
        assert enough_bytes <= kept_bytes < len(data), "killed on its way"
    s3.inject()
    s3.reset_requests()

    report = json.loads(warm(f"s3://{bucket.name}/m", "--json").check().output)

    assert report["cached_bytes"] == kept_bytes
    missing_bytes = len(data) - kept_bytes
    assert report["fetched_bytes"] == missing_bytes
    assert missing_bytes <= fetched(s3) <= missing_bytes + 2 * BLOCK, "two of the run that was killed may end now"
    warm(f"s3://{bucket.name}/m", "--check").check()
    s3.reset_requests()
    with mount(f"s3://{bucket.name}") as mounted:
        assert python(_READ, mounted.path, "m/file").split() == [hashlib.sha256(data).hexdigest()]
    assert s3.requests("GetObject") == []


def test_check_finds_what_is_missing_and_what_is_damaged_and_fetches_nothing(warm, mount, bucket, s3, noise):
    bucket.put("m/file", noise(3 * BLOCK, 1))
    bucket.put("m/absent", noise(BLOCK, 2))
    warm(f"s3://{bucket.name}/m/file").check()
    s3.reset_requests()

    missing = warm(f"s3://{bucket.name}/m", "--check")
    assert missing.status == 1
    assert "m/absent: 1 of 1 blocks are not cached" in missing.errors
    assert (
        warm(f"s3://{bucket.name}/m/file", "--check").check().output.startswith("1 file, 3 MiB: all cached and right")
    )

    (file,) = [path for path in (mount.cache_dir / "objects").rglob("*") if path.is_file() and path.stat().st_blocks]
    with file.open("r+b") as handle:
        handle.seek(BLOCK + 100)
        handle.write(b"damage")
    damaged = warm(f"s3://{bucket.name}/m/file", "--check")
    assert damaged.status == 1
    assert "1 of 3 blocks were damaged and are dropped" in damaged.errors
    assert s3.requests("GetObject") == []

    report = json.loads(warm(f"s3://{bucket.name}/m/file", "--json").check().output)
    assert report["fetched_bytes"] == BLOCK
    warm(f"s3://{bucket.name}/m/file", "--check").check()


def test_readers_and_warming_share_every_byte(mount, bucket, s3, python, noise):
    data = noise(16 * BLOCK, 1)
    bucket.put("file", data)
    s3.inject(FaultRule(match="GET /[^/]*/file", action="delay", delay_s=0.1, count=-1))
    with mount(f"s3://{bucket.name}") as mounted:
        s3.reset_requests()
        command = [sys.executable, "-m", "tigrismount", "warm", mounted.path]
        with subprocess.Popen(command, env=mount.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as warming:
            found = python(_READ, mounted.path, "file").split()
            warming.communicate(timeout=60)
        assert warming.returncode == 0
        assert found == [hashlib.sha256(data).hexdigest()]
        assert fetched(s3) == len(data)


def test_processes_that_warm_and_read_through_one_cache_fetch_every_byte_once(mount, bucket, s3, python, noise):
    data = noise(12 * BLOCK, 1)
    bucket.put("m/file", data)
    s3.inject(FaultRule(match="GET /[^/]*/m/file", action="delay", delay_s=0.2, count=-1))
    # The mount has only a part of what is warmed, so these commands do it themselves.
    command = [sys.executable, "-m", "tigrismount", "warm", f"s3://{bucket.name}", "--json", *mount.flags]
    with mount(f"s3://{bucket.name}/m") as mounted:
        s3.reset_requests()
        warming = [subprocess.Popen(command, env=mount.env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        found = python(_READ, mounted.path, "file").split()
        told = [json.loads(process.communicate(timeout=60)[0]) for process in warming]
    assert [process.returncode for process in warming] == [0, 0]
    assert [report["runs"][0]["where"] for report in told] == [f"s3://{bucket.name}"] * 2
    assert found == [hashlib.sha256(data).hexdigest()]
    assert fetched(s3) == len(data)


def test_the_daemon_stops_warming_when_nobody_waits_for_it_any_more(mount, bucket, s3, noise):
    bucket.put("file", noise(32 * BLOCK, 1))
    s3.inject(FaultRule(match="GET /[^/]*/file", action="delay", delay_s=0.2, count=-1))
    with mount(f"s3://{bucket.name}") as mounted:
        s3.reset_requests()
        command = [sys.executable, "-m", "tigrismount", "warm", mounted.path, "--jobs=1"]
        with subprocess.Popen(command, env=mount.env, stderr=subprocess.PIPE) as warming:
            assert wait_until(lambda: len(s3.requests("GetObject")) >= 2)
            warming.send_signal(signal.SIGINT)
            warming.communicate(timeout=90)
        assert wait_until(lambda: mounted.status()["flights"]["remote"] == 0)
        seen = len(s3.requests("GetObject"))
        assert seen < 32
        assert run_child("ls", mounted.path).check().output == "file\n"
        assert len(s3.requests("GetObject")) == seen


def test_links_of_a_hub_cache_are_followed(warm, bucket, s3):
    blob = hashlib.sha256(b"weights").hexdigest()
    bucket.put(f"hub/blobs/{blob}", b"weights")
    bucket.put("hub/blobs/other", b"other")
    bucket.put("hub/snapshots/1/model", b"", Metadata={"--symlink-target": f"../../blobs/{blob}"})
    bucket.put("hub/snapshots/1/out", b"", Metadata={"--symlink-target": "../../../../x"})
    s3.reset_requests()
    ended = warm(f"s3://{bucket.name}/hub/snapshots/1")
    assert {get.key for get in s3.requests("GetObject")} == {f"hub/blobs/{blob}"}
    assert ended.status == 1
    assert "hub/snapshots/1/out: is a link that leads out of the bucket" in ended.errors


def test_the_environment_names_the_source(warm, mount, bucket, s3):
    bucket.put("a", b"1")
    ended = mount.run("warm", *mount.flags, BUCKET_NAME=bucket.name)
    assert ended.status == 0, ended.errors
    assert {get.key for get in s3.requests("GetObject")} == {"a"}
    assert os.listdir(mount.cache_dir)
