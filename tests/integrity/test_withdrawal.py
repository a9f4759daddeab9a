"""What becomes of the kernel's pages of a version that is refused: when they go, in which order, and in whose way."""

from __future__ import annotations

import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.core.types import ObjectId
from tigrismount.errors import ObjectMismatchError
from tigrismount.integrity.readers import CheckedReaders
from tigrismount.integrity.verdicts import Compared, Verdicts
from tigrismount.integrity.withdrawal import Withdrawal
from tigrismount.testing.waiting import no_threads

OBJ, OTHER, UNKNOWN = (ObjectId("b", key, "etag", 4096) for key in ("m/a", "m/b", "m/never-looked-up"))
NODES = {OBJ: 7, OTHER: 8}
BAD = [Compared("sha256", "00", "11", "a test")]
GOOD = [Compared("sha256", "00", "00", "a test")]


class Kernel:
    """Drops pages, and may wait for one of them."""

    def __init__(self) -> None:
        self.dropped: list[int] = []
        self.gates: dict[int, threading.Event] = {}
        self.told = threading.Event()

    def forget_pages(self, node_id: int) -> None:
        if node_id in self.gates:
            self.told.set()
            assert self.gates[node_id].wait(10)
        self.dropped.append(node_id)

    async def until(self, dropped: list[int]) -> None:
        with trio.fail_after(10):
            while sorted(self.dropped) != dropped:  # noqa: ASYNC110 - a thread drops them
                await trio.sleep(0.001)


class Pushes:
    """Pushes under way, which end when they are told to."""

    def __init__(self) -> None:
        self.under_way: dict[ObjectId, trio.Event] = {}

    async def ended(self, obj: ObjectId) -> None:
        await trio.lowlevel.checkpoint()
        if obj in self.under_way:
            await self.under_way[obj].wait()


@pytest.fixture
def verdicts() -> Verdicts:
    return Verdicts(MemoryBlockCache(block_bytes=4096).records, "tigris")


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def pushes() -> Pushes:
    return Pushes()


@pytest.fixture
def withdrawal(verdicts: Verdicts, kernel: Kernel, pushes: Pushes) -> Withdrawal:
    def nodes_of(objects) -> dict[ObjectId, int]:
        return {obj: NODES[obj] for obj in objects if obj in NODES}

    return Withdrawal(verdicts, nodes_of, pushes.ended, kernel.forget_pages, lambda _: True)


async def test_pages_go_when_a_version_is_refused_and_only_then(nursery, withdrawal, verdicts, kernel) -> None:
    """Mutation: without ``_tell`` in ``keep`` they stay."""
    await nursery.start(withdrawal.run)
    await verdicts.keep(OTHER, GOOD)
    await verdicts.keep(UNKNOWN, BAD)
    await verdicts.keep(OBJ, BAD)
    await kernel.until([7])


async def test_pages_go_as_soon_as_the_system_has_a_thread_for_it(
    nursery, withdrawal, verdicts, kernel, autojump_clock
) -> None:
    """Mutation: where that is an error, the daemon ends; where it is passed over, the pages stay."""
    await nursery.start(withdrawal.run)
    with no_threads():
        await verdicts.keep(OBJ, BAD)
        await trio.sleep(5.1)  # between two looks
        assert (kernel.dropped, withdrawal.is_busy) == ([], False)
    await trio.sleep(1)
    await kernel.until([7])


async def test_what_was_refused_before_the_kernel_can_be_talked_to_goes_then(
    nursery, withdrawal, verdicts, kernel
) -> None:
    """A worker that takes over: the kernel has the pages of the one before."""
    await verdicts.keep(OBJ, BAD)
    await wait_all_tasks_blocked()
    assert kernel.dropped == []
    await nursery.start(withdrawal.run)
    await kernel.until([7])


