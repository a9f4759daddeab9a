"""How many requests may be in flight when the store says "slow down".

Additive increase, multiplicative decrease: a refusal halves the limit for everyone, a round of successes (as many as
the limit) raises it by one. All requests that were in flight when the store was full are refused together; taken one
by one they would drive the limit to the floor at once. So each request remembers the *round* it was sent in, and only
refusals of the present round count: the first one halves the limit and opens the next round.

Source: Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance", 1989; RFC 5681
section 3.1 (one decrease per window).
"""

from __future__ import annotations


class AdaptiveLimit:
    """A limit between one and a ceiling; starts at the ceiling.

    Args:
        ceiling: Most requests ever allowed, at least 1.
    """

    __slots__ = ("_ceiling", "_limit", "_round")

    def __init__(self, ceiling: int) -> None:
        if ceiling < 1:
            raise ValueError(f"ceiling {ceiling} allows no request at all")
        self._ceiling = ceiling
        self._limit = float(ceiling)
        self._round = 0

    @property
    def limit(self) -> int:
        """Requests allowed in flight now."""
        return int(self._limit)

    @property
    def round(self) -> int:
        """The present round; a request takes it along when it is sent."""
        return self._round

    def succeeded(self, sent_in_round: int) -> None:
        """Raise the limit a little, unless the request was sent before the last refusal."""
        if sent_in_round == self._round:
            self._limit = min(float(self._ceiling), self._limit + 1.0 / self._limit)

    def refused(self, sent_in_round: int) -> None:
        """Halve the limit, once for all requests sent in the same round."""
        if sent_in_round == self._round:
            self._limit = max(1.0, self._limit / 2.0)
            self._round += 1

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` unless one to ceiling requests are allowed."""
        assert 1 <= self.limit <= self._ceiling, (self._limit, self._ceiling)
