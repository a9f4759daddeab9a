"""What is known about single names, and for how long it may be trusted.

A name is known in one of three ways: it was looked up and is there (trusted for the TTL), it was looked up and is not
there (a *negative dentry*, trusted for the negative TTL, much shorter, because people wait for a file to appear), or
the directory was listed. A listing knows the names that it holds, each from when its page was asked for, and once it is
complete it knows that there are no others, from when it began: for the TTL where somebody has read it, for the negative
TTL where it was made for look-ups alone. Where several know something, the latest to have asked the store is right.

Time is an argument, on any clock that does not go backwards. The tables are bounded, and what was added first goes
first; what has grown old is removed when somebody says that it is time to.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.core.listing import Dentry, Listing
    from tigrismount.core.names import DirectoryKey

V = TypeVar("V")

DENTRY_LIMIT = 65_536
"""Looked-up names remembered; as many as nodes that nobody refers to."""

NEGATIVE_LIMIT = 65_536
"""Missing names remembered: enough for a Python program that searches all of its path here, at 200 bytes each."""


@dataclass(frozen=True, slots=True)
class Known:
    """An answer to a look-up."""

    dentry: Dentry | None
    """What the name stands for; None: there is no such name."""
    observed_s: float
    """When the store was asked."""
    ttl_s: float
    """Seconds the kernel may trust it, ``>= 0``."""


class Dentries:
    """Names looked up, there or missing.

    Args:
        ttl_s: Seconds a name that is there is trusted.
        negative_ttl_s: Seconds a name that was looked up and is missing is trusted to be so.
        limit: Most names that are there.
        negative_limit: Most names that are missing.
    """

    def __init__(
        self, *, ttl_s: float, negative_ttl_s: float, limit: int = DENTRY_LIMIT, negative_limit: int = NEGATIVE_LIMIT
    ) -> None:
        self._ttl_s = ttl_s
        self._negative_ttl_s = negative_ttl_s
        self._there: _Bounded[Dentry] = _Bounded(limit)
        self._missing: _Bounded[float] = _Bounded(negative_limit)

    @property
    def positive_count(self) -> int:
        """Names remembered that are there."""
        return len(self._there)

    @property
    def negative_count(self) -> int:
        """Names remembered that are missing."""
        return len(self._missing)

    def add(self, where: DirectoryKey, dentry: Dentry, now_s: float) -> Known:
        """Remember a name that was looked up and is there; return the answer."""
        self._missing.drop((where, dentry.name))
        self._there.put((where, dentry.name), dentry)
        return self.positive(dentry, now_s)

    def add_missing(self, where: DirectoryKey, name: bytes, observed_s: float, now_s: float) -> Known:
        """Remember a name that was looked up and is not there; return the answer."""
        self._there.drop((where, name))
        self._missing.put((where, name), observed_s)
        return self._negative(observed_s, observed_s + self._negative_ttl_s, now_s)

    def expire(self, places: Callable[[DirectoryKey, bytes], bool]) -> list[tuple[DirectoryKey, bytes]]:
        """Forget the names, there or missing, that *places* holds true of; return the missing ones."""
        self._there.drop_all(places)
        return self._missing.drop_all(places)

    def drop_old(self, now_s: float) -> None:
        """Forget what is not trusted any more; the kernel was told to trust it no longer than that."""
        self._there.drop_first(lambda dentry: now_s >= dentry.observed_s + self._ttl_s)
        # What a listing knew to be missing, the kernel may have been told to trust until the listing is old.
        missing_s = max(self._ttl_s, self._negative_ttl_s)
        self._missing.drop_first(lambda observed_s: now_s >= observed_s + missing_s)

    def positive(self, dentry: Dentry, now_s: float) -> Known:
        """Return the answer that *dentry* gives now."""
        return Known(dentry, dentry.observed_s, self.ttl_s(dentry, now_s))

    def ttl_s(self, dentry: Dentry, now_s: float) -> float:
        """Return the seconds that *dentry* may still be trusted, 0 where it is old."""
        return max(0.0, dentry.observed_s + self._ttl_s - now_s)

    def find(self, where: DirectoryKey, name: bytes, listing: Listing | None, now_s: float) -> Known | None:
        """Return what is known about *name* and fresh, None when the store must be asked.

        Args:
            where: The directory.
            name: Name in it.
            listing: The newest listing of that directory, if there is one.
            now_s: The time.
        """
        answers = [self._find_there(where, name, now_s), self._find_missing(where, name, now_s)]
        if listing is not None:
            answers.append(self._find_listed(listing, name, now_s))
        return max((known for known in answers if known is not None), key=_observed_s, default=None)

    def _find_there(self, where: DirectoryKey, name: bytes, now_s: float) -> Known | None:
        dentry = self._there.get((where, name))
        return self.positive(dentry, now_s) if dentry and now_s < dentry.observed_s + self._ttl_s else None

    def _find_missing(self, where: DirectoryKey, name: bytes, now_s: float) -> Known | None:
        observed_s = self._missing.get((where, name))
        if observed_s is None or now_s >= observed_s + self._negative_ttl_s:
            return None
        return self._negative(observed_s, observed_s + self._negative_ttl_s, now_s)

    def _find_listed(self, listing: Listing, name: bytes, now_s: float) -> Known | None:
        dentry = listing.find(name)
        if dentry is not None:
            missing_s = self._missing.get((listing.where, name))
            if missing_s is not None and missing_s > dentry.observed_s:
                return None  # it was found to be gone since: no answer of then brings it back
            return self.positive(dentry, now_s) if now_s < dentry.observed_s + self._ttl_s else None
        ttl_s = self._ttl_s if listing.was_read else min(self._ttl_s, self._negative_ttl_s)
        if not listing.complete or now_s >= listing.started_s + ttl_s:
            return None
        return self._negative(listing.started_s, listing.started_s + ttl_s, now_s)

    def _negative(self, observed_s: float, until_s: float, now_s: float) -> Known:
        # The kernel is told no more than the negative TTL also where a listing knows it for longer: asking again
        # costs it a call to us, and us no request.
        return Known(None, observed_s, max(0.0, min(self._negative_ttl_s, until_s - now_s)))


def _observed_s(known: Known) -> float:
    return known.observed_s


class _Bounded(Generic[V]):
    """A table of names that drops what was put first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._table: OrderedDict[tuple[DirectoryKey, bytes], V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._table)

    def get(self, place: tuple[DirectoryKey, bytes]) -> V | None:
        return self._table.get(place)

    def put(self, place: tuple[DirectoryKey, bytes], value: V) -> None:
        self._table.pop(place, None)
        self._table[place] = value
        if len(self._table) > self._limit:
            self._table.popitem(last=False)

    def drop(self, place: tuple[DirectoryKey, bytes]) -> None:
        self._table.pop(place, None)

    def drop_first(self, is_old: Callable[[V], bool]) -> None:
        """Drop the first ones, as far as they are old."""
        while self._table and is_old(next(iter(self._table.values()))):
            self._table.popitem(last=False)

    def drop_all(self, places: Callable[[DirectoryKey, bytes], bool]) -> list[tuple[DirectoryKey, bytes]]:
        dropped = [place for place in self._table if places(*place)]
        for place in dropped:
            del self._table[place]
        return dropped
