"""What tests of other layers script on the cache in memory."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.errors import CacheError
from tigrismount.testing.cache_contract import BLOCK_BYTES, block_content, check, object_id, write

OBJ = object_id("a")


async def test_planted_blocks_are_served_and_calls_recorded() -> None:
    cache = MemoryBlockCache(block_bytes=BLOCK_BYTES)
    cache.put(OBJ, 1, block_content(OBJ, 1))
    handle = await cache.open_object(OBJ)
    await check(handle, OBJ, 1)
    assert await write(handle, OBJ, 2)
    assert (cache.reads, cache.writes) == ([(OBJ, 1)], [(OBJ, 2)])
    assert (cache.block(OBJ, 2), cache.block(OBJ, 3)) == (block_content(OBJ, 2), None)
    handle.close()


async def test_disk_that_cannot_read_or_takes_no_more() -> None:
    cache = MemoryBlockCache(block_bytes=BLOCK_BYTES)
    handle = await cache.open_object(OBJ)
    assert await write(handle, OBJ, 0)
    cache.break_reads(OBJ, 0)
    with pytest.raises(CacheError):
        await check(handle, OBJ, 0)
    assert not handle.has(0)
    cache.refuse_writes = True
    assert not await write(handle, OBJ, 0)
    cache.refuse_writes = False
    assert await write(handle, OBJ, 0)
    handle.close()


async def test_gates_hold_calls_until_opened() -> None:
    cache = MemoryBlockCache(block_bytes=BLOCK_BYTES)
    handle = await cache.open_object(OBJ)
    cache.write_gate, cache.read_gate = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, handle, OBJ, 0)
        await trio.testing.wait_all_tasks_blocked()
        assert (len(cache.writes), handle.has(0)) == (1, False)
        cache.write_gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert handle.has(0)
        nursery.start_soon(check, handle, OBJ, 0)
        await trio.testing.wait_all_tasks_blocked()
        assert (len(cache.reads), cache.statistics().blocks_read) == (1, 0)
        cache.read_gate.set()
    assert cache.statistics().blocks_read == 1
    handle.close()
