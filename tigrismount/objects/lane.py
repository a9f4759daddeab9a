"""The data lane: GETs run in it, each in a thread, as many as ``core.adaptive`` allows now.

A thread holds its place until it ends, also when the task that wanted it was cancelled, so abandoned threads are
bounded too, and count as in flight. Where the store bears not even one request at a time, who has a place waits there
for its turn; until it comes it can still be cancelled, and leaves the place to somebody more urgent.

An eighth may be out beyond the limit, for the GETs of waiting readers (``blocks.queue`` sends no others then); but not
where the store has asked for fewer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tigrismount import threads
from tigrismount.core.adaptive import AdaptiveLimit
from tigrismount.core.knee import START
from tigrismount.errors import ObjectUnavailableError, SlowDownError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.core.adaptive import Ticket


class DataLane:
    """Runs GETs.

    Args:
        ceiling: Most at once, ever.
        start: How many to begin with.
        draw: Gives random numbers in ``[0, 1)``.
    """

    def __init__(self, ceiling: int, *, start: int = START, draw: Callable[[], float]) -> None:
        self._ceiling = ceiling
        self._limit = AdaptiveLimit(ceiling, start, draw=draw)
        self.places = trio.CapacityLimiter(ceiling)
        """What is not a GET but takes as much may stand in line, too."""
        self._resize()

    @property
    def limit(self) -> int:
        """GETs worth having in flight now, as far as the store bears them."""
        return self._limit.limit

    @property
    def reason(self) -> str:
        """What the limit follows from, in a few words."""
        return self._limit.reason

    @property
    def has_room(self) -> bool:
        """Whether another GET could be sent at once."""
        return self.places.available_tokens > 0 and self._limit.wait_s(trio.current_time()) <= 0

    async def run(self, get: Callable[[], None], received: Callable[[], int]) -> None:
        """Run one GET in a thread; when cancelled, leave it behind.

        Args:
            get: Sends it, and takes what it brings.
            received: Tells the bytes that all GETs of this fetch have brought.

        Raises:
            ObjectError: What *get* raised, or the system has no thread for it.
        """
        turn, before_bytes = _Turn(self.places, self._limit), received()
        ended = False
        try:
            await threads.run_sync(get, limiter=turn, abandon_on_cancel=True)
            ended = True
        except SlowDownError as exc:
            if turn.ticket is not None:
                self.refused(turn.ticket, exc)
                turn.ticket = None
            raise
        except threads.NoThreadError as exc:
            raise ObjectUnavailableError(f"no GET: {exc}") from exc
        finally:
            if turn.ticket is not None:
                if ended:
                    self._limit.ended(turn.ticket, trio.current_time(), received() - before_bytes)
                else:
                    self._limit.dropped(turn.ticket, trio.current_time())
            self._resize()

    def aside(self) -> Ticket:
        """Return what a request that is no GET says that it was refused with."""
        return self._limit.aside(trio.current_time())

    def refused(self, ticket: Ticket, answer: SlowDownError) -> None:
        """Send fewer from now on."""
        self._limit.refused(ticket, trio.current_time(), answer.retry_after_s)
        self._resize()

    def _resize(self) -> None:
        limit = self._limit.limit
        spare = max(1, limit // 8) if self._limit.borne else 0
        self.places.total_tokens = min(self._ceiling, limit + spare)


class _Turn:
    """What trio asks for a place and gives it back to, when the thread has ended; for one GET."""

    def __init__(self, places: trio.CapacityLimiter, limit: AdaptiveLimit) -> None:
        self._places = places
        self._limit = limit
        self._sent: Ticket | None = None
        self.ticket: Ticket | None = None
        """The GET, once it was sent."""

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait for a place, and in it for the moment from which the store may be asked again."""
        await self._places.acquire_on_behalf_of(borrower)
        try:
            while (wait_s := self._limit.wait_s(trio.current_time())) > 0:  # noqa: ASYNC110 - it may have moved
                await trio.sleep(wait_s)
        except trio.Cancelled:
            self._places.release_on_behalf_of(borrower)
            raise
        self._sent = self.ticket = self._limit.sent(trio.current_time())

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give the place back."""
        assert self._sent is not None
        self._limit.left(self._sent, trio.current_time())
        self._places.release_on_behalf_of(borrower)
