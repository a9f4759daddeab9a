"""Which cached object versions must go, decided and not done.

``Occupancy`` is the book of who takes how many bytes and when it was last used. ``plan`` answers with the least
recently used versions that must be evicted for a number of bytes to fit; the cache around it removes them and
reports back with ``remove``. Versions go one after the other, never a little of each: a model with holes is a slow
load. Of the last one only ``last_bytes`` have to go, so a large model does not leave for the sake of a small one.

Pinned versions are never chosen: they are open, and a reader counts on them. A plan may therefore come out short
(``enough`` is False); then nothing should be evicted for the sake of a write that cannot be kept anyway.

Recency is any number that grows, given by the caller: this module knows no clock.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterator, Mapping

    Name = TypeVar("Name", bound=Hashable)
else:
    Name = TypeVar("Name")

SORTED_AT_ONCE = 4096
"""Versions sorted in one go, a millisecond."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one object version takes."""

    size_bytes: int
    """Bytes of its blocks in the cache."""
    last_used: int
    """When it was last opened or closed; only the order counts."""


@dataclass(frozen=True, slots=True)
class Eviction(Generic[Name]):
    """A decision: what to evict so that something fits."""

    victims: tuple[Name, ...]
    """Versions to evict, least recently used first."""
    freed_bytes: int
    """Bytes they take together."""
    enough: bool
    """Whether evicting them makes the room that was asked for."""
    last_bytes: int = 0
    """How many bytes of the last victim must go: all it takes, or less. The slack may go on top."""


class Occupancy(Generic[Name]):
    """Sizes, recency and pins of everything in a cache of bounded size.

    Args:
        capacity_bytes: Most bytes the cache may hold.
        slack_bytes: How much more than asked an eviction may free, so that a full cache of small files does not plan
            anew for every block. A version that is larger than the slack never goes for it.
    """

    def __init__(self, capacity_bytes: int, *, slack_bytes: int = 0) -> None:
        self.capacity_bytes = capacity_bytes
        self.slack_bytes = slack_bytes
        self._usages: dict[Name, Usage] = {}
        self._pins: Counter[Name] = Counter()
        self._total_bytes = 0

    @property
    def total_bytes(self) -> int:
        """Bytes of everything in the cache."""
        return self._total_bytes

    def __len__(self) -> int:
        return len(self._usages)

    def size_bytes(self, name: Name) -> int:
        """Return the bytes *name* takes, 0 when it is not in the cache."""
        usage = self._usages.get(name)
        return usage.size_bytes if usage else 0

    def replace(self, usages: Mapping[Name, Usage]) -> None:
        """Take *usages* for the whole truth; pins stay (other processes change what is in the cache, not what is open).

        Args:
            usages: Every version in the cache.
        """
        self._usages = dict(usages)
        self._total_bytes = sum(usage.size_bytes for usage in usages.values())

    def add(self, name: Name, size_bytes: int, last_used: int) -> None:
        """Note that *name* grew by *size_bytes*, now."""
        self._usages[name] = Usage(self.size_bytes(name) + size_bytes, last_used)
        self._total_bytes += size_bytes

    def shrink(self, name: Name, size_bytes: int) -> None:
        """Note that *name* lost *size_bytes*, which is no use of it."""
        usage = self._usages[name]
        self._usages[name] = Usage(usage.size_bytes - size_bytes, usage.last_used)
        self._total_bytes -= size_bytes

    def touch(self, name: Name, last_used: int) -> None:
        """Note that *name* is used now; unknown names are ignored."""
        usage = self._usages.get(name)
        if usage is not None:
            self._usages[name] = Usage(usage.size_bytes, max(usage.last_used, last_used))

    def remove(self, name: Name) -> None:
        """Note that *name* is gone; unknown names are ignored."""
        usage = self._usages.pop(name, None)
        if usage is not None:
            self._total_bytes -= usage.size_bytes

    def pin(self, name: Name) -> None:
        """Keep *name* from eviction until as many ``unpin`` follow."""
        self._pins[name] += 1

    def unpin(self, name: Name) -> None:
        """Take back one ``pin``."""
        assert self._pins[name] > 0, "unpin without pin"
        self._pins[name] -= 1
        if not self._pins[name]:
            del self._pins[name]

    def plan(
        self, need_bytes: int, *, disk_room_bytes: int | None = None, busy: Collection[Name] = ()
    ) -> Eviction[Name]:
        """Return what to evict so that *need_bytes* more fit.

        Args:
            need_bytes: Bytes about to be added, reservations of others included; 0 asks for no more than the bound.
            disk_room_bytes: Bytes the filesystem has above its floor (negative: below it), None when it has plenty.
            busy: Versions that another process has open: as good as pinned.

        Returns:
            Victims in least recently used order; none when it fits as it is.
        """
        room_bytes = self.capacity_bytes - self._total_bytes
        if disk_room_bytes is not None:
            room_bytes = min(room_bytes, disk_room_bytes)
        excess_bytes = need_bytes - room_bytes
        if excess_bytes <= 0:
            return Eviction((), 0, enough=True)
        victims: list[Name] = []
        freed_bytes = last_bytes = 0
        for name in self._oldest_first(busy):
            size_bytes = self._usages[name].size_bytes
            if freed_bytes >= excess_bytes and freed_bytes + size_bytes > excess_bytes + self.slack_bytes:
                break
            victims.append(name)
            last_bytes = min(size_bytes, max(0, excess_bytes - freed_bytes) or size_bytes)
            freed_bytes += size_bytes
        return Eviction(tuple(victims), freed_bytes, enough=freed_bytes >= excess_bytes, last_bytes=last_bytes)

    def _oldest_first(self, busy: Collection[Name]) -> Iterator[Name]:
        """Yield what may go, sorted piece by piece: to sort a million in one go would keep all threads waiting."""

        def last_used(name: Name) -> int:
            return self._usages[name].last_used

        free = (name for name in self._usages if name not in self._pins and name not in busy)
        pieces = []
        while piece := sorted(islice(free, SORTED_AT_ONCE), key=last_used):
            pieces.append(piece)
        return heapq.merge(*pieces, key=last_used)

    def check_invariants(self) -> None:
        """Raise ``AssertionError`` when the book does not add up; for tests."""
        assert self._total_bytes == sum(usage.size_bytes for usage in self._usages.values())
        assert all(usage.size_bytes >= 0 for usage in self._usages.values())
        assert all(count > 0 for count in self._pins.values())
