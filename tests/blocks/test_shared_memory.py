"""The block store over memory that fetch processes see, whose pages can be taken away under a view."""

from __future__ import annotations

import errno
import mmap
import os

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.blocks.buffers import BufferPool
from tigrismount.blocks.options import BlocksConfig
from tigrismount.blocks.store import BlockStore
from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.objects.fetchers.memory import SharedMemory

from .conftest import KIB, pattern, running

BLOCK = 64 * KIB


async def test_bytes_just_read_stay_until_their_reader_had_its_turn(client, autojump_clock) -> None:
    """The memory of what was read goes at once to a block of another size, so its pages go back to the kernel."""
    large, small = pattern(BLOCK, 1), pattern(BLOCK // 2, 2)
    one, other = client.put("a", large), client.put("b", small)
    disk = MemoryBlockCache(block_bytes=BLOCK)
    disk.put(one, 0, large)
    gate = disk.read_gate = trio.Event()
    config = BlocksConfig(block_bytes=BLOCK, memory_limit_bytes=BLOCK, concurrency=8)
    memory = SharedMemory.create(BLOCK)
    got: dict[str, bytes] = {}
    store = BlockStore(client, disk, config, shared=memory)

    async with running(store):
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:

                async def read(name: str, obj) -> None:
                    got[name] = bytes(await store.read(obj, 0, obj.size_bytes))

                nursery.start_soon(read, "a", one)
                await wait_all_tasks_blocked()
                nursery.start_soon(read, "b", other)
                await wait_all_tasks_blocked()
                gate.set()
        assert got == {"a": large, "b": small}
        assert store.statistics().memory_held_bytes == BLOCK // 2


class LargePages:
    """A mapping as a kernel with pages of 64 KiB treats it."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    def madvise(self, advice: int, start: int, length: int) -> None:
        if start % (64 * KIB):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._memory.madvise(advice, start, -(-length // (64 * KIB)) * 64 * KIB)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_pages_larger_than_a_buffer_are_given_back_with_it_alone(gone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on arm64. Mutation: round to 4 KiB, and giving a small buffer back ends the worker (EINVAL), or takes the
    bytes of those that lie in the same page."""
    monkeypatch.setattr(mmap, "PAGESIZE", 64 * KIB)
    memory = SharedMemory.create(1024 * KIB)
    memory._map = LargePages(memory._map)  # type: ignore[assignment]
    pool = BufferPool(1024 * KIB, memory.take, memory.give)
    buffers = [pool.take(60 * KIB), pool.take(2 * KIB), pool.take(2 * KIB)]
    for number, buffer in enumerate(buffers):
        buffer[:] = bytes([number + 1]) * len(buffer)
    pool.give(buffers[gone])
    pool.give_back_surplus()
    pool.give_back_surplus()
    assert pool.held_bytes == pool.used_bytes
    assert all(set(buffer) == {number + 1} for number, buffer in enumerate(buffers) if number != gone)
