"""What tests wait with: a clock that stands still for threads, and conditions in place of times."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pytest
import trio

from tigrismount import threads
from tigrismount.testing.waiting import settled, until, wait_until


async def in_a_thread_of_ours(work: Any, *arguments: Any) -> None:
    await threads.run_sync(partial(work, *arguments), limiter=trio.CapacityLimiter(1))


async def in_a_thread_of_trio(work: Any, *arguments: Any) -> None:
    await trio.to_thread.run_sync(work, *arguments)


@pytest.fixture(params=[in_a_thread_of_trio, in_a_thread_of_ours])
def in_a_thread(request):
    return request.param


async def test_no_time_passes_while_a_thread_works(autojump_clock, nursery, in_a_thread):
    """Mutation: pytest-trio's own clock is past the sleep before the thread is through."""
    done = []

    async def work() -> None:
        for _ in range(3):
            await trio.sleep(1)
            await in_a_thread(time.sleep, 0.03)
            done.append(trio.current_time())

    nursery.start_soon(work)
    start_s = trio.current_time()
    await trio.sleep(3.5)
    assert [at_s - start_s for at_s in done] == pytest.approx([1, 2, 3])
    await trio.sleep(3600)


async def test_who_waits_for_a_thread_has_not_settled(nursery, in_a_thread):
    """Mutation: ``wait_all_tasks_blocked`` returns at once."""
    ended = trio.Event()

    async def work() -> None:
        await in_a_thread(time.sleep, 0.03)
        ended.set()
        await trio.sleep_forever()

    nursery.start_soon(work)
    await settled()
    assert ended.is_set()
    nursery.cancel_scope.cancel()


async def test_a_condition_is_waited_for_in_real_time(autojump_clock):
    start_s, due_s = trio.current_time(), time.monotonic() + 0.05
    await until(lambda: time.monotonic() > due_s)
    assert trio.current_time() < start_s + 0.1


async def test_what_never_comes_about_is_named(autojump_clock):
    with pytest.raises(AssertionError, match=r"not within 0.02 s: never of .*test_waiting.py"):
        await until(never, within_s=0.02)
    with pytest.raises(AssertionError, match=r"not within 0.02 s: never of .*test_waiting.py"):
        wait_until(never, within_s=0.02)


def never() -> bool:
    return False
