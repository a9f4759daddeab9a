"""Sends a request again until it succeeds, fails for good, or its time is up.

What may be tried again says the error's class (``transient``); how long to wait says ``core.backoff``. A body that
broke after some bytes made *progress*: the next try continues where it was, and the wait starts small again. A store
that keeps sending answers that are not what was asked is not going to change its mind, so those count separately and
few are allowed.

The whole is bounded by one deadline, also for a try that hangs: it runs in a thread that cannot be stopped, but can be
left behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import trio

from tigrismount.core.backoff import backoff_s
from tigrismount.errors import ObjectError, ObjectProtocolError, ObjectUnavailableError, SlowDownError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tigrismount.objects.responses import Target

T = TypeVar("T")

PROTOCOL_RETRIES = 3
"""Wrong answers in a row that are asked again: enough for one bad proxy among several, few enough to fail soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to keep trying."""

    timeout_s: float
    """Seconds from the first try, waits included."""
    max_retries: int
    """Tries after the first."""


async def retrying(
    attempt: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    target: Target,
    *,
    draw: Callable[[], float],
    progress: Callable[[], int] = lambda: 0,
    on_retry: Callable[[], None] = lambda: None,
) -> T:
    """Return what *attempt* returns, trying again as the policy allows.

    Args:
        attempt: One try; must be safe to cancel and to repeat.
        policy: Limits.
        target: What the request is about, for messages.
        draw: Gives random numbers in ``[0, 1)``.
        progress: Gives a number that grows when a try brought something that need not be asked again.
        on_retry: Told before each further try.

    Raises:
        ObjectError: The first error that is not transient, the last wrong answer, or ``ObjectUnavailableError`` when
            retries or time are spent.
    """
    failures = _Failures(progress())
    started_s = trio.current_time()
    with trio.move_on_after(policy.timeout_s) as scope:
        while True:
            try:
                return await attempt()
            except ObjectError as exc:
                failures.add(exc, progress())
                if failures.final(policy):
                    raise
                wait_s = failures.wait_s(draw())
            if failures.count > policy.max_retries or trio.current_time() + wait_s >= scope.deadline:
                break
            await trio.sleep(wait_s)
            on_retry()
    raise failures.spent(target, trio.current_time() - started_s) from failures.last


class _Failures:
    """The failures of one request so far."""

    def __init__(self, progress: int) -> None:
        self.count = 0
        self.last: ObjectError | None = None
        self._in_a_row = 0
        self._wrong_answers = 0
        self._progress = progress

    def add(self, error: ObjectError, progress: int) -> None:
        if progress != self._progress:
            self._in_a_row = self._wrong_answers = 0
            self._progress = progress
        self.count += 1
        self._in_a_row += 1
        self._wrong_answers = self._wrong_answers + 1 if isinstance(error, ObjectProtocolError) else 0
        self.last = error

    def final(self, policy: RetryPolicy) -> bool:
        """Tell whether the last error is the one to raise, as it is."""
        assert self.last is not None
        if not self.last.transient:
            return True
        return self._wrong_answers > min(PROTOCOL_RETRIES, policy.max_retries)

    def wait_s(self, draw: float) -> float:
        asked_s = self.last.retry_after_s if isinstance(self.last, SlowDownError) else 0.0
        return backoff_s(self._in_a_row, draw, retry_after_s=asked_s)

    def spent(self, target: Target, elapsed_s: float) -> ObjectUnavailableError:
        if self.last is None:
            detail = f"{target.endpoint_url} did not answer within {elapsed_s:.0f} s"
        else:
            tries = "1 try" if self.count == 1 else f"{self.count} tries"
            detail = f"{self.last.detail}; gave up after {tries} in {elapsed_s:.0f} s"
        return ObjectUnavailableError(detail, bucket=target.bucket, key=target.key)
