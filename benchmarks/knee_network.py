"""A network and a store of stated properties, in virtual time, and a client that fetches from them.

Each GET waits for its first byte, then its body comes at the pace of one connection, or at its share of the bandwidth
that all have together. Some are slower than others, by chance. A store may refuse: above a number of GETs in flight,
or above a rate of requests (a bucket of tokens of one second). Refused GETs are asked again as the package does it.

The client keeps as many GETs in flight as its limit says, and always has something to fetch. Its limit is a number
that stays, or ``core.adaptive``.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from tigrismount.core.adaptive import AdaptiveLimit
from tigrismount.core.backoff import backoff_s

if TYPE_CHECKING:
    from collections.abc import Callable

PART_BYTES = 8 << 20
_SLOW_SHARE = 0.02
"""GETs whose first byte takes five times as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What a client meets."""

    name: str
    first_byte_s: float
    """Until the first byte of an answer, refusals too."""
    connection_bytes_s: float
    """What one connection brings at most."""
    total_bytes_s: float = 12.5e9
    """What all bring together at most: 100 Gbit/s where nothing else bounds it."""
    scatter: float = 0.2
    """How much times scatter: the standard deviation of their logarithm."""
    in_flight_max: int | None = None
    """GETs that the store takes at once."""
    requests_s: float | None = None
    """Requests that it takes a second."""
    changes: tuple[tuple[float, float], ...] = ()
    """Moments at which the total changes, and to what."""


@dataclass(slots=True)
class Outcome:
    """What one client did."""

    received_bytes: int = 0
    requests: int = 0
    refused: int = 0
    refused_at_s: list[float] = field(default_factory=list)
    """When the limit was lowered by refusals."""
    get_s: list[float] = field(default_factory=list)
    """How long GETs took that brought something."""
    done_s: list[float] = field(default_factory=list)
    """When they ended."""
    trace: list[tuple[float, int, int]] = field(default_factory=list)
    """Every tenth of a second: the moment, GETs in flight, bytes received so far."""


class Simulation:
    """One client on one network.

    Args:
        network: What it meets.
        fixed: GETs in flight; None has the package's own controller decide.
        ceiling: Most that it may decide for.
        seed: Of the scatter.
        parts: How many there are to fetch; None for as many as it can.
    """

    def __init__(
        self, network: Network, *, fixed: int | None, ceiling: int = 256, seed: int = 1, parts: int | None = None
    ) -> None:
        self._network = network
        self._random = random.Random(seed)
        self.limit = None if fixed else AdaptiveLimit(ceiling, draw=self._random.random)
        self._fixed = fixed
        self._left = parts if parts is not None else 1 << 60
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._bodies: list[tuple[float, int, Callable[[], None]]] = []
        """Bodies on their way, by what one connection will have brought when they are complete."""
        self._brought = 0.0
        """What one connection has brought since the beginning."""
        self._total_bytes_s = network.total_bytes_s
        self._tokens, self._counted_s = network.requests_s or 0.0, 0.0
        self._at_store = 0
        self._out = 0
        self._again: list[int] = []
        """How often GETs were refused that may be sent again now."""
        self._waiting = 0
        """Those that wait for that."""
        self._paused = False
        self.outcome = Outcome()

    def run(self, until_s: float) -> Outcome:
        """Fetch until a moment."""
        for when_s, total_bytes_s in self._network.changes:
            self._at(when_s, partial(setattr, self, "_total_bytes_s", total_bytes_s))
        self._note()
        self._pump()
        while self._next(until_s):
            pass
        return self.outcome

    # -- time --------------------------------------------------------------------------------------------------

    def _at(self, when_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when_s, next(self._numbers), event))

    def _next(self, until_s: float) -> bool:
        """Let the next thing happen: an event, or the end of a body."""
        pace = min(self._network.connection_bytes_s, self._total_bytes_s / max(1, len(self._bodies)))
        body_s = self._now_s + (self._bodies[0][0] - self._brought) / pace if self._bodies else float("inf")
        event_s = self._events[0][0] if self._events else float("inf")
        then_s = min(body_s, event_s)
        if then_s > until_s:
            return False
        if self._bodies:
            self._brought += (then_s - self._now_s) * pace
        self._now_s = then_s
        heapq.heappop(self._bodies if body_s <= event_s else self._events)[2]()
        return True

    def _note(self) -> None:
        self.outcome.trace.append((self._now_s, self._out, self.outcome.received_bytes))
        if self._left or self._out or self._waiting or self._again:
            self._at(self._now_s + 0.1, self._note)

    # -- the client --------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send what the limit allows; who keeps a fixed number counts those that wait after a refusal."""
        self._paused = False
        while self._out + (self._waiting if self._fixed else 0) < (self._fixed or self._limit.limit):
            wait_s = 0.0 if self._fixed else self._limit.wait_s(self._now_s)
            if wait_s > 0:
                if not self._paused:
                    self._paused = True
                    self._at(self._now_s + wait_s, self._pump)
                return
            if self._again:
                self._send(self._again.pop())
            elif self._left:
                self._left -= 1
                self._send(0)
            else:
                return

    @property
    def _limit(self) -> AdaptiveLimit:
        assert self.limit is not None
        return self.limit

    def _send(self, failures: int) -> None:
        ticket = self.limit.sent(self._now_s) if self.limit else None
        sent_s = self._now_s
        self._out += 1
        self.outcome.requests += 1
        first_byte_s = self._network.first_byte_s * self._scatter()
        if self._random.random() < _SLOW_SHARE:
            first_byte_s *= 5

        def left() -> None:
            self._out -= 1
            if self.limit and ticket:
                self.limit.left(ticket, self._now_s)

        def refused() -> None:
            left()
            self.outcome.refused += 1
            if self.limit and ticket:
                before = self.limit.limit
                self.limit.refused(ticket, self._now_s)
                if self.limit.limit < before:
                    self.outcome.refused_at_s.append(self._now_s)
            self._waiting += 1
            self._at(self._now_s + backoff_s(failures + 1, self._random.random()), again)
            self._pump()

        def again() -> None:
            self._waiting -= 1
            self._again.append(failures + 1)
            self._pump()

        def complete() -> None:
            self._at_store -= 1
            left()
            self.outcome.received_bytes += PART_BYTES
            self.outcome.get_s.append(self._now_s - sent_s)
            self.outcome.done_s.append(self._now_s)
            if self.limit and ticket:
                self.limit.ended(ticket, self._now_s, PART_BYTES)
            self._pump()

        def answered() -> None:
            body = (self._brought + PART_BYTES * self._scatter(), next(self._numbers), complete)
            heapq.heappush(self._bodies, body)

        if self._refuses():
            self._at(self._now_s + first_byte_s, refused)
        else:
            self._at_store += 1
            self._at(self._now_s + first_byte_s, answered)

    def _scatter(self) -> float:
        sigma = self._network.scatter
        return self._random.lognormvariate(-sigma * sigma / 2, sigma)

    def _refuses(self) -> bool:
        network = self._network
        if network.in_flight_max is not None and self._at_store >= network.in_flight_max:
            return True
        if network.requests_s is None:
            return False
        self._tokens += (self._now_s - self._counted_s) * network.requests_s
        self._tokens, self._counted_s = min(self._tokens, network.requests_s), self._now_s
        if self._tokens < 1:
            return True
        self._tokens -= 1
        return False


