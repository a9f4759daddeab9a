"""A look into a cache from outside."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
import trio

from tigrismount.cache.inspect import read_cache_statistics
from tigrismount.errors import CacheError
from tigrismount.testing.cache_contract import BLOCK_BYTES, fill, object_id


async def test_report_tells_what_is_there(place: Any) -> None:
    async with place.open(size_bytes=123 * BLOCK_BYTES) as cache:
        for name, blocks in (("small", 1), ("large", 5), ("middle", 2.5)):
            await fill(cache, object_id(name, blocks=blocks))
    report = read_cache_statistics(str(place.path), limit=2)
    assert (report.directory, report.schema, report.objects, report.blocks) == (str(place.path), 2, 3, 9)
    assert report.bytes_cached == sum(object_id("", blocks=blocks).size_bytes for blocks in (1, 5, 2.5))
    assert report.capacity_bytes == 123 * BLOCK_BYTES
    assert report.disk_free_bytes > 0
    assert [entry.key for entry in report.most_recent] == ["middle", "large"]
    assert [entry.key for entry in report.largest] == ["large", "middle"]
    entry = report.largest[0]
    assert (entry.store_id, entry.bucket, entry.etag) == ("test", "bucket", "e1")
    assert (entry.size_bytes, entry.cached_bytes) == (5 * BLOCK_BYTES, 5 * BLOCK_BYTES)
    assert entry.last_used_s > 0


async def test_report_works_while_a_daemon_runs(place: Any) -> None:
    program = (
        "import sys; from tigrismount.cache.inspect import *; print(read_cache_statistics(sys.argv[1]).bytes_cached)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    async with place.open() as cache:
        await fill(cache, object_id("a"))
        command = [sys.executable, "-c", program, str(place.path)]
        child = await trio.run_process(command, env=environment, capture_stdout=True)
        assert child.stdout.decode() == f"{4 * BLOCK_BYTES}\n"
        assert await fill(cache, object_id("b")) == 4


@pytest.mark.parametrize("what", ["nothing", "a file", "an empty directory", "another release", "damage"])
async def test_what_is_no_cache_is_one_line(place: Any, what: str) -> None:
    if what == "a file":
        place.path.touch()
    elif what == "an empty directory":
        place.path.mkdir()
    elif what != "nothing":
        async with place.open():
            pass
        if what == "another release":
            (place.path / "VERSION").write_text("tigrismount-cache 99\n")
        else:
            (place.path / "index/data.mdb").write_bytes(os.urandom(1 << 16))
    with pytest.raises(CacheError) as caught:
        read_cache_statistics(str(place.path))
    assert str(place.path) in str(caught.value)
    assert "\n" not in str(caught.value)
