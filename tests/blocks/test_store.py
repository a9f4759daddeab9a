"""The block store: single flight, watermarks, errors, plans and the memory budget."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.blocks.options import BlocksConfig
from tigrismount.blocks.store import BlockStore
from tigrismount.cache.none import NoCache
from tigrismount.core.types import Extent, ObjectId, Priority
from tigrismount.errors import ObjectUnavailableError, StaleObjectError
from tigrismount.objects.client import FetchSink
from tigrismount.objects.memory import MemoryObjectClient

from .conftest import KIB, MIB, pattern, running

BLOCK = 64 * KIB


async def test_any_range_is_read_exactly(client, open_store) -> None:
    data = pattern(5 * BLOCK + 17)
    obj = client.put("a", data)
    draw = random.Random(1)
    async with open_store() as store:
        for _ in range(300):
            start, stop = sorted((draw.randrange(len(data) + 1), draw.randrange(len(data) + 1)))
            assert bytes(await store.read(obj, start, stop)) == data[start:stop]
        assert bytes(await store.read(obj, 0, len(data))) == data
    assert client.statistics().bytes_fetched == len(data), "no byte twice"


async def test_an_empty_object_and_an_empty_range_need_no_request(client, open_store) -> None:
    empty, full = client.put("empty", b""), client.put("full", b"x" * 10)
    async with open_store() as store:
        assert await store.read(empty, 0, 0) == b""
        assert await store.read(full, 7, 7) == b""
    assert client.requests == []


async def test_fifty_readers_make_one_get(client, open_store) -> None:
    data = pattern(BLOCK)
    obj = client.put("a", data)
    got: list[bytes] = []
    async with open_store() as store, trio.open_nursery() as nursery:

        async def reader() -> None:
            got.append(bytes(await store.read(obj, 0, BLOCK)))

        for _ in range(50):
            nursery.start_soon(reader)
    assert got == [data] * 50
    assert client.requests == [("GET", "a", 0, BLOCK)]


async def test_a_read_returns_when_its_bytes_are_there_not_when_the_block_is(client, open_store) -> None:
    data = pattern(BLOCK)
    obj = client.put("a", data)
    client.hold("GET", after_bytes=8 * KIB)
    async with open_store() as store:
        with trio.fail_after(30):
            assert bytes(await store.read(obj, 4 * KIB, 8 * KIB)) == data[4 * KIB : 8 * KIB]
        assert store.try_read(obj, 8 * KIB, 12 * KIB) is not None, "bytes behind the watermark are there at once"
        assert store.try_read(obj, 8 * KIB, 16 * KIB) is None


async def test_a_demand_part_starts_at_the_page_asked_for_and_the_head_follows(client, open_store) -> None:
    data = pattern(BLOCK)
    obj = client.put("a", data)
    async with open_store() as store:
        assert bytes(await store.read(obj, 20_000, 20_100)) == data[20_000:20_100]
        await wait_all_tasks_blocked()
        assert sorted(client.requests) == [("GET", "a", 0, 16384), ("GET", "a", 16384, BLOCK)]
        assert bytes(store.try_read(obj, 0, BLOCK) or b"") == data


async def test_reads_that_come_together_have_a_get_each_and_none_waits_for_the_bytes_before_its_own(client, open_store):
    """A page of a mapping that is touched comes with the READs around it: its own is in the middle of them."""
    data = pattern(8 * MIB)
    obj = client.put("a", data)
    got: dict[int, bytes] = {}
    gate = client.hold("GET", after_bytes=1)
    async with open_store(block_bytes=8 * MIB) as store, trio.open_nursery() as nursery:

        async def reader(start: int) -> None:
            got[start] = bytes(await store.read(obj, start, start + MIB))

        for start in (2 * MIB, 3 * MIB, 4 * MIB, 5 * MIB):
            nursery.start_soon(reader, start)
        await wait_all_tasks_blocked()
        assert sorted(client.requests) == [
            ("GET", "a", 0, 2 * MIB),
            ("GET", "a", 2 * MIB, 3 * MIB),
            ("GET", "a", 3 * MIB, 4 * MIB),
            ("GET", "a", 4 * MIB, 5 * MIB),
            ("GET", "a", 5 * MIB, 8 * MIB),
        ]
        store.check_invariants()
        gate.set()
        await wait_all_tasks_blocked()
        assert store.try_read(obj, 0, 8 * MIB) == data
    assert got == {start: data[start : start + MIB] for start in got}
    assert len(got) == 4


async def test_reads_that_come_together_share_a_get_where_each_would_queue_for_one(client, open_store) -> None:
    """Eight GETs of 1 MiB behind others bring nothing sooner than one of 8 MiB, and cost eight times as much."""
    data = pattern(8 * MIB)
    busy, obj = client.put("busy", pattern(8 * MIB)), client.put("a", data)
    gate = client.hold("GET", after_bytes=1)
    got: dict[int, bytes] = {}
    async with open_store(block_bytes=8 * MIB, concurrency=1) as store, trio.open_nursery() as nursery:

        async def reader(start: int) -> None:
            got[start] = bytes(await store.read(obj, start, start + MIB))

        for start in (0, 4 * MIB):
            nursery.start_soon(store.read, busy, start, start + MIB)
        await wait_all_tasks_blocked()
        for start in range(0, 8 * MIB, MIB):
            nursery.start_soon(reader, start)
            await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        store.check_invariants()
    assert [request for request in client.requests if request[1] == "a"] == [("GET", "a", 0, 8 * MIB)]
    assert got == {start: data[start : start + MIB] for start in range(0, 8 * MIB, MIB)}


async def test_a_read_close_behind_another_and_one_of_a_get_that_was_sent_join_it(client, open_store) -> None:
    data = pattern(8 * MIB)
    obj = client.put("a", data)
    gate = client.hold("GET", after_bytes=1)
    async with open_store(block_bytes=8 * MIB) as store, trio.open_nursery() as nursery:
        for start in (0, 256 * KIB):
            nursery.start_soon(store.read, obj, start, start + 256 * KIB)
        await wait_all_tasks_blocked()
        nursery.start_soon(store.read, obj, 4 * MIB, 5 * MIB)
        await wait_all_tasks_blocked()
        gate.set()
    as_they_came = [("GET", "a", 0, 8 * MIB)]
    the_other_way = [("GET", "a", 0, 256 * KIB), ("GET", "a", 256 * KIB, 8 * MIB)]
    assert sorted(client.requests) in (as_they_came, the_other_way)


async def test_the_first_readers_cancellation_leaves_the_others_served(client, open_store) -> None:
    data = pattern(BLOCK)
    obj = client.put("a", data)
    gate = client.hold("GET")
    got: list[bytes] = []
    async with open_store() as store, trio.open_nursery() as nursery:

        async def reader(scope: trio.CancelScope) -> None:
            with scope:
                got.append(bytes(await store.read(obj, 0, BLOCK)))

        first = trio.CancelScope()
        nursery.start_soon(reader, first)
        nursery.start_soon(reader, trio.CancelScope())
        await wait_all_tasks_blocked()
        first.cancel()
        await wait_all_tasks_blocked()
        gate.set()
    assert got == [data]
    assert len(client.requests) == 1


async def test_a_failed_flight_is_each_waiters_own_error_and_is_tried_again_by_the_next_read(
    client, open_store
) -> None:
    data = pattern(BLOCK)
    obj = client.put("a", data)
    gate = client.hold("GET", after_bytes=4096)
    client.fail(StaleObjectError("changed", bucket="bucket", key="a"), "GET", after_bytes=8192)
    errors: list[BaseException] = []
    async with open_store() as store:
        async with trio.open_nursery() as nursery:

            async def reader() -> None:
                try:
                    await store.read(obj, 0, BLOCK)
                except StaleObjectError as exc:
                    errors.append(exc)

            for _ in range(3):
                nursery.start_soon(reader)
            await wait_all_tasks_blocked()
            gate.set()
        assert len({id(e) for e in errors}) == 3
        assert len(client.requests) == 1
        assert bytes(await store.read(obj, 0, BLOCK)) == data


async def test_bytes_that_arrived_before_a_failure_are_kept(client, open_store) -> None:
    data = pattern(BLOCK)
    obj = client.put("a", data)
    client.fail(ObjectUnavailableError("reset"), "GET", after_bytes=32 * KIB)
    async with open_store() as store:
        with pytest.raises(ObjectUnavailableError):
            await store.read(obj, 0, BLOCK)
        assert bytes(await store.read(obj, 0, BLOCK)) == data
    assert client.requests[-1] == ("GET", "a", 32 * KIB, BLOCK)


async def test_a_read_that_joined_a_failing_prefetch_asks_for_itself(client, open_store) -> None:
    data = pattern(BLOCK)
    obj = client.put("a", data)
    gate = client.hold("GET", after_bytes=1)
    client.fail(ObjectUnavailableError("the prefetch's deadline"), "GET", after_bytes=1)
    async with open_store() as store, trio.open_nursery() as nursery:
        store.plan(obj, [Extent(0, BLOCK)], Priority.PREFETCH)
        await wait_all_tasks_blocked()
        got: list[bytes] = []

        async def reader() -> None:
            got.append(bytes(await store.read(obj, 0, BLOCK)))

        nursery.start_soon(reader)
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        assert got == [data]


async def test_plans_keep_all_flights_busy_and_demand_has_one_of_its_own(client, open_store) -> None:
    data = pattern(BLOCK)
    gate = client.hold("GET")
    async with open_store(concurrency=8) as store, trio.open_nursery() as nursery:
        for i in range(64):  # one object per block, so that each is its own part
            store.plan(client.put(f"a/{i}", data), [Extent(0, BLOCK)], Priority.PREFETCH)
        await wait_all_tasks_blocked()
        assert client.in_flight == 8
        nursery.start_soon(store.read, client.put("b", data), 0, 10)
        await wait_all_tasks_blocked()
        assert client.in_flight == 9
        assert client.requests[-1] == ("GET", "b", 0, BLOCK)
        gate.set()


async def test_small_blocks_share_a_part(client, open_store) -> None:
    data = pattern(10 * BLOCK + 5)
    obj = client.put("a", data)
    async with open_store() as store:
        store.plan(obj, [Extent(0, len(data))], Priority.READAHEAD)
        await wait_all_tasks_blocked()
        assert client.requests == [("GET", "a", 0, len(data))]
        assert bytes(store.try_read(obj, 0, len(data)) or b"") == data


async def test_a_large_block_is_fetched_by_several_parts(client, open_store) -> None:
    data = pattern(5 * BLOCK // 2)
    obj = client.put("a", data)
    async with open_store(block_bytes=4 * BLOCK, part_bytes=BLOCK) as store:
        store.plan(obj, [Extent(0, len(data))], Priority.READAHEAD)
        await wait_all_tasks_blocked()
        assert sorted(client.requests) == [
            ("GET", "a", 0, BLOCK),
            ("GET", "a", BLOCK, 2 * BLOCK),
            ("GET", "a", 2 * BLOCK, 5 * BLOCK // 2),
        ]
        assert bytes(store.try_read(obj, 0, len(data)) or b"") == data


async def test_a_new_plan_replaces_the_old_one(client, open_store) -> None:
    data = pattern(5 * BLOCK)
    obj = client.put("a", data)
    gate = client.hold("GET")
    async with open_store(part_bytes=BLOCK, concurrency=1) as store:
        store.plan(obj, [Extent(0, 5 * BLOCK)], Priority.READAHEAD)
        await wait_all_tasks_blocked()
        store.plan(obj, [Extent(4 * BLOCK, 5 * BLOCK)], Priority.READAHEAD)
        gate.set()
        await wait_all_tasks_blocked()
    assert client.requests == [("GET", "a", 0, BLOCK), ("GET", "a", 4 * BLOCK, 5 * BLOCK)]


async def test_the_memory_limit_holds_while_much_more_is_read_and_planned(client, open_store) -> None:
    data = pattern(64 * BLOCK)
    objs = [client.put(f"o{i}", data) for i in range(4)]
    limit = 8 * BLOCK
    async with open_store(memory_limit_bytes=limit, concurrency=4) as store, trio.open_nursery() as nursery:

        async def sequential(obj: ObjectId) -> None:
            for start in range(0, len(data), BLOCK // 4):
                store.plan(obj, [Extent(start, len(data))], Priority.READAHEAD)
                stop = start + BLOCK // 4
                assert bytes(await store.read(obj, start, stop)) == data[start:stop]
                assert store.statistics().memory_held_bytes <= limit

        for obj in objs:
            nursery.start_soon(sequential, obj)
    assert client.statistics().bytes_fetched <= 4 * len(data) * 3 // 2, "pressure may cost some bytes twice, not many"


async def test_reads_larger_than_the_memory_limit_still_come_back_whole(client, open_store) -> None:
    data = pattern(32 * BLOCK)
    obj = client.put("a", data)
    async with open_store(memory_limit_bytes=4 * BLOCK) as store:
        assert bytes(await store.read(obj, 100, 31 * BLOCK)) == data[100 : 31 * BLOCK]


async def test_a_waiting_plan_goes_on_as_the_reader_moves(client, open_store) -> None:
    """With room for few blocks, the plan is fetched as what lies behind the reader makes room, and nothing twice."""
    data = pattern(40 * BLOCK)
    obj = client.put("a", data)
    async with open_store(memory_limit_bytes=16 * BLOCK, part_bytes=8 * BLOCK) as store:
        for start in range(0, len(data), BLOCK // 4):
            store.plan(obj, [Extent(start, len(data))], Priority.READAHEAD)
            stop = start + BLOCK // 4
            assert bytes(await store.read(obj, start, stop)) == data[start:stop]
    assert client.statistics().bytes_fetched == len(data)


async def test_weak_versions_are_read_too(client, open_store) -> None:
    data = pattern(BLOCK)
    obj = client.put("a", data, etag="")
    async with open_store() as store:
        assert bytes(await store.read(obj, 0, BLOCK)) == data


async def test_nothing_stays_behind(client: MemoryObjectClient, open_store) -> None:
    obj = client.put("a", pattern(4 * BLOCK))
    async with open_store() as store:
        store.retain(obj)
        await store.read(obj, 0, 4 * BLOCK)
        store.release(obj)
        await wait_all_tasks_blocked()
        figures = store.statistics()
        assert (figures.flights, figures.disk_flights, figures.queued) == (0, 0, 0)
        store.check_idle()


class _Sliced:
    """A sink that is served a kilobyte at a time."""

    def __init__(self, sink: FetchSink) -> None:
        self._sink = sink
        self.wrote = sink.wrote

    def next_view(self) -> memoryview:
        return self._sink.next_view()[:KIB]


class _HeadLast(MemoryObjectClient):
    """Holds the requests that start at the object's first byte, and delivers all others in slices."""

    def __init__(self) -> None:
        super().__init__()
        self.head = trio.Event()

    async def fetch(self, obj: ObjectId, start: int, stop: int, sink: FetchSink) -> None:
        if start == 0:
            await self.head.wait()
        await super().fetch(obj, start, stop, _Sliced(sink))


