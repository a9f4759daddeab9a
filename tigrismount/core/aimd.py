"""How many requests the store lets us have when it says "slow down".

A refusal halves what is allowed, for everyone. All requests that were in flight when the store was full are refused
together; taken one by one they would drive the limit to the floor at once. So each request remembers the *round* it
was sent in, and only refusals of the present round count: the first one halves and opens the next round.

What was refused is remembered, and the way back slows down before it: each round of answers halves the distance, up to
just below it, and there it stays for a while. Only then does it go beyond, by little at first and by more each second.
Where that is refused again at about the same level, the next wait is twice as long, so a store of a fixed size is asked
for too much ever more rarely instead of every few seconds, and one that has grown is found soon.

One request at a time may still be too much: a thousand nodes are a thousand requests. Below one the limit is a share of
the time: after each request there is a pause, such that requests are out for that share of it. So it is the rate that
falls, by halves, and the pauses are drawn at random, or nodes that were refused together would come back together.

Source: Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance", 1989; RFC 5681
section 3.1 (one decrease per window); Xu, Harfoush and Rhee, "Binary Increase Congestion Control", 2004, and RFC 9438
(the plateau before the level of the last loss).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST = 1.0 / 64
"""Least that is allowed: with GETs of an eighth of a second, one every eight seconds."""
_PLATEAU = 0.96
"""Share of the refused level at which the way back stops."""
_HOLD_S = 2.0
"""First stay on the plateau."""
_HOLD_MAX_S = 60.0
"""Longest: a store that has room again is noticed within a minute or two."""
_SAME = 0.75
"""A refusal above this share of the level refused before says that nothing has changed there."""
_STEP = 0.02
"""What a round adds beyond the refused level at first, as a share of it; doubled each second, since a store that counts
requests by the second says late that they are too many."""
_DOUBLINGS = 16
"""Bounds that power."""
_USUAL_S = 0.125
"""What a request takes while none has been answered: 20 ms, and 8 MiB at 80 MB/s."""
_PAUSE_MAX_S = 10.0
"""Longest pause: a read has 300 s."""


class Allowance:
    """What the store lets us have in flight: between a small share of one, and a ceiling where it starts.

    Args:
        ceiling: Most ever, at least 1.
        draw: Gives random numbers in ``[0, 1)``.
    """

    __slots__ = ("_ceiling", "_draw", "_held_until_s", "_hold_s", "_level", "_refused_at", "_usual_s", "round")

    def __init__(self, ceiling: int, draw: Callable[[], float]) -> None:
        if ceiling < 1:
            raise ValueError(f"ceiling {ceiling} allows no request at all")
        self._ceiling = float(ceiling)
        self._draw = draw
        self._level = self._ceiling
        self._refused_at: float | None = None
        self._hold_s = _HOLD_S
        self._held_until_s: float | None = None
        self._usual_s = _USUAL_S
        self.round = 0
        """The present round; a request takes it along when it is sent."""

    @property
    def level(self) -> float:
        """Requests allowed in flight; below one the share of the time that one may be."""
        return self._level

    @property
    def beyond(self) -> bool:
        """Whether more is allowed now than was refused last."""
        return self._refused_at is None or self._level > self._refused_at

    def succeeded(self, sent_in_round: int, now_s: float, seconds: float, *, full: bool) -> None:
        """Go back up a little.

        Args:
            sent_in_round: Round of the request; nothing follows from one that was sent before the last refusal.
            now_s: The time.
            seconds: What the request took.
            full: Whether about as many were in flight as are allowed; that fewer were answered proves nothing.
        """
        self._usual_s += (seconds - self._usual_s) / 8
        if sent_in_round != self.round or not full or self._refused_at is None:
            return
        share = 1.0 / max(1.0, self._level)  # as many answers as are allowed make a round
        edge = _PLATEAU * self._refused_at
        if self._level < edge:
            self._level = min(edge, self._level + share * max(self._refused_at - self._level, edge / 8) / 2)
        elif self._held_until_s is None:
            self._held_until_s = now_s + self._hold_s * (0.5 + self._draw())
        elif now_s >= self._held_until_s:
            doublings = min(_DOUBLINGS, now_s - self._held_until_s)
            self._rise(share * _STEP * self._refused_at * 2**doublings)

    def refused(self, sent_in_round: int, now_s: float, level: float, out: int) -> bool:
        """Halve what is allowed, once for all requests sent in the same round; return whether this one did.

        Args:
            sent_in_round: Round of the request.
            now_s: The time.
            level: What was made use of: the lower one of what is allowed and what is wanted.
            out: How many were out when it was sent, itself included. Where several were sent at once, the first one
                that was refused says where the limit is.
        """
        if sent_in_round != self.round:
            if sent_in_round == self.round - 1 and self._refused_at is not None and out > self._level:
                self._refused_at = min(self._refused_at, out)
            return False
        level = min(level, self._level)
        mark = out if level / 2 < out < level else level
        before = self._refused_at
        if before is None or not _SAME * before < mark < before / _SAME:
            self._hold_s = _HOLD_S
        elif self._held_until_s is not None and now_s >= self._held_until_s:
            self._hold_s = min(_HOLD_MAX_S, 2 * self._hold_s)
            mark = min(mark, before)  # refused twice: how far it went beyond says nothing
        self._refused_at, self._held_until_s = mark, None
        self._level = max(LEAST, level / 2)
        self.round += 1
        return True

    def pause_s(self) -> float:
        """Return how long to send nothing after a request has ended."""
        if self._level >= 1:
            return 0.0
        return min(_PAUSE_MAX_S, self._usual_s * (1 / self._level - 1)) * (0.5 + self._draw())

    def _rise(self, by: float) -> None:
        self._level += by
        if self._level >= self._ceiling:
            self._level, self._refused_at, self._hold_s = self._ceiling, None, _HOLD_S

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` unless what is allowed is between its bounds, and the plateau below what failed."""
        assert LEAST <= self._level <= self._ceiling, (self._level, self._ceiling)
        assert self._refused_at is not None or self._level == self._ceiling, self._level
        assert _HOLD_S <= self._hold_s <= _HOLD_MAX_S, self._hold_s
