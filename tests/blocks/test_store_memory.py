"""The block store with hardly any memory: who waits for memory gets it, whoever else waits."""

from __future__ import annotations

import contextlib
import errno
import os

import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.blocks.memory import DISK_TURNS, MEMORY_TURNS, TURN_S
from tigrismount.blocks.store import BlockStore
from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.core.types import Extent, ObjectId, Priority
from tigrismount.errors import ObjectUnavailableError

from .conftest import KIB, pattern

BLOCK = 64 * KIB


async def _check(store: BlockStore, obj: ObjectId, data: bytes, start: int, stop: int) -> None:
    assert bytes(await store.read(obj, start, stop)) == data[start:stop]


def _no_memory(_size: int) -> memoryview:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


async def test_more_random_readers_than_blocks_are_all_served(client, open_store, autojump_clock) -> None:
    """The heads that follow demand parts queue behind parts without memory, in the very blocks that have it all."""
    data = pattern(20 * BLOCK)
    obj = client.put("a", data)
    gate = client.hold("GET")
    async with open_store(memory_limit_bytes=4 * BLOCK, concurrency=1) as store:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for i in range(20):
                    start = i * BLOCK + BLOCK // 2
                    nursery.start_soon(_check, store, obj, data, start, start + 100)
                await wait_all_tasks_blocked()
                gate.set()
        await trio.sleep(1)
        store.check_idle()


async def test_reads_across_blocks_do_not_hold_what_each_other_waits_for(client, open_store, autojump_clock) -> None:
    data = pattern(4 * BLOCK)
    objs = [client.put(f"o{i}", data) for i in range(4)]
    gate = client.hold("GET")
    async with open_store(memory_limit_bytes=2 * BLOCK) as store:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for obj in objs:  # the second block of each is on its way before the first one is asked for
                    nursery.start_soon(_check, store, obj, data, BLOCK, BLOCK + 10)
                await wait_all_tasks_blocked()
                for obj in objs:
                    nursery.start_soon(_check, store, obj, data, BLOCK - 10, BLOCK + 10)
                await wait_all_tasks_blocked()
                gate.set()
        await trio.sleep(1)
        store.check_idle()


async def test_a_read_without_hurry_may_use_all_memory(client, open_store, autojump_clock) -> None:
    data = pattern(2 * BLOCK)
    obj = client.put("a", data)
    async with open_store(memory_limit_bytes=BLOCK) as store:
        with trio.fail_after(60):
            assert bytes(await store.read(obj, 0, 2 * BLOCK, Priority.PREFETCH)) == data


async def test_a_version_cached_in_blocks_larger_than_memory_is_fetched(client, open_store, autojump_clock) -> None:
    data, disk = pattern(20 * BLOCK), MemoryBlockCache(block_bytes=16 * BLOCK)
    obj = client.put("a", data)
    disk.put(obj, 0, data[: 16 * BLOCK])
    async with open_store(cache=disk, memory_limit_bytes=8 * BLOCK) as store:
        with trio.fail_after(60):
            await _check(store, obj, data, 3 * BLOCK, 5 * BLOCK)


async def test_an_abandoned_read_takes_back_what_it_had_queued(client, open_store) -> None:
    obj = client.put("a", pattern(8 * BLOCK))
    gate = client.hold("GET")
    async with open_store(concurrency=1) as store, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_blocked, scope)
            await store.read(obj, 0, 8 * BLOCK)
        started = len(client.requests)
        assert started < 8
        assert store.statistics().queued == 0
        gate.set()
        await wait_all_tasks_blocked()
    assert len(client.requests) == started