@pytest.mark.timeout(20)  # it was a busy loop in the event loop's thread
async def test_a_read_over_two_parts_waits_for_the_slower_one() -> None:
    client = _HeadLast()
    data = pattern(BLOCK)
    obj = client.put("a", data)
    config = BlocksConfig(block_bytes=BLOCK, memory_limit_bytes=MIB, concurrency=4)
    got: list[bytes] = []

    async def reader(start: int, stop: int) -> None:
        got.append(bytes(await store.read(obj, start, stop)))

    async with running(BlockStore(client, NoCache(BLOCK), config)) as store, trio.open_nursery() as nursery:
        tail = client.hold("GET", after_bytes=4096)
        nursery.start_soon(reader, 20_000, 20_100)  # two parts: from page 16,384 on, and the head
        await wait_all_tasks_blocked()
        assert got == [data[20_000:20_100]]
        nursery.start_soon(reader, 8192, 24_576)
        await wait_all_tasks_blocked()
        tail.set()
        await wait_all_tasks_blocked()
        assert len(got) == 1
        client.head.set()
    assert got[1:] == [data[8192:24_576]]


async def test_a_read_over_two_parts_is_spared_the_failure_of_bytes_it_does_not_need() -> None:
    client = _HeadLast()
    data = pattern(BLOCK)
    obj = client.put("a", data)
    client.fail(StaleObjectError("changed"), after_bytes=16 * KIB)
    tail = client.hold("GET", after_bytes=4096)
    config = BlocksConfig(block_bytes=BLOCK, memory_limit_bytes=MIB, concurrency=4)
    got: list[bytes] = []

    async def reader(start: int, stop: int) -> None:
        got.append(bytes(await store.read(obj, start, stop)))

    async with running(BlockStore(client, NoCache(BLOCK), config)) as store, trio.open_nursery() as nursery:
        nursery.start_soon(reader, 20_000, 20_100)
        await wait_all_tasks_blocked()
        nursery.start_soon(reader, 8192, 24_576)
        await wait_all_tasks_blocked()
        tail.set()
        await wait_all_tasks_blocked()
        assert store.statistics().failed_parts == 1
        client.head.set()
    assert got == [data[20_000:20_100], data[8192:24_576]]


async def test_what_is_forgotten_is_fetched_again_once_nobody_holds_it(client, open_store) -> None:
    data = pattern(4 * BLOCK)
    obj = client.put("a", data)
    async with open_store() as store:
        store.retain(obj)
        assert await store.read(obj, 0, 4 * BLOCK) == data
        await wait_all_tasks_blocked()  # nobody writes them any more
        loan = store.lend(obj, 1)
        assert loan is not None
        assert not store.forget(obj), "one is held"
        assert store.try_read(obj, 0, 10) is None
        store.take_back(loan, delivered=False)
        assert store.forget(obj)
        assert store.forget(obj)
        sent = len(client.requests)
        assert await store.read(obj, 0, 4 * BLOCK) == data
        assert len(client.requests) > sent
        store.release(obj)
