"""Both caches keep the contract."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from tigrismount.cache.base import BlockCache
from tigrismount.cache.disk import DiskBlockCache
from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.cache.none import NoCache
from tigrismount.cache.options import DiskCacheConfig
from tigrismount.testing.cache_contract import BLOCK_BYTES, BlockCacheContract, object_id, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tigrismount.core.types import ObjectId


class TestMemoryBlockCache(BlockCacheContract):
    @asynccontextmanager
    async def open_cache(self, *, capacity_bytes: int = 1 << 30) -> AsyncIterator[BlockCache]:
        yield MemoryBlockCache(block_bytes=BLOCK_BYTES, capacity_bytes=capacity_bytes)

    def damage(self, cache: BlockCache, obj: ObjectId, index: int) -> None:
        assert isinstance(cache, MemoryBlockCache)
        cache.corrupt(obj, index)


class TestDiskBlockCache(BlockCacheContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "cache"

    @asynccontextmanager
    async def open_cache(self, *, capacity_bytes: int = 1 << 30) -> AsyncIterator[BlockCache]:
        config = DiskCacheConfig(
            directory=str(self.directory),
            size_bytes=capacity_bytes,
            free_floor_fraction=0.0,
            block_bytes=BLOCK_BYTES,
        )
        cache = await DiskBlockCache.open(config, store_id="test", clock=self.tick)
        async with trio.open_nursery() as nursery:
            await nursery.start(cache.run)
            yield cache
            nursery.cancel_scope.cancel()
        await cache.aclose()

    ticks = 0.0

    def tick(self) -> float:
        self.ticks += 1.0
        return self.ticks

    def damage(self, cache: BlockCache, obj: ObjectId, index: int) -> None:
        (path,) = (self.directory / "objects").glob("*/*")
        with path.open("r+b") as file:
            file.seek(index * BLOCK_BYTES + 4711)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1]))


async def test_no_cache_holds_nothing() -> None:
    cache: BlockCache = NoCache(BLOCK_BYTES)
    handle = await cache.open_object(object_id("a"))
    assert handle.block_bytes == BLOCK_BYTES
    assert not await write(handle, object_id("a"), 0)
    assert (handle.has(0), handle.count()) == (False, 0)
    handle.close()
    await cache.aclose()
