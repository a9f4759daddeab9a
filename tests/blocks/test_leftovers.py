"""Blocks that the disk was too busy for: what is brought in afterwards, what it costs, and when it is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.blocks.leftovers import BLOCKS_AT_ONCE, LOOK_S, PATIENCE_S, REFETCH_SHARE, Leftovers
from tigrismount.blocks.memory import TURN_S
from tigrismount.blocks.options import BlocksConfig
from tigrismount.blocks.part import ObjectState
from tigrismount.blocks.store import BlockStore
from tigrismount.blocks.writes import PATIENCE_S as DISK_PATIENCE_S
from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.core.loadlog import GET, LoadLog
from tigrismount.core.types import Extent, ObjectId, Priority
from tigrismount.objects.memory import MemoryObjectClient

from .conftest import KIB, pattern, running

BLOCK = 64 * KIB
MEMORY = 4
"""Blocks that fit into memory."""


class Bench:
    """A store on a disk that takes a block only when it is told to."""

    def __init__(self, store: BlockStore, client: MemoryObjectClient, disk: MemoryBlockCache) -> None:
        self.store = store
        self.client = client
        self.disk = disk

    async def load(self, obj: ObjectId, data: bytes) -> None:
        """Read all of a version while the disk takes nothing."""
        self.disk.write_gate = trio.Event()
        for start in range(0, len(data), BLOCK):
            assert bytes(await self.store.read(obj, start, start + BLOCK)) == data[start : start + BLOCK]
            await trio.sleep(DISK_PATIENCE_S)

    def relieve(self) -> None:
        """Let the disk take everything from now on."""
        gate, self.disk.write_gate = self.disk.write_gate, None
        assert gate is not None
        gate.set()

    def cached(self, obj: ObjectId) -> int:
        return sum(self.disk.block(obj, index) is not None for index in range(-(-obj.size_bytes // BLOCK)))

    @property
    def gets(self) -> int:
        return len(self.client.requests)

    @property
    def refetched(self) -> int:
        return self.store.statistics().refetched_bytes // BLOCK


@asynccontextmanager
async def _bench(
    *,
    completes: bool = True,
    is_pressed: Callable[[], bool] = lambda: False,
    log: LoadLog | None = None,
) -> AsyncIterator[Bench]:
    client, disk = MemoryObjectClient(), MemoryBlockCache(block_bytes=BLOCK)
    config = BlocksConfig(block_bytes=BLOCK, part_bytes=BLOCK, memory_limit_bytes=MEMORY * BLOCK, concurrency=8)
    store = BlockStore(client, disk, config, log, completes=completes, is_pressed=is_pressed)
    async with running(store):
        yield Bench(store, client, disk)
        store.check_invariants()


@pytest.fixture
def bench() -> Callable[..., object]:
    return _bench


async def test_what_a_busy_disk_lost_is_on_it_when_all_has_been_quiet(bench, autojump_clock) -> None:
    """Of sixteen blocks four find memory to wait in, and three of the lost ones may be fetched again.

    Mutation: where ``_note_lost`` notes nothing, four are cached.
    """
    data = pattern(16 * BLOCK)
    async with bench() as b:
        obj = b.client.put("a", data)
        await b.load(obj, data)
        assert b.store.statistics().left_over_bytes == 12 * BLOCK
        b.relieve()
        await trio.sleep(60 * LOOK_S)
        allowed = 16 // REFETCH_SHARE
        assert (b.cached(obj), b.refetched, b.gets) == (MEMORY + allowed, allowed, 16 + allowed)
        assert b.store.statistics().left_over_bytes == 0
        b.store.check_idle()


async def test_a_block_that_is_still_in_memory_is_not_fetched_again(bench, autojump_clock) -> None:
    """Who gave up its place in the queue and kept its memory all the same is offered as it is.

    Mutation: where only a GET brings it back, there are seven.
    """
    data = pattern(6 * BLOCK)
    async with bench() as b:
        obj = b.client.put("a", data)
        b.disk.write_gate = trio.Event()
        for index in range(MEMORY):
            await b.store.read(obj, index * BLOCK, (index + 1) * BLOCK)
        await trio.sleep(2 * DISK_PATIENCE_S)
        for _ in range(2):
            b.store._flights.writes.give_way()
        await wait_all_tasks_blocked()
        assert b.store.statistics().left_over_bytes == 2 * BLOCK
        b.relieve()
        await trio.sleep(20 * LOOK_S)
        assert (b.cached(obj), b.refetched, b.gets) == (MEMORY, 0, MEMORY)
        assert b.store.statistics().left_over_bytes == 0


async def test_nothing_is_fetched_again_where_the_mount_prefetches_nothing(bench, autojump_clock) -> None:
    data = pattern(8 * BLOCK)
    async with bench(completes=False) as b:
        obj = b.client.put("a", data)
        await b.load(obj, data)
        b.relieve()
        await trio.sleep(60 * LOOK_S)
        assert (b.cached(obj), b.gets, b.store.statistics().left_over_bytes) == (MEMORY, 8, 0)


async def test_memory_that_others_need_is_left_to_them(bench, autojump_clock) -> None:
    """Mutation: without the look at ``is_pressed`` two blocks are fetched again."""
    data, pressed = pattern(8 * BLOCK), [True]
    async with bench(is_pressed=lambda: pressed[0]) as b:
        obj = b.client.put("a", data)
        await b.load(obj, data)
        b.relieve()
        await trio.sleep(60 * LOOK_S)
        assert (b.cached(obj), b.refetched) == (MEMORY, 0)
        pressed[0] = False
        await trio.sleep(60 * LOOK_S)
        assert (b.cached(obj), b.refetched) == (MEMORY + 2, 2)


async def test_it_waits_for_who_waits_for_the_store(bench, autojump_clock) -> None:
    """Mutation: without the look at what is on its way, the reader's GET is not alone."""
    data = pattern(8 * BLOCK)
    async with bench() as b, trio.open_nursery() as nursery:
        obj = b.client.put("a", data)
        other = b.client.put("b", bytes(BLOCK))
        await b.load(obj, data)
        gate = b.client.hold("GET", "b")
        nursery.start_soon(b.store.read, other, 0, BLOCK)
        await trio.sleep(0.01)
        b.relieve()
        await trio.sleep(60 * LOOK_S)
        assert (b.gets, b.refetched) == (9, 0)
        gate.set()
        await trio.sleep(60 * LOOK_S)
        assert b.refetched == 2


