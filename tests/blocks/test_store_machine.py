"""Random schedules against the block store: right bytes or an error, never a hang, and nothing left behind.

Each example is a small store (few blocks of memory, few flights) under a script of reads, plans, cancellations and
faults. Bytes arrive in random slices, tasks run in random order; virtual time makes a hang an error at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tigrismount.blocks.options import BlocksConfig
from tigrismount.blocks.pieces import PIECES_PER_BLOCK
from tigrismount.blocks.store import BlockStore
from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.core.types import Extent, ObjectId, Priority
from tigrismount.errors import ObjectError, ObjectUnavailableError, StaleObjectError
from tigrismount.objects.client import FetchSink
from tigrismount.objects.memory import MemoryObjectClient

from .conftest import KIB, pattern, running

pytestmark = pytest.mark.timeout(40)  # a busy loop never lets virtual time go on

READ_DEADLINE_S = 1000.0


class _Sliced:
    """A sink that is served in random slices."""

    def __init__(self, sink: FetchSink, draw: random.Random) -> None:
        self._sink = sink
        self._draw = draw

    def next_view(self) -> memoryview:
        view = self._sink.next_view()
        return view[: self._draw.randint(1, len(view))] if self._draw.random() < 0.7 else view

    def wrote(self, count: int) -> None:
        self._sink.wrote(count)


class UnsteadyClient(MemoryObjectClient):
    """Delivers in random slices, and refuses to fetch a byte that is on its way already."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self._draw = draw
        self._flying: list[tuple[ObjectId, int, int]] = []

    async def fetch(self, obj: ObjectId, start: int, stop: int, sink: FetchSink) -> None:
        for other, other_start, other_stop in self._flying:
            assert other != obj or stop <= other_start or start >= other_stop, "a byte is in flight twice"
        flight = (obj, start, stop)
        self._flying.append(flight)
        try:
            await trio.sleep(self._draw.random())
            await super().fetch(obj, start, stop, _Sliced(sink, self._draw))
        finally:
            self._flying.remove(flight)


@dataclass
class World:
    """A store, what it stands on, and who reads."""

    store: BlockStore
    client: UnsteadyClient
    cache: MemoryBlockCache
    bodies: dict[ObjectId, bytes]
    nursery: trio.Nursery
    draw: random.Random
    scopes: list[trio.CancelScope] = field(default_factory=list)
    gates: list[trio.Event] = field(default_factory=list)
    elsewhere: dict[tuple[ObjectId, int], Callable[[bytes | None], None]] = field(default_factory=dict)
    reads_open: int = 0
    faults: int = 0
    errors: int = 0

    async def read(self, obj: ObjectId, start: int, stop: int, priority: Priority, scope: trio.CancelScope) -> None:
        body = self.bodies[obj]
        self.reads_open += 1
        try:
            with scope:
                found = self.store.try_read(obj, start, stop)
                if found is None:
                    with trio.fail_after(READ_DEADLINE_S):
                        found = await self.store.read(obj, start, stop, priority)
                assert bytes(found) == body[start:stop]
        except ObjectError:
            self.errors += 1
        finally:
            self.reads_open -= 1
            self.store.check_invariants()

    def end_elsewhere(self, obj: ObjectId, index: int, *, cached: bool) -> None:
        """Let another process end its fetch of a block."""
        size_bytes = self.cache.block_bytes
        data = self.bodies[obj][index * size_bytes : (index + 1) * size_bytes]
        self.elsewhere.pop((obj, index))(data if cached and self.cache.block(obj, index) is None else None)

    def lift(self) -> None:
        """End every fault."""
        for obj, index in list(self.elsewhere):
            self.end_elsewhere(obj, index, cached=bool(index % 2))
        for gate in self.gates:
            gate.set()
        self.client._rules.clear()
        self.cache.read_gate = self.cache.write_gate = None
        self.cache.refuse_writes = False


def _range(world: World, a: int, b: int) -> tuple[ObjectId, int, int]:
    """Map two numbers onto a range of one of the objects, small more often than large."""
    objs = list(world.bodies)
    obj = objs[a % len(objs)]
    start = min(a * 997 % (obj.size_bytes + 1), obj.size_bytes)
    length = b * b % (obj.size_bytes + 1) if b % 3 else b * 37 % 8192
    return obj, start, min(obj.size_bytes, start + length)


