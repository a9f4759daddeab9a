"""Which GET in flight lags so far behind the others that another one would be done sooner.

Stores answer most requests alike and a few of them very late: a slow disk, a lost packet, a connection that went to a
busy server. A reader waits for the slowest of the GETs it needs, so that few decide how long a load takes. Two figures
of the GETs that ended lately tell what is usual, the time to the first byte and the rate of a body, and one that
stays far behind both is worth giving up: asked again from where it is, its rest comes at the usual pace.

The usual pace is that of *this* store, network and load at this moment. Where everything becomes slow, the figures
follow, and until they do a budget keeps the harm small: a GET is given up only against a share of those that ended
well. Rates are medians and times upper quartiles, so that the few slow ones do not become the usual.

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
_SAVED_MAX = 40
"""Of those that ended well, the most that count: at most four are given up in a row, when all becomes slow at once."""
_LATE = 2.0
"""A first byte is late after this many times the usual time, and the slack."""
_SLACK_S = 0.02
"""What this machine's own threads may add to a time."""
_LOOK_SHARE = 0.4
"""A body is looked at each time the usual one would have brought this share of it."""
_LOOK_MIN_S = 0.04
"""Shortest time between two looks: a read of the socket is a megabyte, and a thread may wait for its turn."""
_LATER_S = 1.0
"""When to look again where nothing is known yet."""
_BEHIND = 0.25
"""A body that brought less than this share of the usual since the last look is behind."""


class Pace:
    """What is usual among the GETs of one store, and how many may still be given up."""

    __slots__ = ("_first_byte_s", "_rate_bytes_s", "_saved")

    def __init__(self) -> None:
        self._first_byte_s: deque[float] = deque(maxlen=_SAMPLES)
        self._rate_bytes_s: deque[float] = deque(maxlen=_SAMPLES)
        self._saved = 0

    @property
    def usual_first_byte_s(self) -> float | None:
        """Seconds within which three of four answers began; None while too few are known."""
        return _quantile(self._first_byte_s, 0.75)

    @property
    def usual_rate_bytes_s(self) -> float | None:
        """Bytes a second of the middle one of the bodies; None while too few are known."""
        return _quantile(self._rate_bytes_s, 0.5)

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
            rate_bytes_s = self._pace.usual_rate_bytes_s
            return _LATER_S if rate_bytes_s is None else self._body(now_s, answered_s, received_bytes, rate_bytes_s)
        usual_s = self._pace.usual_first_byte_s
        if usual_s is None:
            return _LATER_S
        bound_s = max(_LATE * usual_s + _SLACK_S, _LOOK_MIN_S)
        return bound_s if sent_s is None else max(0.0, sent_s + bound_s - now_s)

    def _body(self, now_s: float, answered_s: float, received_bytes: int, rate_bytes_s: float) -> float:
        if self._look_s is None:
            self._look_s = answered_s
        every_s = max(_LOOK_MIN_S, _LOOK_SHARE * self._wanted_bytes / rate_bytes_s)
        elapsed_s = now_s - self._look_s
        if elapsed_s < every_s:
            return every_s - elapsed_s
        left_bytes = self._wanted_bytes - self._seen_bytes
        usual_bytes = min(rate_bytes_s * elapsed_s, left_bytes)
        if received_bytes - self._seen_bytes < _BEHIND * usual_bytes:
            return 0.0
        self._look_s, self._seen_bytes = now_s, received_bytes
        return every_s


def _quantile(samples: deque[float], share: float) -> float | None:
    if len(samples) < _SAMPLES_MIN:
        return None
    return sorted(samples)[int(share * (len(samples) - 1))]
