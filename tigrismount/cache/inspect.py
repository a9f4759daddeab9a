"""Look into a cache directory from outside, while daemons use it: for commands that report.

What changes something is in ``access``. This reads only, needs no event loop, and waits for nobody: LMDB readers do
not disturb writers.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.cache.directory import CacheDirectory
from tigrismount.cache.index import CacheIndex
from tigrismount.cache.kept import RecordTables
from tigrismount.cache.probe import index_damage
from tigrismount.cache.reclaim import disk_room_bytes
from tigrismount.cache.records import SCHEMA, object_digest
from tigrismount.errors import CacheCorruptError, CacheError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tigrismount.cache.records import ObjectRecord
    from tigrismount.core.types import ObjectId


@dataclass(frozen=True, slots=True)
class ObjectReport:
    """One object version in the cache."""

    store_id: str
    """Store it came from."""
    bucket: str
    """Bucket name."""
    key: str
    """Whole key."""
    etag: str
    """Entity tag without quotes."""
    size_bytes: int
    """Size of the object."""
    cached_bytes: int
    """Bytes of it in the cache."""
    last_used_s: float
    """When it was last opened, closed or written; seconds since 1970, up to a second late."""
    is_pinned: bool = False
    """Whether eviction leaves it alone (``cache pin``)."""


@dataclass(frozen=True, slots=True)
class CacheReport:
    """A cache directory at one moment."""

    directory: str
    """The directory."""
    schema: int
    """Version of its layout."""
    objects: int
    """Object versions in it."""
    blocks: int
    """Blocks in it."""
    bytes_cached: int
    """Bytes of those blocks."""
    capacity_bytes: int
    """Bound of the daemon that began to write last; 0 when none has."""
    disk_free_bytes: int
    """Bytes free on its filesystem."""
    most_recent: tuple[ObjectReport, ...]
    """Versions used last, newest first."""
    largest: tuple[ObjectReport, ...]
    """Versions that take most, largest first."""


def read_cache_statistics(directory: str, *, limit: int = 20) -> CacheReport:
    """Return what is in a cache directory.

    Args:
        directory: The directory, as given to ``--cache-dir``.
        limit: Most versions in each list.

    Raises:
        CacheError: It is not a cache of this release, is damaged, or cannot be read.
    """
    with _opened(directory) as (where, index):
        return _report(where, index, limit)


def read_records(directory: str, table: str, *, limit: int) -> list[tuple[bytes, bytes]]:
    """Return the first records of one table, in the order of their keys.

    Args:
        directory: The directory, as given to ``--cache-dir``.
        table: One of ``cache.kept.TABLES``.
        limit: Most records.

    Raises:
        CacheError: It is not a cache of this release, is damaged, or cannot be read.
    """
    with _opened(directory) as (_, index):
        return RecordTables(index).items(table, limit=limit)


def read_blocks(directory: str, store_id: str, objects: Sequence[ObjectId]) -> list[tuple[int, tuple[int, ...]]]:
    """Return the size of a block, and the blocks that are there, of each of *objects*; 0 and none where nothing is.

    Args:
        directory: The directory, as given to ``--cache-dir``.
        store_id: Store the objects come from.
        objects: Their versions.

    Raises:
        CacheError: It is not a cache of this release, is damaged, or cannot be read.
    """
    found = []
    with _opened(directory) as (_, index):
        for digest in (object_digest(store_id, obj) for obj in objects):
            record = index.object(digest)
            blocks = tuple(sorted(index.blocks(digest))) if record else ()
            found.append((record.block_bytes if record else 0, blocks))
    return found


@contextlib.contextmanager
def _opened(directory: str) -> Iterator[tuple[CacheDirectory, CacheIndex]]:
    """Open the index for reading while the context lasts."""
    where = CacheDirectory(directory)
    try:
        where.check_version()
        damage = index_damage(where.index_path)
        if damage:
            raise CacheCorruptError(f"the cache in {directory} is damaged ({damage}); the next mount starts it anew")
        index = CacheIndex(where.index_path, readonly=True)
        try:
            yield where, index
        finally:
            index.close()
    except OSError as error:
        raise CacheError(f"the cache in {directory} cannot be read: {error.strerror}") from error


def _report(directory: CacheDirectory, index: CacheIndex, limit: int) -> CacheReport:
    records, totals = index.objects().values(), index.count()
    return CacheReport(
        directory=os.path.abspath(directory.path),
        schema=SCHEMA,
        objects=totals.objects,
        blocks=totals.blocks,
        bytes_cached=totals.bytes_cached,
        capacity_bytes=index.capacity_bytes(),
        disk_free_bytes=disk_room_bytes(directory, 0.0),
        most_recent=_top(sorted(records, key=lambda record: record.last_used_ms, reverse=True), limit),
        largest=_top(sorted(records, key=lambda record: record.cached_bytes, reverse=True), limit),
    )


def _top(records: Iterable[ObjectRecord], limit: int) -> tuple[ObjectReport, ...]:
    return tuple(report_of(record) for record in list(records)[:limit])


def report_of(record: ObjectRecord, *, is_pinned: bool = False) -> ObjectReport:
    """Return what there is to say of a recorded version."""
    return ObjectReport(
        store_id=record.store_id,
        bucket=record.bucket,
        key=record.key,
        etag=record.etag,
        size_bytes=record.size_bytes,
        cached_bytes=record.cached_bytes,
        last_used_s=record.last_used_ms / 1000,
        is_pinned=is_pinned,
    )
