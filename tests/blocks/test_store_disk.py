"""The block store over a disk cache: what it has is not fetched, what was fetched goes there."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.blocks.writes import PATIENCE_S
from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.core.types import Extent, Priority
from tigrismount.errors import ObjectUnavailableError

from .conftest import KIB, pattern

BLOCK = 64 * KIB


def _disk() -> MemoryBlockCache:
    return MemoryBlockCache(block_bytes=BLOCK)


async def test_complete_blocks_go_to_disk_once(client, open_store) -> None:
    data, disk = pattern(3 * BLOCK + 7), _disk()
    obj = client.put("a", data)
    async with open_store(cache=disk) as store:
        await store.read(obj, 0, len(data))
        await store.read(obj, 0, len(data))
        await wait_all_tasks_blocked()
    assert sorted(disk.writes) == [(obj, i) for i in range(4)]
    assert b"".join(disk.block(obj, i) or b"" for i in range(4)) == data


async def test_a_restart_fetches_nothing_again(client, open_store) -> None:
    data, disk = pattern(3 * BLOCK + 7), _disk()
    obj = client.put("a", data)
    async with open_store(cache=disk) as store:
        await store.read(obj, 0, len(data))
        await wait_all_tasks_blocked()
    client.requests.clear()
    async with open_store(cache=disk) as store:
        store.plan(obj, [Extent(0, len(data))], Priority.READAHEAD)
        assert bytes(await store.read(obj, 0, len(data))) == data
        assert store.statistics().bytes_from_disk == len(data)
    assert client.requests == []


async def test_a_corrupt_block_is_fetched_again_and_never_served(client, open_store) -> None:
    data, disk = pattern(2 * BLOCK), _disk()
    obj = client.put("a", data)
    for index in (0, 1):
        disk.put(obj, index, data[index * BLOCK : (index + 1) * BLOCK])
    disk.corrupt(obj, 0)
    disk.break_reads(obj, 1)
    async with open_store(cache=disk) as store:
        assert bytes(await store.read(obj, 0, len(data))) == data
        await wait_all_tasks_blocked()
    assert sorted(client.requests) == [("GET", "a", 0, BLOCK), ("GET", "a", BLOCK, 2 * BLOCK)]
    assert store.statistics().raced_bytes == 0, "the disk answered"
    assert disk.block(obj, 0) == data[:BLOCK]


async def test_a_full_disk_costs_nothing_but_the_cache(client, open_store) -> None:
    data, disk = pattern(4 * BLOCK), _disk()
    disk.refuse_writes = True
    obj = client.put("a", data)
    async with open_store(cache=disk) as store:
        assert bytes(await store.read(obj, 0, len(data))) == data
        await wait_all_tasks_blocked()
        assert store.statistics().flights == 0


async def test_reads_do_not_wait_for_the_disk_to_take_a_block(client, open_store) -> None:
    data, disk = pattern(16 * BLOCK), _disk()
    disk.write_gate = trio.Event()
    obj = client.put("a", data)
    async with open_store(cache=disk) as store:
        with trio.fail_after(30):
            assert bytes(await store.read(obj, 0, len(data))) == data


async def test_a_disk_that_takes_nothing_gives_its_memory_to_reads(client, open_store) -> None:
    """Sixteen blocks through the memory of four. Mutation: without ``give_way`` the fifth waits for ever."""
    data, disk = pattern(16 * BLOCK), _disk()
    disk.write_gate = trio.Event()
    obj = client.put("a", data)
    async with open_store(cache=disk, memory_limit_bytes=4 * BLOCK) as store:
        with trio.fail_after(30):
            for start in range(0, len(data), BLOCK):
                assert bytes(await store.read(obj, start, start + BLOCK)) == data[start : start + BLOCK]
        disk.write_gate.set()
        await wait_all_tasks_blocked()
        store.check_invariants()


async def test_a_disk_that_takes_nothing_gives_its_memory_to_plans(client, open_store, autojump_clock) -> None:
    """What was read whole and still waits for the disk makes way for what is read next; what was not read stays."""
    data, disk = pattern(16 * BLOCK), _disk()
    disk.write_gate = trio.Event()
    obj = client.put("a", data)
    async with open_store(cache=disk, memory_limit_bytes=8 * BLOCK) as store:
        store.retain(obj)
        for index in range(16):
            store.plan(obj, [Extent(index * BLOCK, len(data))], Priority.PREFETCH)
            await trio.sleep(PATIENCE_S)
            view = store.try_read(obj, index * BLOCK, (index + 1) * BLOCK)
            assert view is not None, index
            assert bytes(view) == data[index * BLOCK : (index + 1) * BLOCK]
            del view
        assert sum(stop - start for _, _, start, stop in client.requests) == len(data)
        store.release(obj)


async def test_a_disk_that_needs_a_moment_is_waited_for(client, open_store, autojump_clock) -> None:
    """Memory is short while the disk takes each block within a tenth of a second: everything is cached."""
    data, disk = pattern(16 * BLOCK), _disk()
    disk.write_gate = trio.Event()
    obj = client.put("a", data)

    async def take_one_by_one() -> None:
        while True:
            gate, disk.write_gate = disk.write_gate, trio.Event()
            gate.set()
            await trio.sleep(PATIENCE_S / 5)

    async with open_store(cache=disk, memory_limit_bytes=4 * BLOCK) as store, trio.open_nursery() as nursery:
        nursery.start_soon(take_one_by_one)
        store.retain(obj)
        for start in range(0, len(data), BLOCK):
            assert bytes(await store.read(obj, start, start + BLOCK)) == data[start : start + BLOCK]
        await store.drain()
        assert (disk.statistics().blocks_written, len(client.requests)) == (16, 16)
        store.release(obj)
        nursery.cancel_scope.cancel()


async def test_a_version_cached_with_another_block_size_is_read_in_that_size(client, open_store) -> None:
    data, disk = pattern(6 * BLOCK), MemoryBlockCache(block_bytes=2 * BLOCK)
    obj = client.put("a", data)
    disk.put(obj, 1, data[2 * BLOCK : 4 * BLOCK])
    async with open_store(cache=disk) as store:
        store.plan(obj, [Extent(0, len(data))], Priority.READAHEAD)
        assert bytes(await store.read(obj, 0, len(data))) == data
    fetched = [(start, stop) for _, _, start, stop in client.requests]
    assert all(stop <= 2 * BLOCK or start >= 4 * BLOCK for start, stop in fetched), fetched


async def test_an_open_version_is_pinned_and_a_closed_one_is_not(client, open_store) -> None:
    data = pattern(4 * BLOCK)
    disk = MemoryBlockCache(block_bytes=BLOCK, capacity_bytes=4 * BLOCK)
    first, second = client.put("a", data), client.put("b", data)
    async with open_store(cache=disk) as store:
        store.retain(first)
        await store.read(first, 0, len(data))
        await wait_all_tasks_blocked()
        await store.read(second, 0, len(data))
        await wait_all_tasks_blocked()
        assert [disk.block(first, i) is not None for i in range(4)] == [True] * 4, "open: stays"
        assert disk.block(second, 0) is None
        store.release(first)
        await store.read(second, 0, 10)
        third = client.put("c", data)
        await store.read(third, 0, len(data))
        await wait_all_tasks_blocked()
        assert disk.block(third, 0) == data[:BLOCK], "closed: made room"


async def test_spent_blocks_give_their_memory_to_the_next_ones(client, open_store) -> None:
    data, disk = pattern(64 * BLOCK), _disk()
    obj = client.put("a", data)
    async with open_store(cache=disk, spent_bytes=2 * BLOCK) as store:
        for start in range(0, len(data), BLOCK):
            assert bytes(await store.read(obj, start, start + BLOCK)) == data[start : start + BLOCK]
            await wait_all_tasks_blocked()
        assert store.statistics().memory_used_bytes <= 5 * BLOCK, "far below the limit, which all of it would fit"
    assert client.statistics().bytes_fetched == len(data)


async def test_the_disk_may_evict_a_version_as_soon_as_its_last_block_is_written(client, open_store) -> None:
    data, disk = pattern(BLOCK), MemoryBlockCache(block_bytes=BLOCK, capacity_bytes=BLOCK)
    first, second = client.put("a", data), client.put("b", data[::-1])
    async with open_store(cache=disk) as store:
        for obj in (first, second):
            await store.read(obj, 0, BLOCK)
            await wait_all_tasks_blocked()
    assert disk.block(second, 0) == data[::-1], "the first one, closed by then, made room"


async def test_a_plan_for_a_closed_version_in_memory_is_fetched(client, open_store) -> None:
    data, disk = pattern(2 * BLOCK), _disk()
    obj = client.put("a", data)
    async with open_store(cache=disk) as store:
        await store.read(obj, 0, BLOCK)
        await wait_all_tasks_blocked()
        store.plan(obj, [Extent(0, len(data))], Priority.READAHEAD)
        await wait_all_tasks_blocked()
        assert bytes(store.try_read(obj, BLOCK, 2 * BLOCK) or b"") == data[BLOCK:]
        store.check_idle()


async def test_versions_whose_blocks_have_left_memory_are_forgotten(client, open_store) -> None:
    objs = [client.put(f"o{i}", pattern(BLOCK, i)) for i in range(20)]
    async with open_store(cache=_disk(), memory_limit_bytes=4 * BLOCK) as store:
        for obj in objs:
            await store.read(obj, 0, BLOCK)
            await wait_all_tasks_blocked()
        assert store.statistics().objects <= 4


async def test_draining_waits_for_the_disk(client, open_store) -> None:
    data, disk = pattern(4 * BLOCK), _disk()
    disk.write_gate = trio.Event()
    obj = client.put("a", data)
    async with open_store(cache=disk) as store:
        await store.drain()
        await store.read(obj, 0, len(data))
        with trio.move_on_after(0) as scope:
            await store.drain()
        assert scope.cancelled_caught
        disk.write_gate.set()
        with trio.fail_after(30):
            await store.drain()
        assert [disk.block(obj, i) is not None for i in range(4)] == [True] * 4


# --- filling the disk cache for nobody


async def test_a_filled_block_is_on_disk_and_not_in_memory(client, open_store):
    data = pattern(3 * BLOCK - 5)
    obj, cache = client.put("key", data), _disk()
    async with open_store(cache=cache) as store:
        assert await store.fill(obj, 2)
        assert cache.block(obj, 2) == data[2 * BLOCK :]
        assert store.statistics().memory_used_bytes == 0
        assert client.requests == [("GET", "key", 2 * BLOCK, len(data))]
        assert await store.fill(obj, 2), "a second time it is there"
        assert len(client.requests) == 1
        store.check_idle()


async def test_a_block_that_a_version_has_not_got_any_more_keeps_nobody_waiting(client, open_store):
    """Mutation: who warms a version that was evicted, and begun anew in larger blocks, waits for ever."""
    obj = client.put("key", pattern(3 * BLOCK))
    async with open_store(cache=_disk()) as store:
        with trio.fail_after(5):
            assert await store.fill(obj, 3)
        assert not client.requests
        store.check_idle()


async def test_filling_and_reading_one_block_share_a_flight_and_the_reader_keeps_it_in_memory(client, open_store):
    data = pattern(BLOCK)
    obj, cache = client.put("key", data), _disk()
    gate = client.hold("GET", after_bytes=4096)
    found = []
    async with open_store(cache=cache) as store, trio.open_nursery() as nursery:

        async def read() -> None:
            found.append(bytes(await store.read(obj, 0, BLOCK, Priority.DEMAND)))

        nursery.start_soon(store.fill, obj, 0)
        await wait_all_tasks_blocked()
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        assert found == [data]
        assert len(client.requests) == 1
        assert cache.block(obj, 0) == data
        assert store.try_read(obj, 0, BLOCK) == data


async def test_a_block_that_the_disk_refused_is_offered_again_without_being_fetched_again(client, open_store):
    data = pattern(BLOCK)
    obj, cache = client.put("key", data), _disk()
    cache.refuse_writes = True
    async with open_store(cache=cache) as store:
        await store.read(obj, 0, BLOCK, Priority.DEMAND)
        assert not await store.fill(obj, 0)
        cache.refuse_writes = False
        assert await store.fill(obj, 0)
        assert len(client.requests) == 1


async def test_filling_waits_until_the_disk_has_the_block(client, open_store):
    obj, cache = client.put("key", pattern(BLOCK)), _disk()
    cache.write_gate = trio.Event()
    filled = []
    async with open_store(cache=cache) as store, trio.open_nursery() as nursery:

        async def fill() -> None:
            filled.append(await store.fill(obj, 0))

        nursery.start_soon(fill)
        await wait_all_tasks_blocked()
        assert filled == []
        cache.write_gate.set()
        await wait_all_tasks_blocked()
        assert filled == [True]


async def test_without_a_disk_cache_nothing_is_filled_and_filling_says_so(client, open_store):
    obj = client.put("key", pattern(BLOCK))
    async with open_store() as store:
        assert not await store.fill(obj, 0)


async def test_filling_raises_what_the_store_says(client, open_store):
    obj, cache = client.put("key", pattern(BLOCK)), _disk()
    client.fail(ObjectUnavailableError("gone"))
    async with open_store(cache=cache) as store:
        with pytest.raises(ObjectUnavailableError):
            await store.fill(obj, 0)
        assert await store.fill(obj, 0)
        store.check_idle()


async def test_a_disk_that_hangs_is_not_waited_for(client, open_store, autojump_clock) -> None:
    """Its blocks are fetched into other memory, and it is asked again once it has answered.

    Mutations: without the bound this never ends; without ``exchange`` the late read overwrites what was fetched.
    """
    data, disk = pattern(4 * BLOCK), _disk()
    obj = client.put("a", data)
    for index in range(4):
        disk.put(obj, index, bytes(BLOCK))  # other bytes, so that it shows where they go
    disk.read_gate = trio.Event()
    async with open_store(cache=disk, disk_concurrency=2) as store:
        async with trio.open_nursery() as nursery:
            for index in (0, 1):
                nursery.start_soon(store.read, obj, index * BLOCK, (index + 1) * BLOCK)
        assert trio.current_time() < 3
        assert bytes(await store.read(obj, 0, len(data))) == data
        assert (len(disk.reads), len(client.requests)) == (2, 4)
        assert trio.current_time() < 3, "only the first ones waited"
        assert store.statistics().raced_bytes == len(data)
        store.check_invariants()
        disk.read_gate.set()
        await wait_all_tasks_blocked()
        store.check_invariants()
        assert store.statistics().memory_used_bytes == len(data)
        assert bytes(await store.read(obj, 0, len(data))) == data
        other = client.put("b", data)
        disk.put(other, 0, data[:BLOCK])
        assert bytes(await store.read(other, 0, BLOCK)) == data[:BLOCK]
        assert len(client.requests) == 4, "the disk is asked again"


async def test_a_disk_that_hangs_gives_its_block_after_all_where_the_store_does_not(
    client, open_store, autojump_clock
) -> None:
    """Mutations: without ``take`` the reader waits for the store for ever; without the copy it gets zeros."""
    data, disk = pattern(BLOCK), _disk()
    obj = client.put("a", data)
    disk.put(obj, 0, data)
    disk.read_gate = trio.Event()
    client.hold("GET")
    async with open_store(cache=disk) as store, trio.open_nursery() as nursery:
        found = []

        async def read() -> None:
            found.append(bytes(await store.read(obj, 0, BLOCK)))

        nursery.start_soon(read)
        await trio.sleep(10)
        assert (found, len(client.requests)) == ([], 1)
        disk.read_gate.set()
        await wait_all_tasks_blocked()
        assert found == [data]
        assert store.statistics().bytes_from_disk == BLOCK
        store.check_invariants()
        store.check_idle()


async def test_a_disk_slower_than_the_store_is_not_waited_for(client, open_store, autojump_clock) -> None:
    """Four blocks tell how slow it is; then both are asked, and it is trusted again when it is quick.

    Mutation: with the patience for a disk that hangs, all twelve take a second each.
    """
    data, disk = pattern(32 * BLOCK), _disk()
    obj = client.put("a", data)
    for index in range(32):
        disk.put(obj, index, data[index * BLOCK : (index + 1) * BLOCK])

    async def answer_every(wait_s: float, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            while True:
                gate = disk.read_gate = trio.Event()
                while not gate.statistics().tasks_waiting:  # noqa: ASYNC110 -- the cache does not tell of its readers
                    await trio.sleep(wait_s / 100)
                await trio.sleep(wait_s)
                gate.set()

    async def read(store, index: int) -> float:
        began_s = trio.current_time()
        start = index * BLOCK
        assert bytes(await store.read(obj, start, start + BLOCK)) == data[start : start + BLOCK]
        return trio.current_time() - began_s

    async with open_store(cache=disk, disk_concurrency=1) as store, trio.open_nursery() as nursery:
        slow = await nursery.start(answer_every, 1.5)
        took_s = [await read(store, index) for index in range(12)]
        assert all(one_s > 0.9 for one_s in took_s[:4])
        assert all(one_s < 0.1 for one_s in took_s[4:]), took_s
        assert "takes 1.5 s for a block" in store.degraded
        slow.cancel()
        disk.read_gate.set()
        disk.read_gate = None
        before = len(client.requests)
        for index in range(12, 32):
            await read(store, index)
            await wait_all_tasks_blocked()
        assert store.degraded == ""
        assert len(client.requests) - before <= 8, "the store is left alone again"
        store.check_invariants()


async def test_a_drive_that_hangs_keeps_no_reader_of_another_one(client, open_store, autojump_clock) -> None:
    """Mutations: with one count of what hangs, and with one set of slots, the good drive is not read."""
    data, disk = pattern(4 * BLOCK), _disk()
    bad, good, both = (client.put(key, data) for key in ("bad/a", "good/b", "good/c"))
    disk.drive_of = lambda obj: obj.key.partition("/")[0]
    for obj in (bad, good, both):
        for index in range(4):
            disk.put(obj, index, data[index * BLOCK : (index + 1) * BLOCK])
    disk.read_gate, disk.hanging_drive = trio.Event(), "bad"
    async with open_store(cache=disk, disk_concurrency=2) as store:
        async with trio.open_nursery() as nursery:
            store.plan(bad, [Extent(0, 2 * BLOCK)], Priority.READAHEAD)
            nursery.start_soon(store.read, bad, 2 * BLOCK, 3 * BLOCK)
            nursery.start_soon(store.read, bad, 3 * BLOCK, 4 * BLOCK)
            await wait_all_tasks_blocked()
            assert store.statistics().disk_flights == 3, "all that it may have, and that of who waits"
            assert bytes(await store.read(good, 0, len(data))) == data
            assert trio.current_time() == 0
            store.check_invariants()
        assert trio.current_time() > 0, "who reads from the bad drive waits, and fetches"
        assert {request[1] for request in client.requests} == {"bad/a"}
        disk.reads.clear()
        assert bytes(await store.read(both, 0, len(data))) == data
        assert bytes(await store.read(bad, 0, len(data))) == data
        assert {obj for obj, _ in disk.reads} == {both}, "and what hangs is not asked again"
        store.check_invariants()
        disk.read_gate.set()
        await wait_all_tasks_blocked()
        store.check_invariants()


async def test_a_disk_that_hangs_is_waited_for_where_there_is_no_other_memory(
    client, open_store, autojump_clock
) -> None:
    """Mutation: where ``exchange`` takes what is not there, the budget does not hold."""
    data, disk = pattern(2 * BLOCK), _disk()
    obj = client.put("a", data)
    for index in (0, 1):
        disk.put(obj, index, data[index * BLOCK : (index + 1) * BLOCK])
    disk.read_gate = trio.Event()
    async with open_store(cache=disk, memory_limit_bytes=2 * BLOCK) as store, trio.open_nursery() as nursery:
        for index in (0, 1):
            nursery.start_soon(store.read, obj, index * BLOCK, (index + 1) * BLOCK)
        await trio.sleep(60)
        store.check_invariants()
        disk.read_gate.set()
    assert client.requests == []
