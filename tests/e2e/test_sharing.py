"""Several daemons, one cache directory: together they fetch each byte once, and none waits for a dead one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tigrismount.cache.inspect import read_cache_statistics
from tigrismount.demo.faults import FaultRule
from tigrismount.testing.mount import mounted
from tigrismount.testing.waiting import wait_until

MIB = 1 << 20
_DIGEST = "import hashlib, sys\nprint(hashlib.file_digest(open(sys.argv[1], 'rb'), 'sha256').hexdigest())"


def _mounts(stack: ExitStack, mount, source: str, count: int, *flags: str) -> list:
    paths = [mount.mountpoint.with_name(f"mnt-{number}") for number in range(count)]
    for path in paths:
        path.mkdir()
    return [stack.enter_context(mounted(source, path, mount.env, *mount.flags, *flags)) for path in paths]


def _read_all(mounts: list, name: str) -> list[subprocess.Popen]:
    command = [sys.executable, "-c", _DIGEST]
    return [subprocess.Popen([*command, f"{one.path}/{name}"], stdout=subprocess.PIPE, text=True) for one in mounts]


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_daemons_that_load_one_model_together_fetch_each_byte_once(mount, bucket, s3, noise, count) -> None:
    """Mutation: a cache whose ``claim`` always says OURS fetches most of it once a daemon."""
    data = noise(24 * MIB + 4097, 6)
    bucket.put("model", data)
    s3.inject(FaultRule(match="GET /.*/model", action="delay", delay_s=0.2, count=-1))
    with ExitStack() as stack:
        mounts = _mounts(stack, mount, f"s3://{bucket.name}", count)
        readers = _read_all(mounts, "model")
        assert {reader.communicate()[0].strip() for reader in readers} == {hashlib.sha256(data).hexdigest()}
        gets = s3.requests("GetObject", key="model")
        assert sum(get.bytes for get in gets) == len(data), sorted(get.range for get in gets)
        # What the others have written is counted once a second.
        wait_until(lambda: {one.status()["cache"]["bytes_cached"] for one in mounts} == {len(data)})
    assert read_cache_statistics(str(mount.cache_dir)).bytes_cached == len(data)


def test_bound_holds_at_every_moment_while_two_daemons_load_more_than_fits(mount, bucket, s3, noise) -> None:
    """The cache may hold a third of what they read; the data files are measured all the while."""
    bodies = {f"part-{number}": noise(6 * MIB + 4096 * number, number) for number in range(4)}
    for name, body in bodies.items():
        bucket.put(name, body)
    most_bytes = 0
    with ExitStack() as stack:
        mounts = _mounts(stack, mount, f"s3://{bucket.name}", 2, "--cache-size=8MiB")
        for name in [*bodies, *reversed(bodies)]:
            readers = _read_all(mounts, name)
            while any(reader.poll() is None for reader in readers):
                most_bytes = max(most_bytes, _on_disk_bytes(mount.cache_dir))
                time.sleep(0.005)
            expected = hashlib.sha256(bodies[name]).hexdigest()
            assert {reader.communicate()[0].strip() for reader in readers} == {expected}
    assert MIB < most_bytes <= 8 * MIB


def _on_disk_bytes(directory: Path) -> int:
    total_bytes = 0
    for path in directory.glob("objects/*/*"):
        with suppress(FileNotFoundError):
            total_bytes += path.stat().st_blocks * 512
    return total_bytes


def test_a_key_without_access_reads_nothing_that_another_key_has_cached(mount, bucket, s3, noise) -> None:
    """One cache directory, two keys; the second may see half of the bucket. The object is wholly on the disk.

    Mutation: without the rule (the store refuses nothing) the second key reads it.
    """
    bodies = {name: noise(3 * MIB, seed) for seed, name in enumerate(("open/model", "secret/model"))}
    for name, body in bodies.items():
        bucket.put(name, body)
    secret = rf"/{bucket.name}(/secret|/?\?.*prefix=secret)"
    key, key_secret = s3.add_key(f"second-{bucket.name}")
    s3.inject(FaultRule(match=secret, action="status", status=403, code="AccessDenied", count=-1, access_key=key))
    second = mount.mountpoint.with_name("mnt-second")
    second.mkdir()
    keys = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": key_secret}
    with (
        mounted(f"s3://{bucket.name}", mount.mountpoint, mount.env, *mount.flags) as ours,
        mounted(f"s3://{bucket.name}", second, mount.env | keys, *mount.flags) as theirs,
    ):
        for name, body in bodies.items():
            assert Path(ours.path, name).read_bytes() == body
        s3.reset_requests()
        with pytest.raises(PermissionError):
            Path(theirs.path, "secret/model").read_bytes()
        with pytest.raises(PermissionError):
            list(Path(theirs.path, "secret").iterdir())
        assert Path(theirs.path, "open/model").read_bytes() == bodies["open/model"]
        assert s3.requests("GetObject") == [], "what both may see is shared"
