"""What the next read would verify is verified when nobody else wants anything."""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING, NoReturn

import pytest

from tigrismount.cache.disk import DiskBlockCache
from tigrismount.cache.options import DiskCacheConfig
from tigrismount.core.types import ObjectId
from tigrismount.integrity.prover import Prover
from tigrismount.testing.waiting import settled, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import trio

BLOCK = 4096
OBJ = ObjectId("bucket", "file", "etag", 3 * BLOCK)


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[DiskBlockCache]:
    config = DiskCacheConfig(directory=str(tmp_path / "cache"), size_bytes=1 << 30, block_bytes=BLOCK)
    made = await DiskBlockCache.open(config, store_id="store")
    yield made
    await made.aclose()


async def keep(cache: DiskBlockCache, indexes: range) -> None:
    cached = await cache.open_object(OBJ)
    for index in indexes:
        assert await cached.write_block(index, memoryview(bytes([index]) * BLOCK), BLOCK)
    cached.close()


async def unproven(cache: DiskBlockCache) -> list[int] | None:
    cached = await cache.open_object(OBJ)
    try:
        return cached.unproven()
    finally:
        cached.close()


async def test_each_block_is_read_back_once(cache: DiskBlockCache, nursery: trio.Nursery) -> None:
    await keep(cache, range(3))
    prover = Prover(cache, quiet=lambda: True)
    await nursery.start(prover.run)
    prover.note(OBJ)
    await until(lambda: cache.statistics().blocks_read == 3)
    await settled()
    assert await unproven(cache) == []
    prover.note(OBJ)
    await settled()
    assert cache.statistics().blocks_read == 3


async def test_nothing_is_read_while_somebody_reads(
    cache: DiskBlockCache, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    await keep(cache, range(3))
    busy = True
    prover = Prover(cache, quiet=lambda: not busy)
    await nursery.start(prover.run)
    prover.note(OBJ)
    await settled()
    assert cache.statistics().blocks_read == 0
    busy = False
    await until(lambda: cache.statistics().blocks_read == 3)


async def test_a_version_is_not_kept_from_being_evicted_while_others_go_first(
    cache: DiskBlockCache, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    await keep(cache, range(3))
    may_go_on = False
    prover = Prover(cache, quiet=lambda: may_go_on or not cache.statistics().blocks_read)
    await nursery.start(prover.run)
    prover.note(OBJ)
    await until(lambda: cache.statistics().blocks_read == 1)
    await until(lambda: not cache.tables()["cache_open"], within_s=5)
    may_go_on = True
    await until(lambda: cache.statistics().blocks_read == 3)
    await settled()
    assert await unproven(cache) == []


async def test_what_is_not_whole_is_left_alone(cache: DiskBlockCache, nursery: trio.Nursery) -> None:
    await keep(cache, range(2))
    prover = Prover(cache, quiet=lambda: True)
    await nursery.start(prover.run)
    prover.note(OBJ)
    await settled()
    assert cache.statistics().blocks_read == 0


async def test_a_machine_without_memory_for_a_block_ends_nothing(
    cache: DiskBlockCache, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Mutation: the error of the system is none of ours, and ends the worker."""
    await keep(cache, range(3))
    prover = Prover(cache, quiet=lambda: True)
    await nursery.start(prover.run)
    with monkeypatch.context() as full, caplog.at_level("INFO"):
        full.setattr(mmap, "mmap", no_memory)
        prover.note(OBJ)
        await until(lambda: "not proven: there is no memory for a block" in caplog.text)
    prover.note(OBJ)
    await until(lambda: cache.statistics().blocks_read == 3)


def no_memory(*_: object) -> NoReturn:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


async def test_a_disk_that_fails_ends_nothing(
    cache: DiskBlockCache, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Mutation: memory that the error's frames have views of cannot be unmapped; that is told instead, to nobody."""
    await keep(cache, range(3))
    prover = Prover(cache, quiet=lambda: True)
    await nursery.start(prover.run)

    def fails(*_: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as bad, caplog.at_level("INFO"):
        bad.setattr(os, "preadv", fails)
        prover.note(OBJ)
        await until(lambda: "not proven: s3://bucket/file: block 0 cannot be read back" in caplog.text)
    await keep(cache, range(3))
    prover.note(OBJ)
    await until(lambda: cache.statistics().blocks_read == 3)


async def test_a_damaged_block_is_dropped_and_the_next_version_is_proven_all_the_same(
    cache: DiskBlockCache, nursery: trio.Nursery, tmp_path: Path
) -> None:
    await keep(cache, range(3))
    (path,) = (tmp_path / "cache" / "objects").glob("*/*")
    with path.open("r+b") as file:
        file.write(b"x")
    prover = Prover(cache, quiet=lambda: True)
    await nursery.start(prover.run)
    prover.note(OBJ)
    await until(lambda: cache.statistics().corrupt_blocks == 1)
    await settled()
    assert await unproven(cache) is None
    await keep(cache, range(3))
    prover.note(OBJ)
    await until(lambda: cache.statistics().blocks_read == 3)
    await settled()
    assert await unproven(cache) == []
