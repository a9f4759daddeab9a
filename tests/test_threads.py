"""Work in threads: what it returns or raises, and who holds its place until when."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest
import trio

from tigrismount import threads
from tigrismount.testing.waiting import no_threads, until


async def test_work_returns_what_it_returns_from_another_thread() -> None:
    limiter = trio.CapacityLimiter(1)
    assert await threads.run_sync(threading.get_ident, limiter=limiter) != threading.get_ident()
    assert limiter.borrowed_tokens == 0


async def test_what_work_raises_reaches_the_caller() -> None:
    limiter = trio.CapacityLimiter(1)
    with pytest.raises(ZeroDivisionError):
        await threads.run_sync(lambda: 1 // 0, limiter=limiter)
    assert limiter.borrowed_tokens == 0


async def test_no_more_threads_than_there_are_places() -> None:
    limiter, lock = trio.CapacityLimiter(2), threading.Lock()
    at_once, most, barrier = 0, 0, threading.Barrier(2)

    def work() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        barrier.wait(30)  # each meets another: never one alone
        with lock:
            at_once -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(lambda: threads.run_sync(work, limiter=limiter))
    assert most == 2


async def test_cancelled_caller_waits_for_work_that_is_not_abandoned() -> None:
    limiter, go_on = trio.CapacityLimiter(1), threading.Event()
    found = []

    async def cancel(scope: trio.CancelScope) -> None:
        await until(lambda: limiter.borrowed_tokens)
        scope.cancel()
        go_on.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel, nursery.cancel_scope)
        found += [await threads.run_sync(lambda: go_on.wait(30), limiter=limiter), limiter.borrowed_tokens]
    assert nursery.cancel_scope.cancel_called
    assert found == [True, 0]


async def test_thread_that_is_left_behind_holds_its_place_until_it_ends() -> None:
    limiter, go_on = trio.CapacityLimiter(1), threading.Event()
    with trio.move_on_after(0.01) as scope:
        await threads.run_sync(lambda: go_on.wait(30), limiter=limiter, abandon_on_cancel=True)
    assert scope.cancelled_caught
    assert limiter.borrowed_tokens == 1
    go_on.set()
    await until(lambda: limiter.borrowed_tokens == 0)


async def test_work_of_a_caller_that_is_cancelled_already_does_not_begin() -> None:
    begun = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await threads.run_sync(lambda: begun.append(True), limiter=trio.CapacityLimiter(1))
    assert (scope.cancelled_caught, begun) == (True, [])


async def test_place_is_given_back_where_the_system_has_no_thread() -> None:
    limiter = trio.CapacityLimiter(1)
    with no_threads(), pytest.raises(threads.NoThreadError, match="raise the limit of tasks"):
        await threads.run_sync(int, limiter=limiter)
    assert limiter.borrowed_tokens == 0


@pytest.mark.parametrize("moment", ["place", "thread"])
def test_ctrl_c_at_any_moment_ends_in_keyboard_interrupt(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Mutation: without trio's protection the place is given back twice, or never, and trio itself fails."""
    start, holders = trio.lowlevel.start_thread_soon, []

    class Limiter:
        async def acquire_on_behalf_of(self, borrower: object) -> None:
            await trio.lowlevel.checkpoint()
            holders.append(borrower)
            if moment == "place":
                signal.raise_signal(signal.SIGINT)

        def release_on_behalf_of(self, borrower: object) -> None:
            holders.remove(borrower)

    def interrupted(*job: Any) -> None:
        start(*job)
        if moment == "thread":
            signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        try:
            await threads.run_sync(int, limiter=Limiter())
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)  # for a thread that is left behind

    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert holders == []


def test_thread_that_ends_after_trio_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    go_on, ended = threading.Event(), threading.Event()

    def work() -> None:
        go_on.wait(30)
        ended.set()

    async def main() -> None:
        with trio.move_on_after(0.01):
            await threads.run_sync(work, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True)

    trio.run(main)
    go_on.set()
    assert ended.wait(30)
    # The thread works for the next caller only once it has delivered.
    trio.run(lambda: threads.run_sync(int, limiter=trio.CapacityLimiter(1)))
    assert capfd.readouterr().err == ""
