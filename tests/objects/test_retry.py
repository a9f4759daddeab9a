from __future__ import annotations

import pytest
import trio

from tigrismount.errors import (
    ObjectNotFoundError,
    ObjectProtocolError,
    ObjectUnavailableError,
    SlowDownError,
)
from tigrismount.objects.responses import Target
from tigrismount.objects.retry import RetryPolicy, retrying

TARGET = Target("https://s3.example.org", "the test", "b", "k")


class Script:
    """An attempt that raises what it is told, then returns "done"; keeps the times it was called at."""

    def __init__(self, *errors, progress=()) -> None:
        self.errors = list(errors)
        self.times_s: list[float] = []
        self.retries = 0
        self._progress = dict(progress)

    async def __call__(self) -> str:
        self.times_s.append(trio.current_time())
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    def progress(self) -> int:
        return self._progress.get(len(self.times_s), 0)

    def count(self) -> None:
        self.retries += 1

    async def run(self, *, timeout_s=60.0, max_retries=1000, draw=1.0):
        policy = RetryPolicy(timeout_s=timeout_s, max_retries=max_retries)
        return await retrying(self, policy, TARGET, draw=lambda: draw, progress=self.progress, on_retry=self.count)

    @property
    def waits_s(self) -> list[float]:
        return [round(after - before, 6) for before, after in zip(self.times_s, self.times_s[1:], strict=False)]


def unavailable() -> ObjectUnavailableError:
    return ObjectUnavailableError("the cable is out")


async def test_waits_double_until_it_works(autojump_clock):
    script = Script(*(unavailable() for _ in range(4)))
    assert await script.run() == "done"
    assert script.waits_s == [0.1, 0.2, 0.4, 0.8]
    assert script.retries == 4


async def test_what_is_not_transient_is_raised_as_it_is(autojump_clock):
    error = ObjectNotFoundError("no such key")
    script = Script(error)
    with pytest.raises(ObjectNotFoundError) as caught:
        await script.run()
    assert caught.value is error
    assert (len(script.times_s), script.retries) == (1, 0)


async def test_the_deadline_ends_it_and_says_why(autojump_clock):
    script = Script(*(unavailable() for _ in range(1000)))
    started_s = trio.current_time()
    with pytest.raises(ObjectUnavailableError, match="the cable is out; gave up after 11 tries in 26 s") as caught:
        await script.run(timeout_s=30.0)
    assert trio.current_time() - started_s <= 30.0
    assert (caught.value.bucket, caught.value.key) == ("b", "k")
    assert isinstance(caught.value.__cause__, ObjectUnavailableError)


async def test_an_attempt_that_hangs_ends_at_the_deadline(autojump_clock):
    policy = RetryPolicy(timeout_s=30.0, max_retries=5)
    started_s = trio.current_time()
    with pytest.raises(ObjectUnavailableError, match=r"https://s3\.example\.org did not answer within 30 s"):
        await retrying(trio.sleep_forever, policy, TARGET, draw=lambda: 0.0)
    assert trio.current_time() - started_s == pytest.approx(30.0)


async def test_retries_are_bounded(autojump_clock):
    script = Script(*(unavailable() for _ in range(10)))
    with pytest.raises(ObjectUnavailableError, match="gave up after 3 tries"):
        await script.run(max_retries=2)
    assert (len(script.times_s), script.retries) == (3, 2)


async def test_no_retry_means_one_try(autojump_clock):
    script = Script(unavailable())
    with pytest.raises(ObjectUnavailableError, match="gave up after 1 try in 0 s"):
        await script.run(max_retries=0)
    assert len(script.times_s) == 1


async def test_retry_after_is_waited_for(autojump_clock):
    script = Script(SlowDownError("busy", retry_after_s=7.0))
    await script.run(draw=0.0)
    assert script.waits_s == [7.0]


async def test_few_wrong_answers_in_a_row_are_enough(autojump_clock):
    script = Script(*(ObjectProtocolError("lies") for _ in range(10)))
    with pytest.raises(ObjectProtocolError, match="lies"):
        await script.run()
    assert len(script.times_s) == 4


async def test_wrong_answers_between_other_failures_are_counted_anew(autojump_clock):
    errors = [ObjectProtocolError("lies"), ObjectProtocolError("lies"), unavailable()] * 3
    assert await Script(*errors).run() == "done"


async def test_progress_makes_the_waits_small_again(autojump_clock):
    script = Script(*(unavailable() for _ in range(5)), progress={4: 100, 5: 100})
    await script.run()
    assert script.waits_s == [0.1, 0.2, 0.4, 0.1, 0.2]


async def test_an_error_that_is_not_ours_passes(autojump_clock):
    with pytest.raises(ZeroDivisionError):
        await Script(ZeroDivisionError()).run()
