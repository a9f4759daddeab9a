"""Whether a worker that died gets a successor: decisions only, time is an argument.

A mount without a worker makes its readers wait, so there is a deadline: a hang is worse than an error. A worker that
dies again and again is given up too, or each of its deaths would cost a start, for ever. Nothing is decided by *how* a
worker died, or by how soon: a request that kills every worker looks like a person with ``kill -9`` in a loop.
"""

from __future__ import annotations

from collections import deque

DEATHS_MAX = 30
"""Deaths within :data:`DEATHS_WITHIN_S` that are made good. Twenty kills in a row are a test that people make; a
request that kills each worker that meets it costs a second or two each time, so it ends in an error within a minute."""

DEATHS_WITHIN_S = 300.0
"""Time in which deaths are counted: a worker that dies every ten seconds is of no use, one every hour is."""

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 4.0


class Succession:
    """The deaths of one mount's workers, and what follows from each.

    Args:
        can_resend: See :attr:`can_resend`.
        outage_max_s: Longest time without a worker that serves.
    """

    def __init__(self, *, can_resend: bool, outage_max_s: float) -> None:
        self.can_resend = can_resend
        """Whether the kernel can send again what a dead worker had taken."""
        self._outage_max_s = outage_max_s
        self._deaths: deque[float] = deque()
        self._outage_since_s: float | None = None
        self._failures = 0
        self.count = 0
        """Successors that have served."""
        self.reason = ""
        """How the last worker that had served ended."""

    def note_outage(self, now_s: float) -> None:
        """Nobody serves, from now on or already; a worker that dies while it is being replaced is not news at once."""
        if self._outage_since_s is None:
            self._outage_since_s = now_s

    def note_death(self, now_s: float, reason: str) -> None:
        """A worker that served has ended without being asked to."""
        self.note_outage(now_s)
        self._failures = 0
        self.reason = reason
        self._count_death(now_s)

    def note_failure(self, now_s: float) -> None:
        """A successor did not come to serve."""
        self._failures += 1
        self._count_death(now_s)

    def note_served(self) -> None:
        """A successor serves."""
        self.count += 1
        self._outage_since_s = None

    def note_remounted(self) -> None:
        """The connection is lost, and another one follows."""
        self.note_served()
        self.reason += "; the mount was made anew"

    def refusal(self, now_s: float) -> str:
        """Return why there is to be no (other) successor, in words; empty where one is to be tried."""
        if self.is_spent(now_s):
            return f"{len(self._deaths)} workers ended within {DEATHS_WITHIN_S:g} s, so no other is started"
        if self.left_s(now_s) <= 0:
            return f"no other worker came to serve within {self._outage_max_s:g} s"
        if not self.can_resend:
            return "this kernel cannot hand its requests to another one (Linux 6.9 and later can)"
        return ""

    def is_spent(self, now_s: float) -> bool:
        """Whether so many workers have ended that another one would be of no use."""
        return sum(death_s > now_s - DEATHS_WITHIN_S for death_s in self._deaths) > DEATHS_MAX

    def left_s(self, now_s: float) -> float:
        """Return how many seconds of the outage are left."""
        since_s = now_s if self._outage_since_s is None else self._outage_since_s
        return max(0.0, since_s + self._outage_max_s - now_s)

    def pause_s(self) -> float:
        """Return how long to wait before the next try: nothing before the first, then longer each time."""
        if not self._failures:
            return 0.0
        return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * (1 << min(self._failures - 1, 10)))

    def _count_death(self, now_s: float) -> None:
        self._deaths.append(now_s)
        while self._deaths[0] <= now_s - DEATHS_WITHIN_S:
            self._deaths.popleft()
