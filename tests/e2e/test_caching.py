"""What is fetched, what is kept, and what happens when an object changes: counted at the server."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.demo.faults import FaultRule
from tigrismount.demo.model import plan_model, upload_model

MIB = 1 << 20
BLOCK = MIB

_READ = """
for name in sys.argv[2:]:
    with open(os.path.join(path, name), "rb") as file:
        print(os.fstat(file.fileno()).st_ino, hashlib.file_digest(file, "sha256").hexdigest())
"""


_SLOW = FaultRule(match="GET /[^/]*/file", action="delay", delay_s=0.1, count=-1)
"""Long enough that readers who start together find each other's GETs in flight."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_after_a_remount_nothing_is_fetched_again_and_node_ids_stay(mount, bucket, s3, python):
    model = plan_model(20 * MIB, shard_bytes=8 * MIB)
    upload_model(bucket.client, bucket.name, "m", model)
    names = [*model.small_files, *(shard.name for shard in model.shards)]

    with mount(f"s3://{bucket.name}") as mounted:
        first = python(_READ, f"{mounted.path}/m", *names)
    s3.reset_requests()
    with mount(f"s3://{bucket.name}") as mounted:
        second = python(_READ, f"{mounted.path}/m", *names)
        remote_bytes = mounted.status()["bytes"]["remote"]

    assert first == second
    assert s3.requests("GetObject") == []
    assert remote_bytes == 0


def test_node_ids_do_not_depend_on_the_mount(mount, bucket, python, tmp_path):
    bucket.put("a/file", b"1")
    code = "print([os.stat(p).st_ino for p in (f'{path}/a', f'{path}/a/file')])"
    with mount(f"s3://{bucket.name}") as mounted:
        first = python(code, mounted.path)
    with mount(f"s3://{bucket.name}", f"--cache-dir={tmp_path / 'other'}") as mounted:
        second = python(code, mounted.path)

    assert first == second


_DROP = """
with open(f"{path}/file", "rb") as file:
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
"""
_PAGES = """
with open(f"{path}/file", "rb") as file:
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    for position in map(int, sys.argv[2:]):
        print(hashlib.sha256(os.pread(file.fileno(), 4096, position)).hexdigest())
"""


def test_pages_at_random_of_what_the_disk_has_do_not_cost_their_blocks(mount, bucket, s3, python, noise):
    data = noise(96 * BLOCK, 1)
    bucket.put("file", data)
    places = [index * BLOCK + 8192 * (index % 50) for index in range(40)]
    random.Random(1).shuffle(places)
    with mount(f"s3://{bucket.name}", "--memory-limit=32MiB", "--prefetch=off") as mounted:
        assert python(_READ, mounted.path, "file").split()[1] == digest(data)
        assert wait_until(lambda: mounted.status()["cache"]["bytes_cached"] == len(data))
        python(_DROP, mounted.path)
        assert python(_READ, mounted.path, "file").split()[1] == digest(data), "which proves every block"
        python(_DROP, mounted.path)
        s3.reset_requests()
        before = mounted.status()["bytes"]["nvme"]
        pages = python(_PAGES, mounted.path, *map(str, places)).split()
        read_bytes = mounted.status()["bytes"]["nvme"] - before

    assert pages == [digest(data[place : place + 4096]) for place in places]
    assert s3.requests("GetObject") == []
    assert read_bytes == 40 * 4096


def test_ten_readers_together_fetch_each_block_once(mount, bucket, s3, python, noise):
    data = noise(16 * BLOCK, 1)
    bucket.put("file", data)
    s3.inject(_SLOW)
    with mount(f"s3://{bucket.name}") as mounted, ThreadPoolExecutor(10) as readers:
        s3.reset_requests()
        answers = list(readers.map(lambda _: python(_READ, mounted.path, "file"), range(10)))
        gets = s3.requests("GetObject")

    assert {answer.split()[1] for answer in answers} == {digest(data)}
    assert sum(get.bytes for get in gets) == len(data)
    assert len(gets) <= 16


def test_direct_readers_together_fetch_each_block_once(mount, bucket, s3, python, noise):
    """O_DIRECT goes past the page cache: the daemon's own buffers must serve."""
    data = noise(8 * BLOCK, 2)
    bucket.put("file", data)
    code = """
fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
buffer, whole = mmap.mmap(-1, 1 << 18), hashlib.sha256()
while count := os.preadv(fd, [buffer], os.lseek(fd, 0, os.SEEK_CUR)):
    whole.update(buffer[:count])
    os.lseek(fd, count, os.SEEK_CUR)
print(whole.hexdigest())
"""
    s3.inject(_SLOW)
    with mount(f"s3://{bucket.name}") as mounted, ThreadPoolExecutor(6) as readers:
        s3.reset_requests()
        answers = set(readers.map(lambda _: python(code, f"{mounted.path}/file"), range(6)))
        gets = s3.requests("GetObject")

    assert answers == {digest(data) + "\n"}
    assert sum(get.bytes for get in gets) == len(data)


def test_every_get_names_its_version(mount, bucket, s3, python, noise):
    etag = bucket.put("file", noise(3 * BLOCK, 3))
    with mount(f"s3://{bucket.name}") as mounted:
        python(_READ, mounted.path, "file")

    gets = s3.requests("GetObject", key="file")
    assert gets
    assert {get.if_match.strip('"') for get in gets} == {etag}


