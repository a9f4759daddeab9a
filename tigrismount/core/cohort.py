"""What a number of GETs say together about one setting: bytes a second, and how sure that is.

A *cohort* is a fixed number of GETs that were sent one after the other. It is complete when nearly all of them have
ended, so that the quick ones, which end first, do not speak for all. What counts is what each brought in the time it
was out, waiting for the first byte included: bytes by second and GET, times GETs that were out meanwhile, is what the
network gave (Little's law), and it stays right when fewer were out than allowed, or when all of them end together.
"""

from __future__ import annotations

import math

_LATE = 10
"""One in so many need not be waited for."""


class Cohort:
    """Some GETs, sent at one setting.

    Args:
        count: How many.
    """

    __slots__ = ("_bytes", "_count", "_ended", "_first", "_flight_s", "_seconds", "_sent", "_squares", "_valid")

    def __init__(self, count: int) -> None:
        self._count = self._first = count
        self._sent = self._ended = self._valid = 0
        self._bytes = self._seconds = self._flight_s = self._squares = 0.0

    def admit(self) -> bool:
        """Take in a GET that is sent now; return False when no more are needed."""
        if self._sent >= self._count:
            return False
        self._sent += 1
        return True

    def add(self, count_bytes: int, seconds: float, in_flight: float) -> None:
        """Note that one has ended.

        Args:
            count_bytes: What it brought.
            seconds: How long it was out.
            in_flight: How many were out meanwhile, itself included, in the mean.
        """
        self._ended += 1
        self._valid += 1
        self._bytes += count_bytes
        self._seconds += seconds
        self._flight_s += seconds * in_flight
        self._squares += (seconds / count_bytes) ** 2

    def skip(self) -> None:
        """Note that one has ended that says nothing."""
        self._ended += 1

    def extend(self) -> None:
        """Take in as many more as there were at first."""
        self._count += self._first

    @property
    def complete(self) -> bool:
        """Whether nearly all have ended."""
        return self._sent >= self._count and self._ended >= self._count - self._count // _LATE

    @property
    def valid(self) -> bool:
        """Whether enough of them say something."""
        return 2 * self._valid > self._ended

    @property
    def cohorts(self) -> int:
        """How many times as many were taken in as at first."""
        return self._count // self._first

    @property
    def in_flight(self) -> float:
        """How many were out, in the mean."""
        return self._flight_s / self._seconds

    @property
    def rate_bytes_s(self) -> float:
        """What one GET brought, a second."""
        return self._bytes / self._seconds

    @property
    def goodput_bytes_s(self) -> float:
        """What all GETs together brought, a second."""
        return self.rate_bytes_s * self.in_flight

    @property
    def error(self) -> float:
        """Standard error of the rate, as a share of it."""
        mean = self._seconds / self._bytes
        variance = max(0.0, self._squares / self._valid - mean * mean)
        return math.sqrt(variance / self._valid) / mean


def elasticity(fewer: Cohort, more: Cohort) -> tuple[float, float]:
    """Return by how many percent the goodput rises where the GETs in flight rise by one, and the error of that.

    One says that each GET brings what it brought before, nought that they only share.
    """
    wider = math.log(more.in_flight / fewer.in_flight)
    faster = math.log(more.goodput_bytes_s / fewer.goodput_bytes_s)
    return faster / wider, math.hypot(fewer.error, more.error) / abs(wider)