async def test_a_plan_fetches_only_what_a_block_lacks(client, open_store) -> None:
    """The tail of a block is there, its head is not: the head alone is fetched, and the next block by itself."""
    data = pattern(2 * BLOCK)
    obj = client.put("a", data)
    gate = client.hold("GET", after_bytes=1)
    async with open_store(concurrency=1) as store, trio.open_nursery() as nursery:
        nursery.start_soon(_check, store, obj, data, BLOCK // 2, BLOCK)
        await wait_all_tasks_blocked()
        store._flights.stop_speculation(store._states[obj])  # as a failure elsewhere in the object does
        gate.set()
        await wait_all_tasks_blocked()
        store.plan(obj, [Extent(0, 2 * BLOCK)], Priority.READAHEAD)
        await wait_all_tasks_blocked()
    ranges = [(start, stop) for _, _, start, stop in client.requests]
    assert ranges == [(BLOCK // 2, BLOCK), (0, BLOCK // 2), (BLOCK, 2 * BLOCK)]


async def test_what_lies_outside_the_object_or_is_empty_plans_nothing(client, open_store) -> None:
    obj = client.put("a", pattern(100))
    async with open_store() as store:
        store.plan(obj, [Extent(200, 300), Extent(5, 5)], Priority.READAHEAD)
        await wait_all_tasks_blocked()
        store.check_idle()
    assert client.requests == []


async def test_a_plan_outlives_the_news_that_the_disk_counts_in_other_blocks(client, open_store) -> None:
    data, disk = pattern(8 * BLOCK), MemoryBlockCache(block_bytes=2 * BLOCK)
    obj = client.put("a", data)
    async with open_store(cache=disk) as store:
        store.plan(obj, [Extent(3 * BLOCK, 5 * BLOCK)], Priority.READAHEAD)
        await wait_all_tasks_blocked()
    assert client.requests == [("GET", "a", 2 * BLOCK, 6 * BLOCK)]


async def test_evicting_a_block_with_queued_parts_lets_its_version_go(client, open_store) -> None:
    data = pattern(2 * BLOCK)
    obj, other, slow = (client.put(key, data) for key in "abc")
    gate = client.hold("GET", "c")
    disk = MemoryBlockCache(block_bytes=BLOCK)
    async with open_store(cache=disk, memory_limit_bytes=3 * BLOCK, concurrency=1) as store:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.read, slow, 0, 10, Priority.PREFETCH)  # takes the only flight but demand's
            await wait_all_tasks_blocked()
            await _check(store, obj, data, BLOCK // 2, BLOCK)
            assert store.statistics().queued == 1, "the head"
            await _check(store, obj, data, BLOCK, 2 * BLOCK)
            await wait_all_tasks_blocked()
            await _check(store, other, data, 0, BLOCK)
            assert store.statistics().queued == 0
            gate.set()
        await wait_all_tasks_blocked()
        store.check_idle()


async def test_a_read_without_hurry_survives_the_failure_of_another_one(client, open_store, autojump_clock) -> None:
    data = pattern(2 * BLOCK)
    obj = client.put("a", data)
    client.fail(ObjectUnavailableError("broken"))
    got: list[bytes] = []

    async def reader(start: int) -> None:
        with contextlib.suppress(ObjectUnavailableError):
            got.append(bytes(await store.read(obj, start, start + BLOCK, Priority.PREFETCH)))

    async with open_store(concurrency=1) as store:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader, 0)
                nursery.start_soon(reader, BLOCK)
    assert len(got) == 1
    assert len(client.requests) == 2


async def _read_all(store: BlockStore, obj: ObjectId, data: bytes) -> None:
    for start in range(0, len(data), BLOCK):
        await _check(store, obj, data, start, min(start + BLOCK, len(data)))
    await store.drain()


async def test_memory_of_an_open_file_that_nobody_reads_goes_back_where_the_disk_has_it(
    client, open_store, autojump_clock
) -> None:
    data, disk = pattern(8 * BLOCK), MemoryBlockCache(block_bytes=BLOCK)
    obj = client.put("a", data)
    async with open_store(cache=disk) as store:
        store.retain(obj)
        await _read_all(store, obj, data)
        await trio.sleep(TURN_S * DISK_TURNS - 1)
        assert store.statistics().memory_used_bytes == 8 * BLOCK
        await trio.sleep(3 * TURN_S)
        assert store.statistics().memory_held_bytes == 0
        await _read_all(store, obj, data)
        assert len(client.requests) == 8, "the disk has it"
        store.check_invariants()
        store.release(obj)


async def test_memory_that_only_the_store_could_fill_again_goes_back_later(client, open_store, autojump_clock) -> None:
    data = pattern(8 * BLOCK)
    obj = client.put("a", data)
    async with open_store() as store:
        store.retain(obj)
        await _read_all(store, obj, data)
        await trio.sleep(TURN_S * MEMORY_TURNS - 1)
        await _check(store, obj, data, 0, 10)  # this one is used
        assert store.statistics().memory_used_bytes == 8 * BLOCK
        await trio.sleep(3 * TURN_S)
        assert store.statistics().memory_held_bytes == BLOCK
        await trio.sleep(TURN_S * MEMORY_TURNS)
        assert store.statistics().memory_held_bytes == 0
        await _read_all(store, obj, data)
        assert len(client.requests) == 16
        store.check_invariants()
        store.release(obj)


async def test_what_a_plan_wants_of_a_loader_that_pauses_stays(client, open_store, autojump_clock) -> None:
    data = pattern(8 * BLOCK)
    obj = client.put("a", data)
    async with open_store() as store:
        store.retain(obj)
        store.plan(obj, [Extent(0, 8 * BLOCK)], Priority.READAHEAD)
        await trio.sleep(2 * TURN_S * MEMORY_TURNS)
        assert store.statistics().memory_used_bytes == 8 * BLOCK
        await _read_all(store, obj, data)
        assert sum(stop - start for _, _, start, stop in client.requests) == 8 * BLOCK
        store.plan(obj, [], Priority.READAHEAD)
        store.release(obj)


async def test_buffers_that_were_free_for_a_while_are_not_kept(client, open_store, autojump_clock) -> None:
    data, disk = pattern(8 * BLOCK), MemoryBlockCache(block_bytes=BLOCK)
    obj = client.put("a", data)
    async with open_store(cache=disk, memory_limit_bytes=8 * BLOCK) as store:
        await _read_all(store, obj, data)
        assert store.forget(obj)
        assert store.statistics().memory_held_bytes == 8 * BLOCK, "for reuse, at once"
        await trio.sleep(TURN_S)
        await _check(store, obj, data, 0, 10)
        await trio.sleep(2 * TURN_S)
        assert store.statistics().memory_held_bytes == BLOCK


async def test_a_read_that_the_kernel_had_no_memory_for_goes_on_once_it_has_some(
    client, open_store, autojump_clock
) -> None:
    """As with a limit of addresses, or where no more is promised than there is, and others have all of it for a moment.

    Mutation: nobody looks again but who reads, and who reads waits: it fails with its deadline, five minutes later.
    """
    data = pattern(BLOCK)
    obj = client.put("a", data)
    async with open_store() as store:
        pool = store._memory.pool
        map_pages, pool._map_pages = pool._map_pages, _no_memory
        with trio.fail_after(2 * TURN_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_check, store, obj, data, 0, 10)
                await trio.sleep(1)
                assert client.requests == []
                pool._map_pages = map_pages
        await trio.sleep(1)
        store.check_idle()