@pytest.mark.parametrize("flags", [[], ["--prefetch=off"], ["--prefetch=file"]], ids=["auto", "off", "file"])
def test_a_cache_smaller_than_the_model_stays_small_and_right(mount, bucket, python, flags, noise):
    data = {f"part-{n}": noise(6 * BLOCK, n) for n in range(4)}
    for name, body in data.items():
        bucket.put(name, body)

    with mount(f"s3://{bucket.name}", "--cache-size=8MiB", *flags) as mounted:
        for _ in range(2):
            lines = python(_READ, mounted.path, *data).splitlines()
            assert [line.split()[1] for line in lines] == [digest(body) for body in data.values()]
        assert wait_until(lambda: _used_bytes(mount.cache_dir) <= 8 * MIB)
    assert _used_bytes(mount.cache_dir) <= 8 * MIB


def test_no_cache_at_all_reads_right(mount, bucket, python, noise):
    data = noise(5 * BLOCK + 9, 4)
    bucket.put("file", data)
    with mount(f"s3://{bucket.name}", "--cache-dir=off") as mounted:
        assert python(_READ, mounted.path, "file").split()[1] == digest(data)


_OVERTAKEN = """
size, part = 24 << 20, 1 << 16
fd = os.open(path, os.O_RDONLY)
found = [hashlib.sha256(os.pread(fd, part, 0)).hexdigest()]
print("opened", flush=True)
sys.stdin.readline()
for start in range(part, size, part):
    try:
        found.append(hashlib.sha256(os.pread(fd, part, start)).hexdigest())
    except OSError as exc:
        found.append(errno.errorcode[exc.errno])
print(json.dumps(found))
"""


@pytest.mark.parametrize("prefetch", ["auto", "off"])
def test_an_object_overwritten_while_open_is_never_mixed(mount, bucket, prefetch, noise):
    old, new = noise(24 * MIB, 5), noise(24 * MIB, 6)
    bucket.put("file", old)
    with mount(f"s3://{bucket.name}", f"--prefetch={prefetch}") as mounted:
        code = "import errno, json, hashlib, os, sys\npath = sys.argv[1]\n" + _OVERTAKEN
        command = [sys.executable, "-c", code, f"{mounted.path}/file"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            try:
                assert reader.stdout.readline() == "opened\n"
                bucket.put("file", new)
                found = json.loads(reader.communicate("go\n", timeout=60)[0])
            finally:
                reader.kill()

    part = 1 << 16
    for index, answer in enumerate(found):
        assert answer in (digest(old[index * part : (index + 1) * part]), "ESTALE"), index
    assert found[0] != "ESTALE"
    if prefetch == "off":
        assert "ESTALE" in found, "the store no longer has the old bytes, and most of them were not fetched"


def test_an_overwritten_object_is_a_new_file_once_the_ttl_is_over(mount, bucket, python):
    bucket.put("file", b"old bytes")
    with mount(f"s3://{bucket.name}", "--metadata-ttl=0") as mounted:
        before = python(_READ, mounted.path, "file").split()
        bucket.put("file", b"newer bytes")
        after = python(_READ, mounted.path, "file").split()

    assert before[1] == digest(b"old bytes")
    assert after[1] == digest(b"newer bytes")
    assert before[0] != after[0]


def test_a_deleted_object_is_gone_once_the_ttl_is_over(mount, bucket, python):
    bucket.put("file", b"bytes")
    bucket.put("other", b"bytes")
    with mount(f"s3://{bucket.name}", "--metadata-ttl=0", "--negative-ttl=0") as mounted:
        assert python("print(os.listdir(path))", mounted.path) == "['file', 'other']\n"
        bucket.client.delete_object(Bucket=bucket.name, Key="file")
        assert python("print(os.path.exists(f'{path}/file'))", mounted.path) == "False\n"
        assert python("print(os.listdir(path))", mounted.path) == "['other']\n"


@pytest.mark.parametrize("damage", ["version", "index", "data"])
def test_a_cache_that_cannot_be_trusted_costs_speed_only(mount, bucket, python, damage, noise):
    data = noise(3 * BLOCK + 5, 7)
    bucket.put("file", data)
    with mount(f"s3://{bucket.name}") as mounted:
        python(_READ, mounted.path, "file")
    _damage(mount.cache_dir, damage, noise)

    with mount(f"s3://{bucket.name}") as mounted:
        assert python(_READ, mounted.path, "file").split()[1] == digest(data)


def _damage(cache_dir, damage, noise):
    if damage == "version":
        (cache_dir / "VERSION").write_text("999999\n")
    elif damage == "index":
        (cache_dir / "index" / "data.mdb").write_bytes(noise(64 * 1024, 8))
    else:
        (file,) = [path for path in (cache_dir / "objects").rglob("*") if path.is_file()]
        with file.open("r+b") as handle:
            handle.seek(BLOCK + 100)
            handle.write(b"damage")


def _used_bytes(cache_dir):
    return sum(
        os.stat(os.path.join(directory, name)).st_blocks * 512
        for directory, _, names in os.walk(cache_dir / "objects")
        for name in names
    )
