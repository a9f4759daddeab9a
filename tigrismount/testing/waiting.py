"""Waiting in tests: for a condition instead of for a time, and a clock that knows of threads.

A test that sleeps and then asserts holds on a quiet machine only. ``until`` waits in real time for what somebody else
does (a thread, a process, the kernel), and fails with the condition's own words when it does not come about.

``trio.testing.MockClock`` jumps as soon as every task waits, and a task that waits for a thread waits: hours of its
time pass while a thread hashes a block. ``patient_clock`` stands still meanwhile, so that work in threads takes no time
at all, and ``sleep(10)`` ends after all that could be done in those ten seconds. A thread that does not end by itself,
which is how tests let a disk hang, holds it up for ``_HUNG_S`` only. It knows of no sockets and processes.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import MockClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


@contextmanager
def patient_clock() -> Iterator[MockClock]:
    """Make a clock that jumps when every task waits, and none of them for a thread."""
    clock = MockClock(autojump_threshold=0)
    run_sync = trio.to_thread.run_sync
    working = 0

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal working
        working += 1
        clock.autojump_threshold = _HUNG_S
        try:
            return await run_sync(*arguments, **options)
        finally:
            working -= 1
            if not working:
                clock.autojump_threshold = 0

    # Patched, because trio tells instruments nothing of threads. Not at their end but when their task goes on: in
    # between every task may be waiting.
    trio.to_thread.run_sync = counted  # type: ignore[assignment]
    try:
        yield clock
    finally:
        trio.to_thread.run_sync = run_sync
        clock.autojump_threshold = math.inf


def _words(condition: Callable[[], object]) -> str:
    code = getattr(condition, "__code__", None)
    return f"{condition!r}" if code is None else f"{code.co_name} of {code.co_filename}:{code.co_firstlineno}"
