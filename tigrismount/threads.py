"""Blocking work in trio's threads, for a mount that serves.

``trio.to_thread`` does the same and more: it gives the thread a name for each job and its own back, for which the
system is asked twice. Each such call lets go of Python's lock, and under load takes it back only after a switch to
another thread or two; every block goes through several threads.

And where the system has no thread left, that is an ``OSError`` here, as for whatever else it lacks: trio lets Python's
``RuntimeError`` through, which nobody expects, and which would end the daemon.

Commands, and what is done once at the start or the end, go through ``trio.to_thread``.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    import outcome

Result = TypeVar("Result")


class NoThreadError(OSError):
    """The system has no thread left for this process."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "the system has no thread left: raise the limit of tasks")

    def __str__(self) -> str:
        return str(self.strerror)  # its number says less


class Limiter(Protocol):
    """What bounds the threads, such as ``trio.CapacityLimiter``."""

    async def acquire_on_behalf_of(self, borrower: object, /) -> None:
        """Wait for a place; a checkpoint."""

    def release_on_behalf_of(self, borrower: object, /) -> None:
        """Give it back."""


@trio.lowlevel.enable_ki_protection  # a Ctrl-C between place, thread and wait would leave a place taken, or trio broken
async def run_sync(
    work: Callable[[], Result], *, limiter: Limiter | None = None, abandon_on_cancel: bool = False
) -> Result:
    """Return *work()*, called in a thread; it cannot call back into trio.

    Args:
        work: What blocks.
        limiter: Asked for a place before the thread begins, and given it back once it has ended, whoever waits then;
            None for what bounds all other work.
        abandon_on_cancel: Whether a cancelled caller leaves the thread behind, its result unheard; else it stays until
            the thread has ended, and gets its result.

    Raises:
        NoThreadError: There is none.
        Exception: What *work* raised.
    """
    if limiter is None:
        limiter = trio.to_thread.current_default_thread_limiter()
    borrower = object()
    await limiter.acquire_on_behalf_of(borrower)
    waiting: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    token = trio.lowlevel.current_trio_token()

    def deliver(result: outcome.Outcome[Result]) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # then nobody is left to hear it
            token.run_sync_soon(finish, result)

    def finish(result: outcome.Outcome[Result]) -> None:
        limiter.release_on_behalf_of(borrower)
        if waiting is not None:
            trio.lowlevel.reschedule(waiting, result)

    def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
        nonlocal waiting
        if not abandon_on_cancel:
            return trio.lowlevel.Abort.FAILED
        waiting = None
        return trio.lowlevel.Abort.SUCCEEDED

    try:
        trio.lowlevel.start_thread_soon(work, deliver)
    except RuntimeError as exc:
        limiter.release_on_behalf_of(borrower)
        raise NoThreadError from exc
    except BaseException:
        limiter.release_on_behalf_of(borrower)
        raise
    result: Result = await trio.lowlevel.wait_task_rescheduled(abort)
    return result