async def test_a_mount_that_is_never_quiet_leaves_it_to_the_next_load(bench, autojump_clock) -> None:
    """Mutation: without the bound in time they are fetched an hour later, when nobody remembers the model."""
    data = pattern(8 * BLOCK)
    async with bench() as b, trio.open_nursery() as nursery:
        obj = b.client.put("a", data)
        other = b.client.put("b", bytes(BLOCK))
        await b.load(obj, data)
        gate = b.client.hold("GET", "b")
        nursery.start_soon(b.store.read, other, 0, BLOCK)
        await trio.sleep(PATIENCE_S + 10 * LOOK_S)
        assert b.store.statistics().left_over_bytes == 0
        gate.set()
        b.relieve()
        await trio.sleep(60 * LOOK_S)
        assert b.refetched == 0


async def test_a_disk_that_takes_nothing_more_is_left_alone(bench, autojump_clock) -> None:
    """Full, read-only or failing: the first refusal ends it.

    Mutation: where ``on_refused`` forgets nothing, each block is fetched three times.
    """
    data = pattern(64 * BLOCK)
    async with bench() as b:
        obj = b.client.put("a", data)
        await b.load(obj, data)
        b.disk.refuse_writes = True
        b.relieve()
        await trio.sleep(300 * LOOK_S)
        assert b.refetched <= BLOCKS_AT_ONCE
        assert b.store.statistics().left_over_bytes == 0


