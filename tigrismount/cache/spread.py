"""One cache over several directories, each on a drive of its own and complete in itself.

An object version lives in one directory, chosen by weighted rendezvous hashing (``core.placement``): every daemon that
has the same directories chooses alike, drives fill in proportion to their sizes, and adding or losing one moves only
what has to move. A directory that cannot be opened, or whose disk fails, loses its own blocks and nothing else: its
versions go to the directory that is next in their order for as long as that lasts.

Small records live in the first directory that works, but for verdicts on checksums: those are in all of them. Whoever
names the directories in another order, or has lost the first one, must refuse what was found wrong, too.
"""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import TYPE_CHECKING

import trio

from tigrismount.cache.base import CacheStatistics
from tigrismount.cache.disk import DiskBlockCache
from tigrismount.cache.none import UncachedObject
from tigrismount.cache.records import object_digest
from tigrismount.core.placement import preference
from tigrismount.errors import CacheError, ConfigError, TigrisMountError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tigrismount.cache.base import CachedObject, RecordStore
    from tigrismount.cache.options import DiskCacheConfig
    from tigrismount.core.types import ObjectId

_log = logging.getLogger(__name__)

_EVERYWHERE = "checksums"
"""The table that is kept in every directory."""


class SpreadBlockCache:
    """A ``BlockCache`` over several directories. Made by ``open``.

    Args:
        caches: The directories that could be opened, with their configurations.
        lost: Why others could not, by directory.
        store_id: Store the objects come from.
    """

    def __init__(
        self, caches: Sequence[tuple[DiskCacheConfig, DiskBlockCache]], lost: dict[str, str], *, store_id: str
    ) -> None:
        self._caches = {config.directory: cache for config, cache in caches}
        self._weights = {config.directory: config.weight for config, _ in caches}
        self._sizes = {config.directory: config.size_bytes for config, _ in caches}
        self._block_bytes = caches[0][0].block_bytes
        self._lost = lost
        self._store_id = store_id

    @classmethod
    async def open(
        cls,
        configs: Sequence[DiskCacheConfig],
        open_one: Callable[..., Awaitable[DiskBlockCache]] = DiskBlockCache.open,
        *,
        store_id: str,
    ) -> SpreadBlockCache:
        """Open every directory that can be opened.

        Args:
            configs: The directories and their bounds.
            open_one: Opens one of them.
            store_id: Store the objects come from.

        Raises:
            ConfigError: None of them can be used; the reason is the first one's.
            CacheError: Likewise.
        """
        opened: dict[str, tuple[DiskCacheConfig, DiskBlockCache]] = {}
        failures: dict[str, TigrisMountError] = {}

        async def open_(config: DiskCacheConfig) -> None:
            try:
                opened[config.directory] = config, await open_one(config, store_id=store_id)
            except (CacheError, ConfigError) as error:
                failures[config.directory] = error

        try:
            async with trio.open_nursery() as nursery:
                for config in configs:
                    nursery.start_soon(open_, config)
        except BaseException:
            with trio.CancelScope(shield=True):
                for _, cache in opened.values():
                    await cache.aclose()
            raise
        if not opened:
            raise failures[configs[0].directory]
        for error in failures.values():
            _log.warning("going on without a part of the disk cache: %s", error)
        lost = {directory: str(error) for directory, error in failures.items()}
        in_order = [opened[config.directory] for config in configs if config.directory in opened]
        return cls(in_order, lost, store_id=store_id)

    @property
    def records(self) -> RecordStore:
        """Small records, in the first directory that works; verdicts in each of them."""
        return _SpreadRecords(list(self._caches.values()))

    async def open_object(self, obj: ObjectId) -> CachedObject:
        """Return a pinned handle on *obj*, from the directory where it belongs or the next one that works."""
        if not obj.cacheable:
            await trio.lowlevel.checkpoint()
            return UncachedObject(self._block_bytes)
        order = preference(object_digest(self._store_id, obj), self._weights)
        # One that cannot hold all of it comes last: it would be emptied of all else for it, and never have it whole.
        order.sort(key=lambda directory: self._sizes[directory] < obj.size_bytes)
        for directory in order:
            cache = self._caches[directory]
            handle = await cache.open_object(obj)
            # A disk that is full or read-only still serves what it has.
            if handle.count() or not cache.failing:
                return handle
            handle.close()
        return UncachedObject(self._block_bytes)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after all directories until cancelled."""
        async with trio.open_nursery() as nursery:
            for cache in self._caches.values():
                await nursery.start(cache.run)
            task_status.started()

    def tables(self) -> dict[str, int]:
        """Return how much is remembered, by kind; the sums over all directories."""
        each = [cache.tables() for cache in self._caches.values()]
        return {name: sum(tables[name] for tables in each) for name in each[0]}

    def statistics(self) -> CacheStatistics:
        """Return the sums over all directories, the largest for one version, and each one's trouble under its name."""
        each = {directory: cache.statistics() for directory, cache in self._caches.items()}
        sums = {
            item.name: sum(getattr(statistics, item.name) for statistics in each.values())
            for item in fields(CacheStatistics)
            if item.name not in ("degraded", "largest_bytes")
        }
        reasons = {directory: statistics.degraded for directory, statistics in each.items()} | self._lost
        degraded = "; ".join(f"{directory}: {why}" for directory, why in reasons.items() if why)
        largest_bytes = max(statistics.largest_bytes for statistics in each.values())
        return CacheStatistics(**sums, largest_bytes=largest_bytes, degraded=degraded)

    async def aclose(self) -> None:
        """Close all directories. Idempotent."""
        for cache in self._caches.values():
            await cache.aclose()


class _SpreadRecords:
    """The ``RecordStore`` of several directories.

    Args:
        caches: The directories.
    """

    def __init__(self, caches: Sequence[DiskBlockCache]) -> None:
        self._caches = caches

    def _of(self, table: str) -> Sequence[DiskBlockCache]:
        """Return the directories that work and keep a table; where none works, all that keep it."""
        working = [cache for cache in self._caches if not cache.failing] or self._caches
        return working if table == _EVERYWHERE else working[:1]

    def _besides(self, table: str) -> Sequence[DiskBlockCache]:
        """Return the others that keep it.

        A disk that fails, as a full one does, may have what no other has, and be read all the same; and what is taken
        back while it fails would be there again later. One that hangs would have everybody wait in vain.
        """
        working = self._of(table)
        others = [cache for cache in self._caches if cache not in working and not cache.records.is_silent]
        return others if table == _EVERYWHERE else ()

    async def get(self, table: str, key: bytes) -> bytes | None:
        for cache in self._of(table):
            value = await cache.records.get(table, key)
            if value is not None:
                return value
        return None

    async def put(self, table: str, key: bytes, value: bytes) -> bool:
        working, others = self._of(table), self._besides(table)
        kept = all([await cache.records.put(table, key, value) for cache in working])
        for cache in others:
            await cache.records.put(table, key, value)
        return kept

    async def delete(self, table: str, key: bytes) -> None:
        for cache in (*self._of(table), *self._besides(table)):
            await cache.records.delete(table, key)

    async def items(self, table: str, prefix: bytes = b"", limit: int = 1000) -> list[tuple[bytes, bytes]] | None:
        found: set[tuple[bytes, bytes]] = set()  # of one key all that they have: one that was away has what was before
        working, others = self._of(table), self._besides(table)
        for cache in working:
            rows = await cache.records.items(table, prefix, limit)
            if rows is None:
                return None
            found.update(rows)
        for cache in others:
            found.update(await cache.records.items(table, prefix, limit) or ())
        return sorted(found)[:limit]
