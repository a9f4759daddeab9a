"""One call for everybody who asks for the same thing at the same time.

The call runs in the task of the first asker; the others wait for its outcome. Where that task is cancelled (its
request's deadline passed), one of those who wait makes the call again, so that nobody suffers from another's deadline.
A failure is everybody's: each waiter raises its own copy, because a traceback belongs to one task.

This serves metadata, where a call is one or two small requests. Bytes have flights of their own (``blocks``), which
outlive their askers.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import trio

from tigrismount.errors import TigrisMountError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

T = TypeVar("T")


class _Call(Generic[T]):
    """A call in progress: ``done`` is set when it ended; neither result nor error then means that it was cancelled."""

    __slots__ = ("done", "error", "landed", "result")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.landed = False
        self.result: T | None = None
        self.error: TigrisMountError | None = None


class SingleFlight(Generic[T]):
    """Coalesces calls by key."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, _Call[T]] = {}

    async def run(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        """Return what *call* returns, calling it only if no call for *key* is in progress.

        Args:
            key: Names what is asked for.
            call: Asks for it.

        Raises:
            TigrisMountError: The call failed.
        """
        while (running := self._calls.get(key)) is not None:
            await running.done.wait()
            if running.error is not None:
                raise copy.copy(running.error) from running.error
            if running.landed:
                return cast("T", running.result)
        return await self._lead(key, call)

    async def _lead(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        mine = self._calls[key] = _Call()
        try:
            mine.result = result = await call()
            mine.landed = True
        except TigrisMountError as exc:
            mine.error = exc
            raise
        finally:
            # Atomic: whoever asks from here on begins a new call, whoever waited finds the outcome above.
            del self._calls[key]
            mine.done.set()
        return result
