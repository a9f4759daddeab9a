"""How wide the data lane is: what is worth having out (``core.knee``), as far as the store bears it (``core.aimd``).

Told of each GET when it is sent, when it leaves, and what came of it. Pure; the time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.core.aimd import Allowance
from tigrismount.core.knee import START, KneeSearch, Mode

if TYPE_CHECKING:
    from collections.abc import Callable

_RETRY_AFTER_MAX_S = 30.0
"""Longest ``Retry-After`` that is honoured; a wrong or hostile header must not park all reads for their deadline."""
_MOMENT_S = 1e-6
"""Less is no wait: the last digit of a time can be too small for a clock to move by."""
_FULL = 0.8
"""The store bore what was allowed where at least this share of it was out."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A GET that is out."""

    sent_s: float
    round: int
    epoch: int
    area: float
    """In-flight seconds until it was sent."""
    out: int
    """How many were out when it was sent, itself included."""
    seconds: float = 0.0
    """How long it was out; known when it has left."""
    in_flight: float = 0.0
    """How many were out meanwhile, itself included, in the mean."""


class AdaptiveLimit:
    """A limit between one and a ceiling.

    Args:
        ceiling: Most GETs ever allowed, at least 1.
        start: GETs to begin with.
        draw: Gives random numbers in ``[0, 1)``, for the pauses.
    """

    def __init__(self, ceiling: int, start: int = START, *, draw: Callable[[], float]) -> None:
        self._ceiling = ceiling
        self._allowance = Allowance(ceiling, draw)
        self._knee = KneeSearch(ceiling, start)
        self._out = 0
        self._area = self._counted_s = 0.0
        self._not_before_s = 0.0

    @property
    def limit(self) -> int:
        """GETs allowed in flight now."""
        return max(1, int(min(self._knee.width, self._allowance.level)))

    @property
    def borne(self) -> bool:
        """Whether the store has not asked for fewer than are worth having."""
        return self._allowance.level >= self._knee.width

    @property
    def reason(self) -> str:
        """What the limit follows from, in a word or two."""
        if not self.borne:
            return "the store asked for fewer"
        if self._knee.mode is Mode.START:
            return "starting"
        return "ceiling" if self._knee.width >= self._ceiling else "best found"

    def wait_s(self, now_s: float) -> float:
        """Return how long to wait before the next GET is sent: where one at a time is too much for the store."""
        wait_s = self._not_before_s - now_s
        return wait_s if wait_s > _MOMENT_S else 0.0

    def sent(self, now_s: float) -> Ticket:
        """Note a GET that is sent now."""
        self._count(now_s)
        self._out += 1
        return Ticket(now_s, self._allowance.round, self._knee.sent(), self._area, self._out)

    def aside(self, now_s: float) -> Ticket:
        """Return what stands for a request that is no GET of data: it may be refused, and nothing else follows."""
        return Ticket(now_s, self._allowance.round, -1, self._area, self._out)

    def left(self, ticket: Ticket, now_s: float) -> None:
        """Note that a GET is out no more, however it ended; :meth:`ended` or another one follows."""
        self._count(now_s)
        self._out -= 1
        ticket.seconds = now_s - ticket.sent_s
        ticket.in_flight = (self._area - ticket.area) / ticket.seconds if ticket.seconds > 0 else self._out + 1
        self._not_before_s = max(self._not_before_s, now_s + self._allowance.pause_s())

    def ended(self, ticket: Ticket, now_s: float, count_bytes: int) -> None:
        """Note that it brought what was asked for."""
        full = ticket.in_flight >= _FULL * max(1, int(self._allowance.level))
        before = self._allowance.beyond
        self._allowance.succeeded(ticket.round, now_s, ticket.seconds, full=full)
        self._knee.bound = self._allowance.level
        if self._allowance.beyond and not before:
            self._knee.encourage(now_s)
        self._knee.ended(ticket.epoch, now_s, count_bytes, ticket.seconds, ticket.in_flight)

    def dropped(self, ticket: Ticket, now_s: float) -> None:
        """Note that it failed, or was given up: nothing follows."""
        self._knee.dropped(ticket.epoch, now_s)

    def refused(self, ticket: Ticket, now_s: float, retry_after_s: float = 0.0) -> None:
        """Note that the store asked for fewer requests.

        Args:
            ticket: Whom it told so.
            now_s: The time.
            retry_after_s: What it asked to wait, 0 where it did not.
        """
        level = min(max(self._knee.width, ticket.out), self._allowance.level)
        if self._allowance.refused(ticket.round, now_s, level, ticket.out):
            self._knee.refused(level, now_s)
            wait_s = self._allowance.pause_s()
            if self._allowance.level <= 1:
                wait_s += min(retry_after_s, _RETRY_AFTER_MAX_S)
            self._not_before_s = max(self._not_before_s, now_s + wait_s)
        else:
            self._knee.dropped(ticket.epoch, now_s)

    def _count(self, now_s: float) -> None:
        self._area += self._out * (now_s - self._counted_s)
        self._counted_s = now_s

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` unless one to ceiling GETs are allowed."""
        self._allowance.check_invariants()
        self._knee.check_invariants()
        assert 1 <= self.limit <= self._ceiling, (self.limit, self._ceiling)
        assert self._out >= 0, self._out