def _act(world: World, kind: str, a: int, b: int) -> None:
    obj, start, stop = _range(world, a, b)
    index = start // world.cache.block_bytes
    if kind == "peek":
        stop = min(obj.size_bytes, start + b % (world.cache.block_bytes // PIECES_PER_BLOCK))
    if kind in ("read", "peek"):
        scope = trio.CancelScope()
        world.scopes.append(scope)
        priority = Priority.DEMAND if b % 5 else Priority.PREFETCH
        world.nursery.start_soon(world.read, obj, start, stop, priority, scope)
    elif kind == "plan":
        extents = [Extent(start, stop)] if b % 4 else [Extent(start, obj.size_bytes), Extent(0, start)]
        later = ([Extent(0, obj.size_bytes)], [], None)[a % 3]
        priority = (Priority.READAHEAD, Priority.PREFETCH, Priority.LATER)[a % 3]
        world.store.plan(obj, extents, priority, later=later, cut=b % 5 == 0)
    elif kind == "unplan":
        world.store.plan(obj, (), Priority.READAHEAD, cut=b % 2 == 0)
    elif kind == "cancel" and world.scopes:
        world.scopes[a % len(world.scopes)].cancel()
    elif kind == "fail":
        error = StaleObjectError if b % 4 == 0 else ObjectUnavailableError
        world.client.fail(error("injected", bucket="bucket", key=obj.key), after_bytes=a % 9 * 2 * KIB)
        world.faults += 1
    elif kind == "hold":
        world.gates.append(world.client.hold(after_bytes=a % 9 * 2 * KIB))
    elif kind == "slow disk" and world.cache.read_gate is None:
        world.cache.read_gate = trio.Event()
        world.gates.append(world.cache.read_gate)
    elif kind == "slow writes" and world.cache.write_gate is None:
        world.cache.write_gate = trio.Event()
        world.gates.append(world.cache.write_gate)
    elif kind == "full disk":
        world.cache.refuse_writes = not world.cache.refuse_writes
    elif kind == "corrupt" and world.cache.block(obj, index) is not None:
        world.cache.corrupt(obj, index)
    elif kind == "break" and world.cache.block(obj, index) is not None:
        world.cache.break_reads(obj, index)
    elif kind == "elsewhere" and start < stop and (obj, index) not in world.elsewhere:
        world.elsewhere[obj, index] = world.cache.fetch_elsewhere(obj, index)
    elif kind == "elsewhere ends" and world.elsewhere:
        ends_obj, ends_index = list(world.elsewhere)[a % len(world.elsewhere)]
        world.end_elsewhere(ends_obj, ends_index, cached=bool(b % 2))
    elif kind == "fewer":
        world.client.get_limit = 1 + a % 4
    elif kind == "lift":
        world.lift()


KINDS = ["read"] * 8 + ["plan"] * 4 + ["peek"] * 3 + ["fail"] * 2 + ["unplan", "cancel", "hold", "slow disk"]
KINDS += ["slow writes", "full disk", "corrupt", "break", "fewer", "lift", "elsewhere", "elsewhere", "elsewhere ends"]

steps = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 999), st.integers(0, 999), st.integers(0, 3)),
    min_size=1,
    max_size=40,
)


async def _wait(world: World, how: int) -> None:
    if how == 1:
        await trio.lowlevel.checkpoint()
    elif how == 2:
        await trio.sleep(world.draw.random())
    elif how == 3:
        await wait_all_tasks_blocked()


async def _play(world: World, script: list[tuple[str, int, int, int]]) -> None:
    for kind, a, b, how in script:
        _act(world, kind, a, b)
        world.store.check_invariants()
        await _wait(world, how)
        world.store.check_invariants()
    world.lift()


async def _end(world: World) -> None:
    """All is well again: everything can be read, and nothing stays behind."""
    assert world.reads_open == 0
    if not world.faults:
        assert world.errors == 0
    for obj, body in world.bodies.items():
        world.store.plan(obj, (), Priority.READAHEAD)
        await wait_all_tasks_blocked()  # late failures have landed
        with trio.fail_after(READ_DEADLINE_S):
            assert bytes(await world.store.read(obj, 0, len(body))) == body
    await trio.sleep(100)
    world.store.check_idle()
    figures = world.store.statistics()
    assert (figures.flights, figures.disk_flights, figures.queued) == (0, 0, 0)
    assert not any(world.cache.claimed(obj) for obj in world.bodies), "others may fetch what nobody here fetches"
    assert not world.cache._occupancy._pins, "closed versions may be evicted from the disk"


@settings(max_examples=200, deadline=None, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
@given(
    block_kib=st.sampled_from([4, 8, 16, 32]),
    disk_block_kib=st.sampled_from([0, 0, 4, 16, 64]),
    memory_blocks=st.sampled_from([1, 2, 3, 4, 9, 30]),
    concurrency=st.sampled_from([1, 2, 3, 8, 16]),
    sizes=st.lists(st.integers(1, 200 * KIB), min_size=1, max_size=3),
    part_kib=st.sampled_from([4, 12, 64]),
    script=steps,
    seed=st.integers(0, 2**32),
)
def test_any_schedule_gives_right_bytes_or_an_error_and_ends(
    block_kib: int,
    disk_block_kib: int,
    memory_blocks: int,
    concurrency: int,
    sizes: list[int],
    part_kib: int,
    script: list[tuple[str, int, int, int]],
    seed: int,
) -> None:
    draw = random.Random(seed)
    client = UnsteadyClient(draw)
    cache = MemoryBlockCache(block_bytes=(disk_block_kib or block_kib) * KIB, capacity_bytes=400 * KIB)
    config = BlocksConfig(
        block_bytes=block_kib * KIB,
        memory_limit_bytes=memory_blocks * block_kib * KIB,
        concurrency=concurrency,
        disk_concurrency=1 + seed % 4,
        spent_bytes=seed % 5 * block_kib * KIB,
        part_bytes=part_kib * KIB,
    )
    bodies = {client.put(f"o{i}", body): body for i, body in enumerate(pattern(n, i) for i, n in enumerate(sizes))}

    async def main() -> None:
        async with running(BlockStore(client, cache, config, completes=True)) as store:
            async with trio.open_nursery() as nursery:
                world = World(store, client, cache, bodies, nursery, draw)
                await _play(world, script)
            await _end(world)

    trio.run(main, clock=MockClock(autojump_threshold=0))
