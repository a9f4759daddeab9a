"""Waiting in tests: for a condition instead of for a time, and with regard to threads.

A test that sleeps and then asserts holds on a quiet machine only. ``until`` waits in real time for what somebody else
does (a thread, a process, the kernel), and fails with the condition's own words when it does not come about.

To trio a task that waits for a thread waits, like one that waits for an event. So ``wait_all_tasks_blocked`` returns,
and ``MockClock`` jumps by hours, while a thread hashes a block. ``settled`` waits for threads too; ``patient_clock``
stands still meanwhile: work in threads takes no time at all, and ``sleep(10)`` ends after all that could be done in
those ten seconds. A thread that does not end by itself, which is how tests let a disk hang, holds the clock up for
``_HUNG_S`` only. Neither knows of sockets and processes.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tigrismount import threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_WITHIN_S = 30.0
"""Many times what anything takes on a machine whose cores are all busy; a test that passes never waits for it."""
_LOOK_S = 0.01
_HUNG_S = 20.0
"""How long in real time a thread may work before it counts as one that hangs."""


async def until(condition: Callable[[], object], within_s: float = _WITHIN_S) -> None:
    """Wait in real time until *condition* holds; a ``patient_clock`` goes on as slowly."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {_words(condition)}"
        await trio.to_thread.run_sync(time.sleep, _LOOK_S)
        await trio.sleep(_LOOK_S)


def wait_until(condition: Callable[[], object], within_s: float = _WITHIN_S) -> None:
    """Do the same where no trio runs."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {_words(condition)}"
        time.sleep(_LOOK_S)


async def settled() -> None:
    """Wait until every task waits, and none of them for a thread."""
    await wait_all_tasks_blocked()
    while _threads.working:
        await _threads.run_sync(time.sleep, _LOOK_S)
        await wait_all_tasks_blocked()


@contextmanager
def patient_clock() -> Iterator[MockClock]:
    """Make a clock that jumps when every task waits, and none of them for a thread."""
    clock = _threads.clock = MockClock(autojump_threshold=0)
    try:
        yield clock
    finally:
        _threads.clock = None


class _Threads:
    """Counts tasks that wait for a thread."""

    def __init__(self) -> None:
        self.working = 0
        self.clock: MockClock | None = None
        self.run_sync = trio.to_thread.run_sync
        self.run_sync_of_ours = threads.run_sync

    def counted(self, run_sync: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return what takes the place of a function that works in a thread."""

        async def run_counted(*arguments: Any, **options: Any) -> Any:
            self.working += 1
            self._set_clock(_HUNG_S)
            try:
                return await run_sync(*arguments, **options)
            finally:
                # Not when the thread ends but when its task goes on: in between every task may be waiting.
                self.working -= 1
                if not self.working:
                    self._set_clock(0)

        return run_counted

    def _set_clock(self, threshold_s: float) -> None:
        if self.clock is not None:
            self.clock.autojump_threshold = threshold_s


_threads = _Threads()


@contextmanager
def counted_threads() -> Iterator[None]:
    """Count threads meanwhile. Patched, because trio tells its instruments nothing of them."""
    trio.to_thread.run_sync = _threads.counted(_threads.run_sync)  # type: ignore[assignment]
    threads.run_sync = _threads.counted(_threads.run_sync_of_ours)  # type: ignore[assignment]
    try:
        yield
    finally:
        trio.to_thread.run_sync = _threads.run_sync
        threads.run_sync = _threads.run_sync_of_ours


@contextmanager
def no_threads() -> Iterator[None]:
    """Let the system have no thread meanwhile for who asks through ``threads``.

    Patched, because trio would give those that it keeps for ten seconds.
    """
    start = trio.lowlevel.start_thread_soon
    trio.lowlevel.start_thread_soon = _refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        trio.lowlevel.start_thread_soon = start


def _refuse(*_: object) -> None:
    raise RuntimeError("can't start new thread")  # as Python's threads do


def _words(condition: Callable[[], object]) -> str:
    code = getattr(condition, "__code__", None)
    return f"{condition!r}" if code is None else f"{code.co_name} of {code.co_filename}:{code.co_firstlineno}"
