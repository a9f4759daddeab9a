"""The pusher between plans, lent blocks and a kernel that records, blocks or refuses."""

from __future__ import annotations

import errno
import mmap
import threading
from dataclasses import dataclass, field

import pytest
import trio

from tigrismount.core.pushplan import PAGE_BYTES
from tigrismount.core.types import Extent, ObjectId
from tigrismount.fuse.options import PushConfig
from tigrismount.fuse.pusher import LOOK_AGAIN_S, Pusher
from tigrismount.testing.waiting import settled

BLOCK = 16 * PAGE_BYTES
BLOCKS = 40
OBJ = ObjectId("bucket", "model.safetensors", "etag", BLOCKS * BLOCK)
NODE = 77
READ = (4 * BLOCK - PAGE_BYTES, 4 * BLOCK)
"""A READ up to the block that is planned."""


def body(start: int, stop: int) -> bytes:
    return b"".join(page.to_bytes(4, "little") * (PAGE_BYTES // 4) for page in range(start // 4096, stop // 4096))


@dataclass(eq=False)
class FakeLoan:
    index: int
    start: int
    view: memoryview


class FakeLender:
    """Lends blocks, and fills what comes back with other bytes, as a store that recycles memory does."""

    def __init__(self) -> None:
        self.complete: set[int] = set(range(BLOCKS))
        self.lent: list[FakeLoan] = []
        self.delivered: list[int] = []
        self.size: int | None = BLOCK

    def block_bytes(self, obj: ObjectId) -> int | None:
        return self.size if obj == OBJ else None

    def holds(self, obj: ObjectId, index: int) -> bool:
        return index in self.complete

    def lend(self, obj: ObjectId, index: int) -> FakeLoan | None:
        if index not in self.complete:
            return None
        assert self.size is not None
        start, stop = index * self.size, (index + 1) * self.size
        loan = FakeLoan(index, start, memoryview(bytearray(body(start, stop))))
        self.lent.append(loan)
        return loan

    def take_back(self, loan: FakeLoan, *, delivered: bool) -> None:
        self.lent.remove(loan)
        loan.view[:] = b"\xee" * len(loan.view)
        if delivered:
            self.delivered.append(loan.index)


@dataclass
class FakeKernel:
    """A page cache."""

    pages: dict[int, bytes] = field(default_factory=dict)
    threads: set[int] = field(default_factory=set)
    error: OSError | None = None
    gate: threading.Event | None = None
    waiting: threading.Event = field(default_factory=threading.Event)

    def store(self, node_id: int, start: int, data: memoryview) -> None:
        assert node_id == NODE
        assert start % PAGE_BYTES == 0
        assert start + len(data) <= OBJ.size_bytes
        self.threads.add(threading.get_ident())
        if self.gate is not None:
            self.waiting.set()
            assert self.gate.wait(60)
        if self.error is not None:
            raise self.error
        for offset in range(0, len(data), PAGE_BYTES):
            self.pages[start + offset] = bytes(data[offset : offset + PAGE_BYTES])

    def check(self) -> None:
        assert all(data == body(start, start + PAGE_BYTES) for start, data in self.pages.items())


@dataclass
class FakeRoom:
    fits: bool = True
    pressed: bool = False

    def holds(self, size_bytes: int) -> bool:
        return self.fits

    def is_pressed(self) -> bool:
        return self.pressed


@dataclass
class Setup:
    """A pusher with its surroundings."""

    pusher: Pusher
    lender: FakeLender
    kernel: FakeKernel
    room: FakeRoom
    nodes: dict[ObjectId, int]

    async def push(self, *blocks: int) -> None:
        """Plan blocks and wait until they are pushed."""
        self.pusher.planned(OBJ, [Extent(index * BLOCK, (index + 1) * BLOCK) for index in blocks])
        await settled()


@pytest.fixture
def make(nursery: trio.Nursery):
    async def make_(mode: str = "on", threads: int = 2) -> Setup:
        kernel, room, lender, nodes = FakeKernel(), FakeRoom(), FakeLender(), {OBJ: NODE}
        pusher = Pusher(PushConfig(mode=mode, threads=threads), kernel.store, room)
        await nursery.start(pusher.run, lender, nodes.get)
        return Setup(pusher, lender, kernel, room, nodes)

    return make_


async def test_planned_blocks_are_in_the_kernel_but_for_their_tripwires(make):
    at = await make()
    await at.push(*range(2, 18))
    at.kernel.check()
    wires = {(index + 1) * BLOCK - PAGE_BYTES for index in (3, 7, 11, 15)}
    assert set(at.kernel.pages) == set(range(2 * BLOCK, 18 * BLOCK, PAGE_BYTES)) - wires
    assert sorted(at.lender.delivered) == list(range(2, 18))
    statistics = at.pusher.statistics()
    assert (statistics.pushes, statistics.pushed_bytes) == (16, 16 * BLOCK - 4 * PAGE_BYTES)


async def test_pushes_run_in_threads_of_their_own_and_only_so_many(make):
    at = await make(threads=1)
    await at.push(*range(20))
    assert threading.get_ident() not in at.kernel.threads
    at.kernel.gate = threading.Event()
    at.pusher.planned(OBJ, [Extent(20 * BLOCK, 40 * BLOCK)])
    assert await trio.to_thread.run_sync(at.kernel.waiting.wait, 30)
    assert len(at.lender.lent) == 1, "one thread, one block that cannot leave memory"
    at.kernel.gate.set()


async def test_a_block_that_arrives_later_is_pushed_then(make):
    at = await make()
    at.lender.complete = {1}
    await at.push(1, 2)
    assert at.lender.delivered == [1]
    at.lender.complete.add(2)
    at.pusher.arrived(OBJ, 2)
    await settled()
    assert at.lender.delivered == [1, 2]


async def test_a_tripwire_is_answered_from_what_was_kept(make):
    at = await make()
    await at.push(0)
    wire = BLOCK - PAGE_BYTES
    assert at.pusher.held(OBJ, wire, BLOCK) == body(wire, BLOCK)
    assert at.pusher.passed(OBJ, wire, BLOCK) == 0
    assert at.pusher.statistics().passed_bytes == wire


async def test_what_nobody_has_open_is_not_pushed_nor_taken_out_of_the_plan(make):
    at = await make()
    at.nodes.clear()
    plan = [Extent(0, 4 * BLOCK)]
    assert at.pusher.planned(OBJ, plan) == plan
    await settled()
    assert at.kernel.pages == {}


async def test_a_file_closed_before_its_push_began_is_left_alone(make):
    at = await make()
    at.pusher.planned(OBJ, [Extent(0, 4 * BLOCK)])
    at.nodes.clear()
    await settled()
    assert at.kernel.pages == {}
    assert at.lender.lent == []


async def test_a_file_opened_again_in_another_block_size_gets_no_bytes_from_elsewhere(make):
    at = await make()
    await at.push(2, 3)
    at.pusher.withdrawn(OBJ)
    at.lender.size, at.lender.complete = None, set()  # evicted meanwhile, and being opened
    assert at.pusher.passed(OBJ, BLOCK, BLOCK + PAGE_BYTES) == BLOCK
    at.pusher.planned(OBJ, [Extent(2 * BLOCK, 3 * BLOCK)])  # nobody knows in which block size yet
    at.lender.size, at.lender.complete = 4 * BLOCK, {1}
    at.pusher.arrived(OBJ, 1)
    await settled()
    at.kernel.check()
    assert not any(BLOCK <= start < 2 * BLOCK for start in at.kernel.pages)


async def test_off_does_nothing(make):
    at = await make("off")
    plan = [Extent(0, 4 * BLOCK)]
    assert at.pusher.planned(OBJ, plan) == plan
    await settled()
    assert at.kernel.pages == {}
    assert not at.pusher.is_coming(OBJ, 0)


@pytest.mark.parametrize(("mode", "pushed"), [("auto", False), ("on", True)])
async def test_auto_leaves_alone_what_memory_cannot_hold(make, mode, pushed):
    at = await make(mode)
    at.room.fits = False
    await at.push(0, 1)
    assert bool(at.kernel.pages) is pushed
    assert at.pusher.statistics().refused == (not pushed)
    at.room.fits = True
    at.pusher.withdrawn(OBJ)
    await at.push(4, 5)
    assert at.kernel.pages, "asked again when it is opened anew"


async def test_nothing_is_pushed_while_memory_is_short(make, autojump_clock):
    at = await make()
    at.room.pressed = True
    at.pusher.planned(OBJ, [Extent(0, 2 * BLOCK)])
    await trio.sleep(10 * LOOK_AGAIN_S)
    assert at.kernel.pages == {}
    assert at.pusher.statistics().paused >= 5
    at.room.pressed = False
    await trio.sleep(2 * LOOK_AGAIN_S)
    await settled()
    assert at.kernel.pages


async def test_a_refused_push_is_given_back_and_fetched_as_if_it_had_not_been(make):
    at = await make()
    at.kernel.error = OSError(errno.ENOENT, "no such node")
    await at.push(0, 1)
    assert at.lender.lent == []
    assert at.lender.delivered == []
    assert at.pusher.statistics().failed == 2
    assert at.pusher.planned(OBJ, [Extent(0, BLOCK)]) == [Extent(0, BLOCK)]


async def test_a_kernel_that_cannot_is_not_asked_again(make):
    at = await make()
    at.kernel.error = OSError(errno.ENOSYS, "not here")
    await at.push(0)
    at.kernel.error = None
    await at.push(1, 2, 3)
    assert at.kernel.pages == {}


async def test_a_drain_ends_a_push_soon_and_lets_no_other_begin(make):
    at = await make()
    at.kernel.gate = threading.Event()
    at.pusher.planned(OBJ, [Extent(0, 20 * BLOCK)])
    assert await trio.to_thread.run_sync(at.kernel.waiting.wait, 30)
    assert not await at.pusher.drain(0.01), "the kernel still waits for a page"
    at.kernel.gate.set()
    assert await at.pusher.drain(30)
    assert len(at.kernel.pages) <= 2 * BLOCK // PAGE_BYTES
    assert at.lender.lent == []


async def test_the_end_of_a_push_that_is_under_way_can_be_waited_for(make):
    """Mutation: an ``ended`` that returns at once leaves pages that are stored after they were taken back."""
    at = await make()
    at.kernel.gate = threading.Event()
    await at.pusher.ended(OBJ)
    at.pusher.planned(OBJ, [Extent(0, 2 * BLOCK)])
    assert await trio.to_thread.run_sync(at.kernel.waiting.wait, 10)
    at.nodes.clear()  # nothing of it may be pushed from now on
    with trio.move_on_after(0.01) as waiting:
        await at.pusher.ended(OBJ)
    assert waiting.cancelled_caught
    at.kernel.gate.set()
    with trio.fail_after(10):
        await at.pusher.ended(OBJ)
    stored = len(at.kernel.pages)
    await settled()
    assert len(at.kernel.pages) == stored


async def test_the_memory_of_a_push_left_behind_is_never_given_back():
    """The thread goes on reading it after everybody has left."""
    kernel, lender = FakeKernel(gate=threading.Event()), FakeLender()
    pusher = Pusher(PushConfig(mode="on", threads=1), kernel.store, FakeRoom())
    async with trio.open_nursery() as nursery:
        await nursery.start(pusher.run, lender, {OBJ: NODE}.get)
        pusher.planned(OBJ, [Extent(0, BLOCK)])
        assert await trio.to_thread.run_sync(kernel.waiting.wait, 30)
        nursery.cancel_scope.cancel()
    assert len(lender.lent) == 1
    assert pusher.is_busy
    (loan,) = lender.lent
    assert bytes(loan.view) == body(0, BLOCK), "not recycled"
    assert kernel.gate is not None
    kernel.gate.set()


async def test_a_reader_waits_until_what_comes_next_is_pushed(make):
    at = await make()
    at.kernel.gate = threading.Event()
    at.pusher.planned(OBJ, [Extent(4 * BLOCK, 5 * BLOCK)])
    assert at.pusher.is_coming(OBJ, READ[1])
    at.kernel.gate.set()
    with trio.fail_after(30):
        while at.pusher.is_coming(OBJ, READ[1]):
            await at.pusher.wait_for(OBJ, *READ)


async def test_a_reader_never_waits_for_long(make):
    """A push may be waiting for that very READ."""
    at = await make()
    at.kernel.gate = threading.Event()
    at.pusher.planned(OBJ, [Extent(4 * BLOCK, 5 * BLOCK)])
    assert await trio.to_thread.run_sync(at.kernel.waiting.wait, 30)
    with trio.fail_after(30):
        await at.pusher.wait_for(OBJ, *READ)
    assert at.pusher.is_coming(OBJ, READ[1]), "still under way"
    at.kernel.gate.set()


async def test_a_read_that_waits_is_left_out_of_the_push_it_waits_for(make):
    """The store would wait for its pages, and it for the store."""
    at = await make()
    at.lender.complete = set()
    at.pusher.planned(OBJ, [Extent(4 * BLOCK, 5 * BLOCK)])
    start = 4 * BLOCK + 2 * PAGE_BYTES
    with at.pusher._plans[OBJ].waiting(start, start + PAGE_BYTES):
        at.lender.complete = {4}
        at.pusher.arrived(OBJ, 4)
        await settled()
    assert start not in at.kernel.pages
    assert start + PAGE_BYTES in at.kernel.pages


async def test_where_the_kernel_has_large_pages_a_tripwire_is_one_of_them(make, monkeypatch):
    """As on some arm64. Mutation: the READ of a tripwire passes for one of bytes that the kernel has lost, its bytes
    are not kept for it, and after some of them nothing is pushed any more.
    """
    monkeypatch.setattr(mmap, "PAGESIZE", 4 * PAGE_BYTES)
    at = await make()
    await at.push(0)
    wire = BLOCK - 4 * PAGE_BYTES
    assert set(at.kernel.pages) == set(range(0, wire, PAGE_BYTES))
    assert at.pusher.held(OBJ, wire, BLOCK) == body(wire, BLOCK)
    assert at.pusher.passed(OBJ, wire, BLOCK) == 0
