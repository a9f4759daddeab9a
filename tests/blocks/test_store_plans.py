"""Plans in the block store: which goes first, what is cut when it is withdrawn, and what fills the disk cache."""

from __future__ import annotations

import mmap

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.blocks import flights
from tigrismount.blocks.buffers import BufferPool
from tigrismount.blocks.memory import TURN_S
from tigrismount.blocks.options import BlocksConfig
from tigrismount.blocks.store import BlockStore
from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.cache.none import NoCache
from tigrismount.core.types import Extent, Priority

from .conftest import KIB, pattern, running

BLOCK = 64 * KIB


async def test_what_is_planned_for_later_waits_for_every_other_plan(client, open_store) -> None:
    first, second = (client.put(key, pattern(4 * BLOCK)) for key in "ab")
    gate = client.hold("GET")
    async with open_store(part_bytes=BLOCK, concurrency=1) as store:
        store.plan(second, [Extent(0, 4 * BLOCK)], Priority.LATER)
        store.plan(first, [Extent(0, 4 * BLOCK)], Priority.PREFETCH)
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
    keys = "".join(key for _, key, _, _ in client.requests)
    assert keys in ("aaaabbbb", "baaaabbb"), "whichever version the disk cache knew first had the free flight"


async def test_withdrawing_a_plan_cuts_what_flies_for_nobody(client, open_store) -> None:
    obj = client.put("a", pattern(8 * BLOCK))
    client.hold("GET", after_bytes=BLOCK // 4)
    async with open_store(part_bytes=BLOCK) as store:
        store.plan(obj, [Extent(0, 8 * BLOCK)], Priority.PREFETCH)
        await wait_all_tasks_blocked()
        assert client.in_flight == 8
        store.plan(obj, (), Priority.PREFETCH, cut=True)
        await wait_all_tasks_blocked()
        assert (client.in_flight, store.statistics().cut_parts) == (0, 8)
        assert store.try_read(obj, BLOCK, BLOCK + BLOCK // 4) is not None, "what has arrived is not thrown away"
        store.check_idle()


async def test_withdrawing_a_plan_cuts_every_part_of_a_block(client, open_store) -> None:
    """Mutation: where only a block's first part counts as planned, the others are fetched to their end for nobody."""
    obj = client.put("a", pattern(4 * BLOCK))
    gate = client.hold("GET")
    async with open_store(part_bytes=BLOCK // 4, concurrency=6) as store:
        store.retain(obj)
        store.plan(obj, [Extent(0, 4 * BLOCK)], Priority.PREFETCH)
        await wait_all_tasks_blocked()
        assert client.in_flight == 6
        store.plan(obj, (), Priority.PREFETCH, cut=True)
        await wait_all_tasks_blocked()
        store.check_invariants()
        assert (client.in_flight, store.statistics().queued) == (0, 0)
        gate.set()
        await wait_all_tasks_blocked()
        assert len(client.requests) == 6
        store.release(obj)


async def test_a_flight_with_a_waiting_reader_is_never_cut(client, open_store) -> None:
    data = pattern(3 * BLOCK)
    obj = client.put("a", data)
    gate = client.hold("GET", after_bytes=BLOCK // 4)
    got: list[bytes] = []
    async with open_store(part_bytes=BLOCK) as store, trio.open_nursery() as nursery:
        store.plan(obj, [Extent(0, 3 * BLOCK)], Priority.PREFETCH)
        await wait_all_tasks_blocked()

        async def reader() -> None:
            got.append(bytes(await store.read(obj, BLOCK, 2 * BLOCK)))

        nursery.start_soon(reader)
        await wait_all_tasks_blocked()
        store.plan(obj, (), Priority.PREFETCH, cut=True)
        await wait_all_tasks_blocked()
        assert client.in_flight == 1
        gate.set()
    assert got == [data[BLOCK : 2 * BLOCK]]
    assert len(client.requests) == 3


async def test_a_cut_keeps_what_the_new_plan_still_wants(client, open_store) -> None:
    obj = client.put("a", pattern(4 * BLOCK))
    gate = client.hold("GET")
    async with open_store(part_bytes=BLOCK) as store:
        store.plan(obj, [Extent(0, 4 * BLOCK)], Priority.PREFETCH)
        await wait_all_tasks_blocked()
        store.plan(obj, [Extent(0, BLOCK)], Priority.LATER, cut=True)
        await wait_all_tasks_blocked()
        assert client.in_flight == 1
        gate.set()
        await wait_all_tasks_blocked()
        assert store.try_read(obj, 0, BLOCK) is not None


async def test_the_rest_of_a_file_goes_to_the_disk_and_leaves_memory_alone(client, open_store) -> None:
    data, disk = pattern(40 * BLOCK), MemoryBlockCache(block_bytes=BLOCK)
    obj = client.put("a", data)
    async with open_store(cache=disk, memory_limit_bytes=8 * BLOCK, part_bytes=BLOCK) as store:
        store.plan(obj, [Extent(0, BLOCK)], Priority.PREFETCH, later=[Extent(0, 40 * BLOCK)])
        await wait_all_tasks_blocked()
        assert all(disk.block(obj, index) is not None for index in range(40))
        assert store.statistics().memory_used_bytes <= 4 * BLOCK
        assert store.try_read(obj, 0, BLOCK) is not None, "what is planned is not thrown out for it"
        store.plan(obj, [], Priority.PREFETCH, later=[Extent(0, 40 * BLOCK)])
        await wait_all_tasks_blocked()
    assert client.statistics().bytes_fetched == len(data)


async def test_a_cache_that_refuses_is_not_filled_again_and_again(client, open_store) -> None:
    disk = MemoryBlockCache(block_bytes=BLOCK)
    disk.refuse_writes = True
    obj = client.put("a", pattern(20 * BLOCK))
    async with open_store(cache=disk, memory_limit_bytes=8 * BLOCK, part_bytes=BLOCK) as store:
        for _ in range(5):
            store.plan(obj, [], Priority.PREFETCH, later=[Extent(0, 20 * BLOCK)])
            await wait_all_tasks_blocked()
        store.plan(obj, [], Priority.PREFETCH)
    assert client.statistics().bytes_fetched <= 8 * BLOCK


async def test_what_was_said_of_the_rest_holds_until_more_is_said(client, open_store) -> None:
    """A plan that says nothing of the rest leaves it; what is planned or read meanwhile is not fetched for it again."""
    disk = MemoryBlockCache(block_bytes=BLOCK)
    obj = client.put("a", pattern(20 * BLOCK))
    gate = client.hold("GET")
    async with open_store(cache=disk, memory_limit_bytes=8 * BLOCK, part_bytes=BLOCK, concurrency=1) as store:
        store.plan(obj, [Extent(0, BLOCK)], Priority.PREFETCH, later=[Extent(0, 20 * BLOCK)])
        await wait_all_tasks_blocked()
        store.plan(obj, [Extent(BLOCK, 3 * BLOCK)], Priority.PREFETCH, later=None)
        gate.set()
        await wait_all_tasks_blocked()
        assert all(disk.block(obj, index) is not None for index in range(20))
        starts = [start for _, _, start, _ in client.requests]
        assert starts == [index * BLOCK for index in range(20)]


async def test_nothing_said_of_the_rest_means_nothing_where_nothing_was(client, open_store) -> None:
    obj = client.put("a", pattern(20 * BLOCK))
    async with open_store(cache=MemoryBlockCache(block_bytes=BLOCK), part_bytes=BLOCK) as store:
        store.plan(obj, [], Priority.PREFETCH, later=None)
        store.plan(obj, [Extent(0, BLOCK)], Priority.PREFETCH, later=None)
        await wait_all_tasks_blocked()
    assert client.statistics().bytes_fetched == BLOCK


async def test_what_was_read_and_refused_by_the_disk_is_not_fetched_for_it_again(client, open_store) -> None:
    disk = MemoryBlockCache(block_bytes=BLOCK)
    disk.refuse_writes = True
    obj, other = client.put("a", pattern(20 * BLOCK)), client.put("b", pattern(BLOCK))
    gate = client.hold("GET", "b")
    async with open_store(cache=disk, memory_limit_bytes=4 * BLOCK, part_bytes=BLOCK, concurrency=1) as store:
        store.plan(other, [Extent(0, BLOCK)], Priority.PREFETCH)  # nothing is fetched but for readers
        await wait_all_tasks_blocked()
        store.plan(obj, [], Priority.PREFETCH, later=[Extent(0, 12 * BLOCK)])
        for index in reversed(range(12)):  # each pushes an earlier one out of memory
            await store.read(obj, index * BLOCK, (index + 1) * BLOCK)
            store.plan(obj, [], Priority.PREFETCH, later=None)
        gate.set()
        await wait_all_tasks_blocked()
    assert client.statistics().bytes_fetched == 13 * BLOCK


async def test_the_rest_waits_for_memory_and_is_not_lost_for_want_of_it(client, open_store) -> None:
    disk = MemoryBlockCache(block_bytes=BLOCK)
    obj, other = client.put("a", pattern(8 * BLOCK)), client.put("b", pattern(4 * BLOCK))
    async with open_store(cache=disk, memory_limit_bytes=4 * BLOCK, part_bytes=BLOCK) as store:
        gate = client.hold("GET")
        async with trio.open_nursery() as nursery:
            for index in range(4):  # all of the memory is waited for
                nursery.start_soon(store.read, other, index * BLOCK, (index + 1) * BLOCK)
            await wait_all_tasks_blocked()
            store.plan(obj, [], Priority.PREFETCH, later=[Extent(0, 8 * BLOCK)])
            await wait_all_tasks_blocked()
            gate.set()
        await wait_all_tasks_blocked()
        store.plan(obj, [], Priority.PREFETCH, later=None)
        await wait_all_tasks_blocked()
        assert all(disk.block(obj, index) is not None for index in range(8))


async def test_a_kernel_without_memory_costs_speed_only(client, open_store, caplog) -> None:
    data = pattern(16 * BLOCK)
    obj = client.put("a", data)
    maps = 0

    def poor(size: int) -> memoryview:
        nonlocal maps
        maps += 1
        if maps > 3:
            raise OSError(12, "Cannot allocate memory")
        return memoryview(mmap.mmap(-1, size))

    async with open_store(part_bytes=BLOCK) as store:
        store._memory.pool = BufferPool(16 * BLOCK, poor)
        store.plan(obj, [Extent(0, 16 * BLOCK)], Priority.PREFETCH)
        for index in range(16):
            assert bytes(await store.read(obj, index * BLOCK, (index + 1) * BLOCK)) == data[index * BLOCK :][:BLOCK]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("plans", [10, 40])
async def test_a_pump_without_memory_tries_one_plan_only(client, open_store, plans, monkeypatch) -> None:
    objs = [client.put(f"o{i}", pattern(2 * BLOCK)) for i in range(plans)]
    gate = client.hold("GET")
    async with open_store(memory_limit_bytes=4 * BLOCK, part_bytes=BLOCK) as store:
        for obj in objs:
            store.plan(obj, [Extent(0, 2 * BLOCK)], Priority.PREFETCH)
        await wait_all_tasks_blocked()
        tried = 0
        allocate = store._memory.allocate

        def counting(block: object, *, demand: bool) -> bool:
            nonlocal tried
            tried += 1
            return allocate(block, demand=demand)

        monkeypatch.setattr(store._memory, "allocate", counting)
        store._flights.pump()
        assert tried == 1
        gate.set()


async def test_a_block_that_was_read_of_is_fetched_to_its_end(client, open_store) -> None:
    """So that the disk cache gets it whole: a loader that looks at a header and closes the file comes again."""
    data, disk = pattern(2 * BLOCK), MemoryBlockCache(block_bytes=BLOCK)
    obj = client.put("a", data)
    gate = client.hold("GET", after_bytes=BLOCK // 4)
    async with open_store(cache=disk, part_bytes=BLOCK) as store:
        store.plan(obj, [Extent(0, 2 * BLOCK)], Priority.PREFETCH)
        await wait_all_tasks_blocked()
        assert store.try_read(obj, 0, 4096) is not None
        store.plan(obj, (), Priority.PREFETCH, cut=True)
        gate.set()
        await wait_all_tasks_blocked()
        assert (disk.block(obj, 0) is not None, disk.block(obj, 1) is not None) == (True, False)


async def test_a_reader_does_not_stand_behind_what_the_store_takes_no_more(client, open_store) -> None:
    """Eight GETs are out for nobody when the store asks for two: those that must wait for that make way."""
    data = pattern(16 * BLOCK)
    obj, other = client.put("a", data), client.put("b", data)
    begun = client.hold("GET", "a", after_bytes=1)
    async with open_store(part_bytes=BLOCK, concurrency=8) as store, trio.open_nursery() as nursery:
        store.plan(obj, [Extent(0, 2 * BLOCK)], Priority.READAHEAD)
        await wait_all_tasks_blocked()
        silent = client.hold("GET", "a")
        store.plan(obj, [Extent(0, 16 * BLOCK)], Priority.READAHEAD)
        await wait_all_tasks_blocked()
        assert client.in_flight == 8
        client.get_limit = 2
        assert await store.read(other, 0, 10) == data[:10]
        assert store.statistics().cut_parts == 6, "all that had brought nothing yet; two had"
        assert client.requests[-1][:2] == ("GET", "b"), "and they do not come back at once"
        client.get_limit = 8
        begun.set()
        silent.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    fetched = {(start, stop) for _, key, start, stop in client.requests if key == "a"}
    assert fetched == {(n * BLOCK, (n + 1) * BLOCK) for n in range(16)}, "their plan asks for them again"


async def test_a_block_of_which_a_part_gave_way_is_asked_for_again(client, open_store) -> None:
    """Mutation: who looks at the part alone that gave way finds the others on their way, and nobody looks again."""
    data = pattern(2 * BLOCK)
    obj, other = client.put("a", data), client.put("b", data)
    begun = client.hold("GET", "a", after_bytes=1)
    async with open_store(part_bytes=BLOCK // 4, concurrency=4) as store:
        store.plan(obj, [Extent(0, BLOCK)], Priority.READAHEAD)
        await wait_all_tasks_blocked()
        silent = client.hold("GET", "a")
        store.plan(obj, [Extent(0, 2 * BLOCK)], Priority.READAHEAD)
        begun.set()
        await wait_all_tasks_blocked()
        assert client.in_flight == 4
        client.get_limit = 1
        with trio.fail_after(5):
            assert await store.read(other, 0, 10) == data[:10]
        client.get_limit = 8
        silent.set()
        await wait_all_tasks_blocked()
        assert store.try_read(obj, 0, 2 * BLOCK) == data
        store.check_invariants()


async def test_a_reader_makes_nobody_give_way_while_the_store_takes_what_is_out(client, open_store) -> None:
    data = pattern(16 * BLOCK)
    obj = client.put("a", data)
    gate = client.hold("GET", "a")
    async with open_store(part_bytes=BLOCK, concurrency=4) as store, trio.open_nursery() as nursery:
        store.plan(obj, [Extent(0, 4 * BLOCK)], Priority.READAHEAD)
        for index in range(8, 10):
            nursery.start_soon(store.read, obj, index * BLOCK, index * BLOCK + 10)
        await wait_all_tasks_blocked()
        assert (client.in_flight, store.statistics().queued, store.statistics().cut_parts) == (5, 1, 0)
        gate.set()


async def test_what_no_reader_is_near_gives_way_while_memory_is_short(client) -> None:
    data = pattern(4 * BLOCK)
    near, far = client.put("near", data), client.put("far", data)
    is_short = True
    config = BlocksConfig(block_bytes=BLOCK, part_bytes=BLOCK, memory_limit_bytes=64 * BLOCK, concurrency=8)
    async with running(BlockStore(client, NoCache(BLOCK), config, is_pressed=lambda: is_short)) as store:
        store.plan(far, [Extent(0, 4 * BLOCK)], Priority.PREFETCH)
        store.plan(near, [Extent(0, 2 * BLOCK)], Priority.READAHEAD)
        assert await store.read(near, 3 * BLOCK, 3 * BLOCK + 10) == data[3 * BLOCK : 3 * BLOCK + 10]
        await wait_all_tasks_blocked()
        assert {key for _, key, _, _ in client.requests} == {"near"}
        assert len(client.requests) == 3
        is_short = False
        await store.read(near, 2 * BLOCK, 2 * BLOCK + 10)
        await wait_all_tasks_blocked()
        assert sum(key == "far" for _, key, _, _ in client.requests) == 4, "the next read looks again"


async def test_no_plan_is_looked_at_before_the_disk_was_asked(client, open_store) -> None:
    """Each plan looked at all before it that could not start yet: for 4000 files the event loop stood for 5 s."""
    objects = [client.put(str(number), b"data") for number in range(20)]
    async with open_store() as store:
        looks, launch = [], store._flights._launch_planned
        store._flights._launch_planned = lambda state: looks.append(state) or launch(state)
        for obj in objects:
            store.plan(obj, [Extent(0, 4)], Priority.PREFETCH)
        assert looks == []
        await wait_all_tasks_blocked()
        assert len(client.requests) == 20


async def test_few_plans_are_looked_at_at_once_where_they_wait_for_the_network(client, open_store, monkeypatch) -> None:
    """While a drive has nothing to do every plan may be one for it; a thousand cost milliseconds at each landing."""
    monkeypatch.setattr(flights, "LOOKS_MAX", 4)
    objects = [client.put(str(number), b"data") for number in range(20)]
    gate = client.hold("GET")
    async with open_store(concurrency=1) as store:
        for obj in objects:
            store.plan(obj, [Extent(0, 4)], Priority.PREFETCH)
        await wait_all_tasks_blocked()
        looks, launch = [], store._flights._launch_planned
        store._flights._launch_planned = lambda state: looks.append(state) or launch(state)
        for _ in range(5):
            store._flights.pump()
        assert len(looks) == 5 * 4
        assert len(set(map(id, looks))) == 19, "each has its turn"
        gate.set()
        await wait_all_tasks_blocked()
        assert len(client.requests) == 20


async def test_what_the_disk_alone_wants_and_gave_way_to_a_reader_comes_later(client, open_store) -> None:
    """Mutation: it counts as tried, so that the disk cache never has the file whole."""
    data, disk = pattern(8 * BLOCK), MemoryBlockCache(block_bytes=BLOCK)
    obj, other = client.put("a", data), client.put("b", data)
    silent = client.hold("GET", "a")
    async with open_store(cache=disk, part_bytes=BLOCK, concurrency=8) as store:
        store.retain(obj)
        store.plan(obj, [], Priority.PREFETCH, later=[Extent(0, 8 * BLOCK)])
        await wait_all_tasks_blocked()
        assert client.in_flight == 8
        client.get_limit = 2
        assert await store.read(other, 0, 10) == data[:10]
        assert store.statistics().cut_parts == 6
        client.get_limit = 8
        silent.set()
        await wait_all_tasks_blocked()
        assert all(disk.block(obj, index) is not None for index in range(8))
        store.release(obj)


async def test_what_the_disk_alone_wanted_of_a_file_is_not_fetched_once_it_is_closed(client, open_store) -> None:
    """Mutation: what is cut then is asked for again."""
    disk = MemoryBlockCache(block_bytes=BLOCK)
    obj = client.put("a", pattern(8 * BLOCK))
    gate = client.hold("GET", "a")
    async with open_store(cache=disk, part_bytes=BLOCK, concurrency=4) as store:
        store.retain(obj)
        store.plan(obj, [], Priority.PREFETCH, later=[Extent(0, 8 * BLOCK)])
        await wait_all_tasks_blocked()
        store.plan(obj, [], Priority.PREFETCH, cut=True)
        store.release(obj)
        gate.set()
        await wait_all_tasks_blocked()
        assert (len(client.requests), client.in_flight) == (4, 0)
        store.check_idle()


async def test_what_gave_way_while_memory_was_short_begins_when_it_is_not_any_more(client, autojump_clock) -> None:
    """Mutation: it waits for a read or a flight to end, and there may be none for as long as the mount lives."""
    is_short = True
    obj = client.put("a", pattern(4 * BLOCK))
    config = BlocksConfig(block_bytes=BLOCK, part_bytes=BLOCK, memory_limit_bytes=64 * BLOCK, concurrency=8)
    async with running(BlockStore(client, NoCache(BLOCK), config, is_pressed=lambda: is_short)) as store:
        store.plan(obj, [Extent(0, 4 * BLOCK)], Priority.PREFETCH)
        await trio.sleep(TURN_S - 1)
        assert client.requests == []
        is_short = False
        await trio.sleep(2)
        assert len(client.requests) == 4


@pytest.mark.parametrize("opened_again", ["at once", "later"])
async def test_what_the_disk_alone_wanted_of_a_file_comes_once_its_next_reader_wants_it(
    client, open_store, opened_again
) -> None:
    """Mutations: who opens it again at once has fetched what nobody wants; who does later never has it whole."""
    data, disk = pattern(8 * BLOCK), MemoryBlockCache(block_bytes=BLOCK)
    obj = client.put("a", data)
    async with open_store(cache=disk, part_bytes=BLOCK, concurrency=4) as store:
        store.retain(obj)
        assert await store.read(obj, 0, BLOCK) == data[:BLOCK]
        gate = client.hold("GET", "a")
        store.plan(obj, [], Priority.PREFETCH, later=[Extent(BLOCK, 8 * BLOCK)])
        await wait_all_tasks_blocked()
        store.plan(obj, [], Priority.PREFETCH, cut=True)
        store.release(obj)
        if opened_again == "later":
            await wait_all_tasks_blocked()
        store.retain(obj)
        gate.set()
        await wait_all_tasks_blocked()
        assert (len(client.requests), client.in_flight) == (5, 0)
        store.plan(obj, [], Priority.PREFETCH, later=[Extent(BLOCK, 8 * BLOCK)])
        await wait_all_tasks_blocked()
        assert all(disk.block(obj, index) is not None for index in range(8))
        store.release(obj)
