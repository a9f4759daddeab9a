"""Work on a cache directory from outside, beside the daemons that use it: for ``tigrismount cache``.

Everything blocks. What daemons promise each other holds here too: what is open is not evicted, records go before their
data, and the index knows of a writer before it writes. One process may have a directory open once only, so this is
not for daemons. With several ``--cache-dir``, each directory is worked on by itself.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.cache.directory import CacheDirectory, kernel_boot_id, visiting
from tigrismount.cache.index import CacheIndex
from tigrismount.cache.inspect import ObjectReport, report_of
from tigrismount.cache.kept import TABLES, RecordTables
from tigrismount.cache.pins import Pins, matches
from tigrismount.cache.probe import index_damage
from tigrismount.cache.reclaim import evict_version
from tigrismount.cache.records import boot_token
from tigrismount.cache.storage import Trust
from tigrismount.cache.verify import ObjectVerified, find_strays, verify_object
from tigrismount.errors import CacheCorruptError, CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_OPENING_S = 25.0
"""How long opening may take, as for a mount."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """What an eviction on demand did."""

    objects: int
    """Object versions that are gone."""
    freed_bytes: int
    """Bytes of their blocks."""
    in_use: tuple[ObjectReport, ...]
    """Versions that stay, because some daemon has them open."""
    pinned: tuple[ObjectReport, ...]
    """Versions that stay, because they are pinned."""


@contextmanager
def open_cache_access(directory: str, *, write: bool = False) -> Iterator[CacheAccess]:
    """Open a cache directory for work from outside.

    Looking needs no more than LMDB's own locks, so it works from any container.

    Args:
        directory: One directory, as given to ``--cache-dir``.
        write: Whether anything is to be changed; verifying drops what is damaged, so it counts.

    Raises:
        CacheError: It is not a cache of this release, is damaged or somebody else's, or cannot be read.
    """
    where = CacheDirectory(directory)
    try:
        where.check_version()
        owner = os.stat(directory).st_uid
        if write and owner != os.geteuid():
            raise CacheError(f"the cache in {directory} belongs to uid {owner}; run this as that user")
        damage = index_damage(where.index_path)
        if damage:
            raise CacheCorruptError(f"the cache in {directory} is damaged ({damage}); the next mount starts it anew")
        with visiting(where) if write else nullcontext() as tenancy:
            index = _opened_in_time(where) if write else CacheIndex(where.index_path, readonly=True)
            try:
                where.opened = where.identity()  # what takes the place of this cache meanwhile is none of ours
                boot_id = kernel_boot_id()
                epoch = index.begin_session(boot_id, index.capacity_bytes(), alone=tenancy.alone) if tenancy else 0
                yield CacheAccess(where, index, Trust(boot_token(boot_id), epoch))
                if write:
                    index.sync()
                    index.end_session()
            finally:
                index.close()
    except OSError as error:
        raise CacheError(f"the cache in {directory} cannot be used: {error.strerror}") from error


def _opened_in_time(where: CacheDirectory) -> CacheIndex:
    """Return the index, opened for writing: that waits for whoever changes it, for ever where that one was stopped.

    In a thread, since LMDB hears no Ctrl-C while it waits.

    Raises:
        CacheError: It waits for too long, or the index cannot be opened.
        OSError: As of :class:`CacheIndex`.
    """
    gave_up, opened, failures = threading.Event(), list[CacheIndex](), list[BaseException]()

    def work() -> None:
        try:
            opened.append(CacheIndex(where.index_path))
        except BaseException as error:  # noqa: BLE001 - for who waits
            failures.append(error)
        if gave_up.is_set() and opened:
            opened[0].close()

    thread = threading.Thread(target=work, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system has no thread left
        work()
    else:
        thread.join(_OPENING_S)
    if failures:
        raise failures[0]
    if not opened:
        gave_up.set()
        late = f"could not be opened within {_OPENING_S:g} s: a process that changes it was stopped, or its disk hangs"
        raise CacheError(f"the cache in {where.path} {late}")
    return opened[0]


class CacheAccess:
    """A cache directory, opened by ``open_cache_access``.

    Args:
        directory: The directory.
        index: Its index.
        trust: Whose records need no check.
    """

    def __init__(self, directory: CacheDirectory, index: CacheIndex, trust: Trust) -> None:
        self._directory = directory
        self._index = index
        self._trust = trust
        self._pins = Pins(index)

    def objects(self, prefix: str = "") -> list[ObjectReport]:
        """Return the object versions whose ``bucket/key`` begins with *prefix*, in that order.

        Raises:
            CacheError: The index failed.
        """
        pinned = self._pins.all()
        reports = [
            report_of(record, is_pinned=matches(record, pinned))
            for record in self._index.objects().values()
            if matches(record, [prefix])
        ]
        return sorted(reports, key=lambda report: (report.bucket, report.key, report.etag))

    def verify(
        self, prefix: str = "", *, on_progress: Callable[[int], None] = lambda _: None
    ) -> Iterator[ObjectVerified]:
        """Read every block back from the disk and compare it with its checksum; yield each version's result.

        Blocks that fail are forgotten, so the next read fetches them; a version that some daemon evicts meanwhile is
        left out. ``objects`` tells how many bytes are ahead.

        Args:
            prefix: Of ``bucket/key``.
            on_progress: Called with the number of bytes just checked.

        Raises:
            CacheError: The index failed.
        """
        for digest, record in self._index.objects().items():
            if matches(record, [prefix]):
                verified = verify_object(self._directory, self._index, digest, record, self._trust, on_progress)
                if verified is not None:
                    yield verified

    def strays(self) -> list[str]:
        """Return the paths of data files that no record speaks of; the next daemon to start removes them.

        Raises:
            CacheError: The index failed.
        """
        return find_strays(self._directory, self._index)

    def evict(self, prefix: str, *, even_pinned: bool = False) -> Evicted:
        """Remove the object versions whose ``bucket/key`` begins with *prefix*, except those in use.

        Raises:
            CacheError: The index failed.
            OSError: A file cannot be removed; those that can be opened are.
        """
        pins = [] if even_pinned else self._pins.all()
        objects, freed_bytes = 0, 0
        in_use, pinned = [], []
        failures: list[OSError] = []
        for digest, record in self._index.objects().items():
            if not matches(record, [prefix]):
                continue
            if matches(record, pins):
                pinned.append(report_of(record, is_pinned=True))
                continue
            try:
                is_gone = evict_version(self._directory, self._index, digest)
            except OSError as error:  # one that cannot be opened does not keep the others
                if self._index.object(digest) is None:
                    raise  # forgotten, and still there: no more of that
                failures.append(error)
                continue
            if is_gone:
                objects, freed_bytes = objects + 1, freed_bytes + record.cached_bytes
            else:
                in_use.append(report_of(record))
        if failures:
            raise failures[0]
        return Evicted(objects, freed_bytes, tuple(in_use), tuple(pinned))

    def clear(self) -> Evicted:
        """Remove every object version that is not in use, pinned or not, and all small records but the pins.

        Raises:
            CacheError: The index failed.
            OSError: A file cannot be removed.
        """
        tables = RecordTables(self._index)
        for table in TABLES.keys() - {"pins"}:
            tables.clear(table)
        return self.evict("", even_pinned=True)

    def pin(self, *prefixes: str) -> bool:
        """Keep what begins with one of *prefixes* from eviction, now and later; return whether all were noted.

        Raises:
            CacheError: The index failed.
        """
        return self._pins.add(prefixes)

    def unpin(self, *prefixes: str) -> int:
        """Take back pins, spelled as they were made; return how many of them there were.

        Raises:
            CacheError: The index failed.
        """
        return self._pins.remove(prefixes)

    def pinned(self) -> list[str]:
        """Return all pinned prefixes, sorted.

        Raises:
            CacheError: The index failed.
        """
        return self._pins.all()