MB = 1e6
NETWORKS = (
    Network(
        name="near, 400 MB/s each, 2 GB/s", first_byte_s=0.001, connection_bytes_s=400 * MB, total_bytes_s=2000 * MB
    ),
    Network(
        name="near, 400 MB/s each, 500 MB/s", first_byte_s=0.001, connection_bytes_s=400 * MB, total_bytes_s=500 * MB
    ),
    Network(name="standard, 200 MB/s", first_byte_s=0.02, connection_bytes_s=80 * MB, total_bytes_s=200 * MB),
    Network(name="standard, 700 MB/s", first_byte_s=0.02, connection_bytes_s=80 * MB, total_bytes_s=700 * MB),
    Network(name="standard, 25 Gbit/s", first_byte_s=0.02, connection_bytes_s=80 * MB, total_bytes_s=3125 * MB),
    Network(name="standard, 100 Gbit/s", first_byte_s=0.02, connection_bytes_s=80 * MB),
    Network(name="far, 20 MB/s each, 500 MB/s", first_byte_s=0.1, connection_bytes_s=20 * MB, total_bytes_s=500 * MB),
    Network(name="far, 80 MB/s each, 1.2 GB/s", first_byte_s=0.1, connection_bytes_s=80 * MB, total_bytes_s=1250 * MB),
    Network(name="very far, 20 MB/s each", first_byte_s=0.2, connection_bytes_s=20 * MB),
    Network(
        name="very far, 400 MB/s each, 500 MB/s", first_byte_s=0.2, connection_bytes_s=400 * MB, total_bytes_s=500 * MB
    ),
    Network(name="standard, at most 50 at once", first_byte_s=0.02, connection_bytes_s=80 * MB, in_flight_max=50),
    Network(name="far, at most 24 at once", first_byte_s=0.1, connection_bytes_s=80 * MB, in_flight_max=24),
    Network(name="standard, at most 150 requests/s", first_byte_s=0.02, connection_bytes_s=80 * MB, requests_s=150),
    Network(name="standard, at most 4 requests/s", first_byte_s=0.02, connection_bytes_s=80 * MB, requests_s=4),
)
