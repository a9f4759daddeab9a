"""Room for new blocks: reserved before a write, made by evicting what was used least recently.

Two bounds hold at once: ``size_bytes`` for everything in the directory, and a floor of free space on its filesystem.
They hold for all daemons together and at every moment: what is about to be written, and what is forgotten and still on
the disk, is set aside in the index.
Sizes, recency and pinned prefixes come from the index, which all daemons share; who has a version open is known from
this process's handles and from the locks of the others, found when an eviction is tried. ``core.eviction`` decides,
this module asks and acts.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from tigrismount import threads
from tigrismount.cache.datafile import remove_file
from tigrismount.cache.pins import Pins, matches
from tigrismount.cache.reclaim import disk_room_bytes, evict_version, trim_version
from tigrismount.core.eviction import Occupancy, Usage
from tigrismount.errors import CacheCorruptError, CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tigrismount.cache.directory import CacheDirectory
    from tigrismount.cache.index import CacheIndex
    from tigrismount.cache.options import DiskCacheConfig
    from tigrismount.cache.records import BlockRecord
    from tigrismount.core.eviction import Eviction
    from tigrismount.threads import Limiter

_SLACK_FRACTION = 1 / 128
"""An eviction frees this share of the bound on top, so that small files do not cause one each."""
_ATTEMPTS = 16
"""How often room is made that somebody else then takes, before a block is not worth it."""
_INDEX_GROWTH_BYTES = 1 << 20
"""What the index may grow by between two looks at the disk; kept free of data, so that it can."""
_NO_ROOM_PAUSE_S = 5.0
"""How long a cache full of open files is believed to stay so, unless one of ours closes: to look is to walk over all
objects of the index."""


class Room:
    """The bounds of one cache directory, as this process keeps them.

    Args:
        directory: The cache directory.
        index: Its index.
        config: The bounds.
        limiter: Bounds the threads that write.
        recency_ms: Returns uses that are not in the index yet, digest to milliseconds.
        on_evicted: Called with each version that this process has evicted, and whether all of it.
    """

    def __init__(
        self,
        directory: CacheDirectory,
        index: CacheIndex,
        config: DiskCacheConfig,
        *,
        limiter: Limiter,
        recency_ms: Callable[[], Mapping[bytes, int]],
        on_evicted: Callable[[bytes, bool], None],
    ) -> None:
        self._directory = directory
        self._index = index
        self._config = config
        self._limiter = limiter
        self._recency_ms = recency_ms
        self._on_evicted = on_evicted
        slack_bytes = int(config.size_bytes * _SLACK_FRACTION)
        self._occupancy: Occupancy[bytes] = Occupancy(config.size_bytes, slack_bytes=slack_bytes)
        self._disk_room_bytes = disk_room_bytes(directory, config.free_floor_fraction)
        self._no_room_until_s = 0.0
        self._quota_evictions = 0
        self._quota_gives_way = True
        """Whether a write went well since enough was evicted for one that a quota had refused."""
        self._evicting = trio.Lock()

    @property
    def below_floor(self) -> bool:
        """Whether the filesystem has less free space than it must keep, or none for a block if all others went."""
        return self._disk_room_bytes <= _INDEX_GROWTH_BYTES or self._left_bytes < self._config.block_bytes

    @property
    def most_bytes(self) -> int:
        """What the cache could hold beside what others have on its filesystem, no more than its bound."""
        return max(0, min(self._config.size_bytes, self._left_bytes))

    @property
    def _left_bytes(self) -> int:
        """What others have left of the filesystem, what is in the cache included."""
        return self._index.bytes_cached + self._disk_room_bytes - _INDEX_GROWTH_BYTES

    @property
    def worth_a_try(self) -> bool:
        """Whether a reservation has a chance; False for a while after one had none."""
        return trio.current_time() >= self._no_room_until_s

    def pin(self, digest: bytes) -> None:
        """Keep a version until ``unpin``."""
        self._occupancy.pin(digest)

    def unpin(self, digest: bytes) -> None:
        """Let a version be evicted again."""
        self._occupancy.unpin(digest)
        self._no_room_until_s = 0.0

    async def fill(self, length_bytes: int, write: Callable[[], BlockRecord | None]) -> BlockRecord | None:
        """Run *write* in a thread with *length_bytes* set aside for it, after evicting for them if need be.

        Args:
            length_bytes: How many it writes.
            write: Writes and records them, which takes back what was set aside; or raises, and has recorded nothing.

        Returns:
            What *write* returned; None where there is no room, and it was not called.

        Raises:
            CacheError: The index failed.
            OSError: The disk failed.
            Exception: What *write* raised.
        """
        for _ in range(_ATTEMPTS):
            if self._fits(length_bytes):
                evictions, attempt = self._quota_evictions, partial(self._fill, length_bytes, write)
                try:
                    fits, written = await threads.run_sync(attempt, limiter=self._limiter)
                except OSError as error:
                    if not await self.make_room_in_quota(error, length_bytes, evictions):
                        raise
                    continue
                if fits:
                    self._disk_room_bytes -= length_bytes
                    self._quota_gives_way = True
                    return written
            if trio.current_time() < self._no_room_until_s:
                return None
            async with self._evicting:
                # Whoever had the lock before may have made room for two; the plan says so then.
                if not await self._evict(length_bytes, only_if_enough=True):
                    break
        self._no_room_until_s = trio.current_time() + _NO_ROOM_PAUSE_S
        return None

    def _fill(self, length_bytes: int, write: Callable[[], BlockRecord | None]) -> tuple[bool, BlockRecord | None]:
        """Return whether both bounds allow so many bytes at this moment, and what *write* returned then."""
        room_bytes = disk_room_bytes(self._directory, self._config.free_floor_fraction) - _INDEX_GROWTH_BYTES
        if length_bytes > room_bytes:
            return False, None  # not even asked: the first change to an index takes room of its own
        if not self._index.reserve(length_bytes, self._config.size_bytes, room_bytes):  # for all processes to see
            return False, None
        try:
            return True, write()
        except BaseException:
            self._index.release(length_bytes)
            raise

    def _fits(self, length_bytes: int) -> bool:
        """Tell whether both bounds allow so many bytes, as far as is known here; what is set aside the index knows."""
        fits_bound = self._index.bytes_cached + length_bytes <= self._config.size_bytes
        return fits_bound and length_bytes <= _usable(self._disk_room_bytes, length_bytes)

    async def enforce(self) -> None:
        """Evict what other daemons and other programs have made too much.

        Raises:
            CacheError: The index failed.
            OSError: The disk failed.
        """
        self._disk_room_bytes = await threads.run_sync(self._measure)
        if self._fits(0) or trio.current_time() < self._no_room_until_s:
            return
        async with self._evicting:
            if not await self._evict(0, only_if_enough=False):
                self._no_room_until_s = trio.current_time() + _NO_ROOM_PAUSE_S

    async def make_room_in_quota(self, error: OSError, length_bytes: int, evictions: int | None = None) -> bool:
        """Evict for what a user's quota has refused, of which the filesystem tells nothing.

        Once, and not again before a write has gone well: what the quota is spent on may be none of the cache's.

        Args:
            error: What refused it.
            length_bytes: What was to be written.
            evictions: How often that was done before it was tried to write them; None for now.

        Returns:
            Whether another try is worth it.

        Raises:
            CacheError: The index failed.
            OSError: The disk failed.
        """
        if error.errno != errno.EDQUOT:
            return False
        evictions = self._quota_evictions if evictions is None else evictions
        async with self._evicting:
            if evictions != self._quota_evictions:
                return True  # for another block, meanwhile
            if not self._quota_gives_way:
                return False
            self._quota_evictions += 1
            needed_bytes = max(length_bytes, int(self._index.bytes_cached * _SLACK_FRACTION))
            slack_bytes, self._occupancy.slack_bytes = self._occupancy.slack_bytes, 0  # of the bound, and this is less
            try:
                try:
                    is_enough = await self._evict(needed_bytes, only_if_enough=False, has_room=False)
                except CacheCorruptError:
                    raise
                except CacheError:  # the index has no room either, to forget what is to go
                    await threads.run_sync(partial(self._remove_unforgotten, self._recency_ms(), needed_bytes))
                    is_enough = await self._evict(needed_bytes, only_if_enough=False, has_room=False)
            finally:
                self._occupancy.slack_bytes = slack_bytes
            self._quota_gives_way = not is_enough  # where too little could go, a file that is closed may go next
            return is_enough

    def _remove_unforgotten(self, recency_ms: Mapping[bytes, int], length_bytes: int) -> None:
        """Remove the files of what is to be evicted next before the index forgets them, which takes room of its own.

        As where somebody removes them by hand: who opens such a version sees that there is no file of it.
        """
        plan, _ = self._survey(recency_ms, length_bytes, set(), has_room=False)
        for digest in plan.victims:
            with suppress(OSError):  # one that cannot be opened does not keep the others
                remove_file(self._directory.object_path(digest), self._is_still_ours)

    def _is_still_ours(self) -> bool:
        self._directory.check_same()
        return True

    def _measure(self) -> int:
        self._index.count()  # what others have written meanwhile counts from here on
        return disk_room_bytes(self._directory, self._config.free_floor_fraction)

    async def _evict(self, length_bytes: int, *, only_if_enough: bool, has_room: bool = True) -> bool:
        """Evict for *length_bytes* more; return whether they fit now. Without *has_room* the disk counts as full.

        Raises:
            CacheError: The index failed.
            OSError: The disk failed, or what had to go cannot be opened and the rest is not enough.
        """
        busy: set[bytes] = set()
        failures: list[OSError] = []
        while True:
            survey = partial(self._survey, self._recency_ms(), length_bytes, busy, has_room=has_room)
            plan, self._disk_room_bytes = await threads.run_sync(survey)
            if not plan.victims or (only_if_enough and not plan.enough):
                if failures and not plan.enough:
                    self._no_room_until_s = trio.current_time() + _NO_ROOM_PAUSE_S  # it was tried with every file
                    raise failures[0]
                return plan.enough
            evicted = await threads.run_sync(partial(self._evict_all, plan, failures))
            for digest, freed_bytes in evicted.items():
                self._disk_room_bytes += freed_bytes
                self._on_evicted(digest, freed_bytes >= self._occupancy.size_bytes(digest))
            if len(evicted) == len(plan.victims) and (plan.enough or not failures):
                return plan.enough
            busy.update(set(plan.victims) - evicted.keys())

    def _survey(
        self, recency_ms: Mapping[bytes, int], length_bytes: int, busy: set[bytes], *, has_room: bool
    ) -> tuple[Eviction[bytes], int]:
        """Return what to evict for *length_bytes* more, and what the disk has room for; what is pinned is *busy* too.

        In a thread from beginning to end: a cache may hold a million versions.
        """
        prefixes, objects = Pins(self._index).all(), self._index.objects()
        usages = {
            digest: Usage(record.cached_bytes, max(record.last_used_ms, recency_ms.get(digest, 0)))
            for digest, record in objects.items()
        }
        busy.update(digest for digest, record in objects.items() if matches(record, prefixes))
        need_bytes, room_bytes = self._index.reserved_bytes() + length_bytes, self._measure()
        self._occupancy.replace(usages)
        usable_bytes = _usable(room_bytes, length_bytes) if has_room else min(0, room_bytes)
        return self._occupancy.plan(need_bytes, disk_room_bytes=usable_bytes, busy=busy), room_bytes

    def _evict_all(self, plan: Eviction[bytes], failures: list[OSError]) -> dict[bytes, int]:
        """Evict; return how much of each victim that nobody has open, and note what cannot be opened."""
        evicted = {}
        for digest in plan.victims:
            try:
                freed_bytes = self._evict_one(digest, plan)
            except OSError as error:  # one that cannot be opened does not keep the others
                if self._index.object(digest) is None:
                    raise  # forgotten, and still there: no more of that
                failures.append(error)
                continue
            if freed_bytes is not None:
                evicted[digest] = freed_bytes
        return evicted

    def _evict_one(self, digest: bytes, plan: Eviction[bytes]) -> int | None:
        """Evict one victim; return how much of it, None when somebody has it open."""
        size_bytes = self._occupancy.size_bytes(digest)
        is_last = digest == plan.victims[-1]
        if is_last and plan.enough and plan.last_bytes < size_bytes:
            trimmed_bytes = trim_version(
                self._directory, self._index, digest, plan.last_bytes, slack_bytes=self._occupancy.slack_bytes
            )
            if 0 < trimmed_bytes < size_bytes:
                return trimmed_bytes
        return size_bytes if evict_version(self._directory, self._index, digest) else None


def _usable(room_bytes: int, length_bytes: int) -> int:
    """Return how much of the disk's room data may take, where so much of it is to be written."""
    return room_bytes - (_INDEX_GROWTH_BYTES if length_bytes else 0)
