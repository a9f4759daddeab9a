"""A block store over fakes, running for the length of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio

from tigrismount.blocks.options import BlocksConfig
from tigrismount.blocks.store import BlockStore
from tigrismount.cache.base import BlockCache
from tigrismount.cache.none import NoCache
from tigrismount.core.types import ObjectId
from tigrismount.objects.memory import MemoryObjectClient

KIB = 1 << 10
MIB = 1 << 20


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes that differ at every 8-byte place, so that misplaced ones are seen."""
    words = (i.to_bytes(4, "little") + seed.to_bytes(4, "little") for i in range(-(-size // 8)))
    return b"".join(words)[:size]


@asynccontextmanager
async def running(store: BlockStore) -> AsyncIterator[BlockStore]:
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: store.run(task_status=task_status))
        yield store
        nursery.cancel_scope.cancel()


@pytest.fixture
def client() -> MemoryObjectClient:
    return MemoryObjectClient()


@pytest.fixture
def open_store(client: MemoryObjectClient) -> Callable[..., object]:
    """Return a function that runs a store: ``async with open_store(block_bytes=…) as store``."""

    def open_(
        *,
        cache: BlockCache | None = None,
        on_complete: Callable[[ObjectId, int], None] | None = None,
        **limits: int,
    ) -> AbstractAsyncContextManager[BlockStore]:
        config = {"block_bytes": 64 * KIB, "memory_limit_bytes": 64 * MIB, "concurrency": 8} | limits
        cache = cache or NoCache(config["block_bytes"])
        return running(BlockStore(client, cache, BlocksConfig(**config), on_complete=on_complete))

    return open_
