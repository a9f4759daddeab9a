"""Which GET in flight lags so far behind the others that another one would be done sooner.

Stores answer most requests alike and a few of them very late: a slow disk, a lost packet, a connection that went to a
busy server. A reader waits for the slowest of the GETs it needs, so that few decide how long a load takes. Two figures
of the GETs that ended lately tell what is usual, the time to the first byte and the rate of a body, and one that
stays far behind both is worth giving up: asked again from where it is, its rest comes at the usual pace.

The usual pace is that of *this* store, network and load at this moment. Where everything becomes slow, the figures
follow, and until they do a budget keeps the harm small: a GET is given up only against a share of those that ended
well. How much times differ anyway is part of what is usual: where they scatter, more is borne. All figures are
quantiles that the slowest tenth does not touch, so that the few slow ones do not become the usual.

Source: Dean and Barroso, "The Tail at Scale", 2013 (hedged requests, and why their number must be bounded).
"""

from __future__ import annotations

from collections import deque

_SAMPLES = 64
"""GETs that say what is usual: the last second or so of a load, and enough for a quartile."""
_SAMPLES_MIN = 8
"""Fewer say nothing: until then no GET is given up."""
_RATE_BYTES_MIN = 1 << 20
"""Shorter bodies say nothing about a rate: they lie in the socket's buffer when the answer is seen."""
_ENDED_PER_GIVEN_UP = 10
"""GETs that must end well for one to be given up: half as many as between two slow ones where one in twenty is."""
_SAVED_MAX = 80
"""Of those that ended well, the most that count: at most eight are given up in a row, when all becomes slow at once."""
_SCATTER = 3.0
"""A first byte is late when it comes this many times the usual scatter, and the slack, after the usual time."""
_SLACK_S = 0.02
"""What this machine's own threads may add to a time."""
_LOOK_SHARE = 0.4
"""A body is looked at each time the usual one would have brought this share of it."""
_LOOK_MIN_S = 0.04
"""Shortest time between two looks: a read of the socket is a megabyte, and a thread may wait for its turn."""
_LATER_S = 1.0
"""When to look again where nothing is known yet."""
_BEHIND = 0.25
"""A body is behind that brought less than this share of the usual since the last look."""
_BEHIND_SLOW = 0.5
"""And less than this share of what slow bodies brought."""


class Pace:
    """What is usual among the GETs of one store, and how many may still be given up."""

    __slots__ = ("_first_byte_s", "_rate_bytes_s", "_saved")

    def __init__(self) -> None:
        self._first_byte_s: deque[float] = deque(maxlen=_SAMPLES)
        self._rate_bytes_s: deque[float] = deque(maxlen=_SAMPLES)
        self._saved = 0

    @property
    def first_byte_bound_s(self) -> float | None:
        """Seconds after which an answer that has not begun is late; None while too few are known."""
        if len(self._first_byte_s) < _SAMPLES_MIN:
            return None
        middle, upper, slow = _quantiles(self._first_byte_s, 0.5, 0.75, 0.9)
        return max(_LOOK_MIN_S, upper + _SCATTER * (slow - middle) + _SLACK_S)

    @property
    def usual_rates_bytes_s(self) -> tuple[float, float] | None:
        """Bytes a second of a slow body (nine of ten are faster) and of the middle one; None while few are known."""
        if len(self._rate_bytes_s) < _SAMPLES_MIN:
            return None
        slow, middle = _quantiles(self._rate_bytes_s, 0.1, 0.5)
        return slow, middle

    def ended(self, first_byte_s: float, body_s: float, body_bytes: int) -> None:
        """Note a GET that ended well.

        Args:
            first_byte_s: From the request to its answer.
            body_s: From the answer to the end of the body.
            body_bytes: What came in it.
        """
        self._first_byte_s.append(first_byte_s)
        if body_bytes >= _RATE_BYTES_MIN:
            self._rate_bytes_s.append(body_bytes / max(body_s, 1e-4))
        self._saved = min(_SAVED_MAX, self._saved + 1)

    def give_up(self) -> bool:
        """Take one from the budget; return False when there is none."""
        if self._saved < _ENDED_PER_GIVEN_UP:
            return False
        self._saved -= _ENDED_PER_GIVEN_UP
        return True

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` unless the budget is within its bounds."""
        assert 0 <= self._saved <= _SAVED_MAX, self._saved


class Watch:
    """Looks at one GET from time to time.

    Args:
        pace: What is usual.
        wanted_bytes: Length of the body.
    """

    __slots__ = ("_look_s", "_pace", "_seen_bytes", "_wanted_bytes")

    def __init__(self, pace: Pace, wanted_bytes: int) -> None:
        self._pace = pace
        self._wanted_bytes = wanted_bytes
        self._seen_bytes = 0
        self._look_s: float | None = None
        """When the body was looked at last; None before its first byte."""

    def look(self, now_s: float, sent_s: float | None, answered_s: float | None, received_bytes: int) -> float:
        """Return in how many seconds to look again; zero when the GET is far behind.

        Args:
            now_s: The time.
            sent_s: When the request was sent; None while it waits for its turn.
            answered_s: When the answer began; None before.
            received_bytes: What came of the body.
        """
        if answered_s is not None:
            rates_bytes_s = self._pace.usual_rates_bytes_s
            return _LATER_S if rates_bytes_s is None else self._body(now_s, answered_s, received_bytes, *rates_bytes_s)
        bound_s = self._pace.first_byte_bound_s
        if bound_s is None:
            return _LATER_S
        return bound_s if sent_s is None else max(0.0, sent_s + bound_s - now_s)

    def _body(self, now_s: float, answered_s: float, received_bytes: int, slow: float, middle: float) -> float:
        """Look at the body; *slow* and *middle* are the usual rates."""
        if self._look_s is None:
            self._look_s = answered_s
        every_s = max(_LOOK_MIN_S, _LOOK_SHARE * self._wanted_bytes / slow)
        elapsed_s = now_s - self._look_s
        if elapsed_s < every_s:
            return every_s - elapsed_s
        usual_bytes = min(_BEHIND * middle, _BEHIND_SLOW * slow) * elapsed_s
        left_bytes = self._wanted_bytes - self._seen_bytes
        if received_bytes - self._seen_bytes < min(usual_bytes, _BEHIND * left_bytes):
            return 0.0
        self._look_s, self._seen_bytes = now_s, received_bytes
        return every_s


def _quantiles(samples: deque[float], *shares: float) -> list[float]:
    ordered = sorted(samples)
    return [ordered[int(share * (len(ordered) - 1))] for share in shares]
