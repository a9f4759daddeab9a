"""Several daemons, one cache directory: together they fetch each byte once, and none waits for a dead one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tigrismount.cache.inspect import read_cache_statistics
from tigrismount.demo.faults import FaultRule
from tigrismount.testing.mount import mounted

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
        sizes = {one.status()["cache"]["bytes_cached"] for one in mounts}
    assert sum(get.bytes for get in gets) == len(data), sorted(get.range for get in gets)
    assert sizes == {len(data)}
    assert read_cache_statistics(str(mount.cache_dir)).bytes_cached == len(data)