async def test_a_plan_of_a_reader_comes_first_and_takes_what_it_wants_along(bench, autojump_clock) -> None:
    """Each byte is on its way once, whoever asked first; what is fetched for a reader is not fetched again."""
    data = pattern(8 * BLOCK)
    async with bench() as b:
        obj = b.client.put("a", data)
        await b.load(obj, data)
        b.relieve()
        b.store.retain(obj)
        b.store.plan(obj, [Extent(3 * BLOCK, 4 * BLOCK)], Priority.READAHEAD)
        await trio.sleep(60 * LOOK_S)
        b.store.release(obj)
        assert b.refetched == 2
        assert (b.gets, b.cached(obj)) == (8 + 1 + 2, MEMORY + 1 + 2)


async def test_what_is_fetched_again_is_in_no_load_report(bench, autojump_clock) -> None:
    data = pattern(8 * BLOCK)
    log = LoadLog(trio.current_time)
    async with bench(log=log) as b:
        obj = b.client.put("a", data)
        await b.load(obj, data)
        b.relieve()
        await trio.sleep(60 * LOOK_S)
        assert b.refetched == 2
    assert sum(stop - start for kind, _, start, stop, *_ in log.take() if kind == GET) == len(data)


async def test_where_no_memory_can_be_spared_nothing_stays_behind(bench, autojump_clock) -> None:
    """All memory is wanted by a plan of who has the file open. Mutation: where nothing is withdrawn, it is pinned."""
    data = pattern(8 * BLOCK)
    async with bench() as b:
        obj = b.client.put("a", data)
        await b.load(obj, data)
        b.relieve()
        kept = b.client.put("b", pattern(MEMORY * BLOCK))
        b.store.retain(kept)
        for index in range(MEMORY):
            await b.store.read(kept, index * BLOCK, (index + 1) * BLOCK)
        b.store.plan(kept, [Extent(0, MEMORY * BLOCK)], Priority.READAHEAD)
        for _ in range(int(PATIENCE_S / TURN_S) + 2):
            assert all(b.store.try_read(kept, index * BLOCK, index * BLOCK + 1) for index in range(MEMORY))
            await trio.sleep(TURN_S)  # what nobody has looked at for some turns is given up, as it is on the disk
        assert b.refetched == 0
        assert b.store.statistics().left_over_bytes == 0
        b.store.release(kept)
        b.store.plan(kept, [], Priority.READAHEAD)
        b.store.check_idle()


async def test_what_is_lost_while_others_are_given_up_is_remembered_and_harms_nothing(autojump_clock) -> None:
    """Mutation: where the blocks that were offered are taken for granted, this is a KeyError, and the mount's end."""
    offers = []
    state = ObjectState(MemoryObjectClient().put("a", pattern(8 * BLOCK)), BLOCK)

    async def offer(obj: ObjectId, indexes: Sequence[int], most_bytes: int) -> tuple[int, set[int]]:
        offers.append((list(indexes), most_bytes))
        if len(offers) == 1:
            leftovers.forget()
            leftovers.note(state.block(5))
            await trio.sleep(1)
        return 0, set(indexes)

    leftovers = Leftovers(lambda: True, offer, lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leftovers.run)
        leftovers.note(state.block(1))
        await trio.sleep(60)
        assert (offers, leftovers.bytes) == ([([1], 2 * BLOCK), ([5], 2 * BLOCK)], 0)
        nursery.cancel_scope.cancel()


async def test_a_large_model_is_given_the_time_that_it_takes(autojump_clock) -> None:
    """Mutation: where the patience is counted from the loss, most of it is forgotten."""
    count = int(2 * PATIENCE_S / LOOK_S) * BLOCKS_AT_ONCE
    state = ObjectState(ObjectId("bucket", "a", "e" * 32, count * BLOCK), BLOCK)
    brought: set[int] = set()

    async def offer(obj: ObjectId, indexes: Sequence[int], most_bytes: int) -> tuple[int, set[int]]:
        brought.update(indexes)
        return 0, set(indexes)

    leftovers = Leftovers(lambda: True, offer, lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leftovers.run)
        for index in range(count):
            leftovers.note(state.block(index))
        await trio.sleep(3 * PATIENCE_S)
        assert len(brought) == count
        nursery.cancel_scope.cancel()