async def test_what_another_daemon_refused_goes_when_its_verdict_is_learned_and_once(
    nursery, verdicts, withdrawal, kernel
) -> None:
    """Mutation: a ``load`` that tells of nothing leaves the pages; one that tells of all drops them every minute."""
    await nursery.start(withdrawal.run)
    another = Verdicts(verdicts._records, "tigris")
    await another.keep(OBJ, BAD)
    await verdicts.load()
    await kernel.until([7])
    await verdicts.load()
    await verdicts.keep(OTHER, BAD)
    await kernel.until([7, 8])


async def test_pages_go_again_after_a_refusal_was_taken_back(nursery, withdrawal, verdicts, kernel) -> None:
    await nursery.start(withdrawal.run)
    await verdicts.keep(OBJ, BAD)
    await kernel.until([7])
    await verdicts.keep(OBJ, GOOD)
    await verdicts.keep(OBJ, BAD)
    await kernel.until([7, 7])


async def test_pages_go_after_the_pushes_under_way(nursery, withdrawal, verdicts, kernel, pushes) -> None:
    """Mutation: without the wait a push puts pages back that were just dropped."""
    pushes.under_way[OBJ] = trio.Event()
    await nursery.start(withdrawal.run)
    await verdicts.keep(OBJ, BAD)
    await verdicts.keep(OTHER, BAD)
    await kernel.until([8])
    pushes.under_way[OBJ].set()
    await kernel.until([7, 8])


async def test_a_page_whose_read_is_under_way_keeps_neither_the_loop_nor_another_version(
    nursery, withdrawal, verdicts, kernel
) -> None:
    """Mutation: called in the event loop it would be the deadlock that libfuse warns of."""
    kernel.gates[7] = threading.Event()
    await nursery.start(withdrawal.run)
    await verdicts.keep(OBJ, BAD)
    assert await trio.to_thread.run_sync(kernel.told.wait, 10)
    assert withdrawal.is_busy
    await verdicts.keep(OTHER, BAD)
    await kernel.until([8])
    kernel.gates[7].set()
    await kernel.until([7, 8])


async def test_who_ends_does_not_wait_for_the_kernel_and_knows_that_a_thread_is_left(
    withdrawal, verdicts, kernel
) -> None:
    kernel.gates[7] = threading.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(withdrawal.run)
        await verdicts.keep(OBJ, BAD)
        assert await trio.to_thread.run_sync(kernel.told.wait, 10)
        nursery.cancel_scope.cancel()
    assert withdrawal.is_busy
    kernel.gates[7].set()


class _Slow:
    """A reader whose bytes come when they are let go."""

    def __init__(self) -> None:
        self.go_on = trio.Event()

    def open(self, _obj: ObjectId, _key: str) -> _Slow:
        return self

    async def read(self, _start: int, _stop: int) -> bytes:
        await self.go_on.wait()
        return b"wrong"


async def test_a_read_that_was_under_way_when_its_version_was_refused_is_an_error(nursery, verdicts) -> None:
    """Mutation: checked before the wait alone, its pages would be the last that the kernel gets."""
    slow = _Slow()
    reader = CheckedReaders(slow, verdicts).open(OBJ, OBJ.key)
    refused: list[ObjectMismatchError] = []

    async def read() -> None:
        try:
            await reader.read(0, 5)
        except ObjectMismatchError as exc:
            refused.append(exc)

    nursery.start_soon(read)
    await wait_all_tasks_blocked()
    await verdicts.keep(OBJ, BAD)
    slow.go_on.set()
    await wait_all_tasks_blocked()
    assert len(refused) == 1


async def test_blocks_leave_memory_once_nobody_holds_them(nursery, verdicts, kernel, pushes, autojump_clock) -> None:
    """Also those of a version that the kernel was never told of."""
    asked: list[ObjectId] = []

    def forget(obj: ObjectId) -> bool:
        asked.append(obj)
        return len(asked) == 3

    await nursery.start(Withdrawal(verdicts, lambda _: {}, pushes.ended, kernel.forget_pages, forget).run)
    await verdicts.keep(UNKNOWN, BAD)
    await trio.sleep(60)
    assert asked == [UNKNOWN] * 3
