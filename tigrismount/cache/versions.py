"""The versions that are open: one state for all handles on a version, whatever happens to its file.

State lives in the event loop; files and the index are read in worker threads. Two places are atomic because no
``await`` lies in them: a version that was read is registered unless somebody was faster (``open``), and a file that
was removed by hand is replaced for all handles at once (``replace``). An operation holds on to the storage it began
with (``using``), so that a file is closed when its last reader is done and never under one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from tigrismount import threads
from tigrismount.cache.datafile import UNKNOWN_STATE
from tigrismount.cache.storage import FileGoneError, StoredVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from tigrismount.cache.directory import CacheDirectory
    from tigrismount.cache.index import CacheIndex
    from tigrismount.cache.records import BlockRecord, ObjectRecord
    from tigrismount.cache.storage import Trust
    from tigrismount.threads import Limiter

Result = TypeVar("Result")

_THREADS = 8
"""Opens that wait for the disk at once; a directory of small files is opened by many processes together."""


VERIFIED_MAX = 4096
"""Closed versions of which it is remembered what was found right, at a kilobyte for a shard of 5 GB; one of a version
beyond is looked at once more. Another process may evict versions without a word, so what is evicted is no bound."""


@dataclass(slots=True, eq=False)
class OpenVersion:
    """A version that at least one handle is open on."""

    digest: bytes
    """Its name in the index and on disk."""
    storage: StoredVersion
    """What is on disk; exchanged when the file is."""
    handles: set[Hashable] = field(default_factory=set)
    """Who has it open."""


class _Holding:
    """Bounds threads like *limiter*, and keeps a file open for each until it has ended, whoever waits for it then."""

    def __init__(self, versions: OpenVersions, storage: StoredVersion, limiter: Limiter) -> None:
        self._versions = versions
        self._storage = storage
        self._limiter = limiter

    async def acquire_on_behalf_of(self, borrower: object, /) -> None:
        await self._limiter.acquire_on_behalf_of(borrower)
        self._storage.users += 1

    def release_on_behalf_of(self, borrower: object, /) -> None:
        self._limiter.release_on_behalf_of(borrower)
        self._versions.release(self._storage)


class OpenVersions:
    """All open versions of one process.

    Args:
        directory: The cache directory.
        index: Its index.
        trust: Whose records need no check.
        on_open: Called with a version when its first handle opens.
        on_close: Called with a version when its last handle has closed.
    """

    def __init__(
        self,
        directory: CacheDirectory,
        index: CacheIndex,
        trust: Trust,
        *,
        on_open: Callable[[bytes], None],
        on_close: Callable[[bytes], None],
    ) -> None:
        self._directory = directory
        self._index = index
        self._trust = trust
        self._on_open = on_open
        self._on_close = on_close
        self._open: dict[bytes, OpenVersion] = {}
        self._verified: OrderedDict[bytes, tuple[tuple[int, int], set[int]]] = OrderedDict()
        """What was found right in versions that nobody has open, and the file's state, least recently closed first."""
        self._suspect: defaultdict[bytes, set[int]] = defaultdict(set)
        """Blocks that could not be synced, by version: the index, on the same disk, may not have dropped them."""
        self._limiter = trio.CapacityLimiter(_THREADS)

    @property
    def open_count(self) -> int:
        """Versions that are open."""
        return len(self._open)

    @property
    def verified_count(self) -> int:
        """Closed versions of which it is remembered what was found right."""
        return len(self._verified)

    async def open(self, digest: bytes, record: ObjectRecord, handle: Hashable) -> OpenVersion:
        """Open a version for *handle* with all that the index knows of it now.

        Args:
            digest: The version.
            record: The version, as recorded when it is new.
            handle: Who opens it; give it back to ``close``.

        Raises:
            CacheError: The index or the file cannot be read; the handle is not open then.
            OSError: The file cannot be opened.
        """
        version = self._open.get(digest)
        if version is not None:
            version.handles.add(handle)  # before anything is awaited, so that it cannot close under us
            try:
                await self.refresh(version)
            except BaseException:
                self.close(version, handle)
                raise
            return version
        storage = await self._load(digest, record, keep_block_bytes=False)
        version = self._open.get(digest)
        if version is None:
            version = self._open[digest] = OpenVersion(digest, storage)
            self._on_open(digest)
        else:  # somebody was faster
            storage.file.close()
        version.handles.add(handle)
        return version

    def close(self, version: OpenVersion, handle: Hashable) -> None:
        """Close a version for *handle*."""
        version.handles.discard(handle)
        if version.handles:
            return
        del self._open[version.digest]
        storage = version.storage
        if storage.verified and (state := storage.file.state) != UNKNOWN_STATE:
            self._verified[version.digest] = state, storage.verified
            self._verified.move_to_end(version.digest)
            if len(self._verified) > VERIFIED_MAX:
                self._verified.popitem(last=False)
        self.release(storage)
        self._on_close(version.digest)

    async def refresh(self, version: OpenVersion) -> None:
        """Learn what other processes have added to a version or dropped from it.

        Raises:
            CacheError: The index cannot be read.
            OSError: The file cannot be opened.
        """
        storage = version.storage
        before = dict(storage.blocks)
        try:
            compare = partial(_changes, storage, before, frozenset(storage.unsynced))
            gone, new, synced = await self.run_sync(storage, compare, limiter=self._limiter)
        except FileGoneError:
            await self.replace(version, storage)
            return
        for index in gone:
            storage.forget(index, before[index])
        for index, block in new.items():
            storage.know(index, block)
        for index in synced:
            if storage.blocks.get(index) is before[index]:
                storage.unsynced.discard(index)

    async def replace(self, version: OpenVersion, old: StoredVersion) -> None:
        """Go on with a new file where the one of *old* was removed; whoever reads from the old one may finish.

        Raises:
            CacheError: The index cannot be read.
            OSError: The file cannot be opened.
        """
        new = await self._load(version.digest, old.record, keep_block_bytes=True)
        if version.storage is old and version.handles:
            version.storage = new
            self.release(old)
        else:
            new.file.close()

    async def _load(self, digest: bytes, record: ObjectRecord, *, keep_block_bytes: bool) -> StoredVersion:
        def work() -> StoredVersion:
            storage = StoredVersion(self._directory, self._index, digest, record, self._trust)
            try:
                storage.begin(storage.load(record.block_bytes if keep_block_bytes else None))
            except FileGoneError:  # removed by hand at this very moment
                storage.file.close()
            except BaseException:
                storage.file.close()
                raise
            return storage

        storage = await self._run(work)
        state, verified = self._verified.get(digest, (UNKNOWN_STATE, set[int]()))
        if storage.blocks and state == storage.file.state:
            storage.believe(verified)
        if digest in self._suspect:
            storage.suspect = self._suspect[digest]
        return storage

    async def _run(self, work: Callable[[], StoredVersion]) -> StoredVersion:
        """Return what *work* made in a thread; when cancelled, whatever it still makes is closed there."""
        gave_up = threading.Event()
        made: list[StoredVersion] = []

        def close() -> None:
            with suppress(IndexError):  # by whoever takes it out, once
                made.pop().file.close()

        def guarded() -> StoredVersion:
            version = work()
            made.append(version)
            if gave_up.is_set():
                close()
            return version

        try:
            return await threads.run_sync(guarded, limiter=self._limiter, abandon_on_cancel=True)
        except trio.Cancelled:
            gave_up.set()
            close()  # where it was made at this very moment
            raise

    async def run_sync(self, storage: StoredVersion, work: Callable[[], Result], *, limiter: Limiter) -> Result:
        """Return *work()*, called in a thread that is left behind when cancelled; the file is open until it has ended.

        Args:
            storage: Whose file it needs.
            work: What blocks.
            limiter: Bounds such threads.

        Raises:
            NoThreadError: There is none.
            Exception: What *work* raised.
        """
        with self.using(storage):
            return await threads.run_sync(work, limiter=_Holding(self, storage, limiter), abandon_on_cancel=True)

    @contextmanager
    def using(self, storage: StoredVersion) -> Iterator[None]:
        """Keep the file of *storage* open."""
        storage.users += 1
        try:
            yield
        finally:
            self.release(storage)

    def release(self, storage: StoredVersion) -> None:
        """Need the file of *storage* no longer; every ``users`` that was counted up is taken back once."""
        storage.users -= 1
        if not storage.users:
            storage.file.close()

    def note_eviction(self, digest: bytes) -> None:
        """Forget what was found right in a version that is no more."""
        self._verified.pop(digest, None)

    def note_lost(self, digest: bytes, index: int, block: BlockRecord) -> None:
        """Know no more of a block, whatever was found of it before: its data did not get to the disk.

        Where its record is found again its bytes are looked at, however much records are believed.
        """
        self._suspect[digest].add(index)
        if digest in self._verified:
            self._verified[digest][1].discard(index)
        version = self._open.get(digest)
        if version is None:
            return
        version.storage.suspect = self._suspect[digest]
        known = version.storage.blocks.get(index)
        if known is not None and known[:2] == block[:2]:
            version.storage.forget(index, known)

    def note_verified(self, storage: StoredVersion, index: int, block: BlockRecord) -> BlockRecord | None:
        """Note that a block was found right; return its new record when the old one could not be trusted.

        Not of one that is not known any more: it was lost, or written anew, while it was looked at.
        """
        if storage.blocks.get(index) is not block:
            return None
        storage.note_verified(index)
        if self._trust.covers(block):
            return None
        confirmed = self._trust.confirmed(block)
        storage.exchange(index, block, confirmed)
        return confirmed


def _changes(
    storage: StoredVersion, before: dict[int, BlockRecord], unsynced: frozenset[int]
) -> tuple[set[int], dict[int, BlockRecord], set[int]]:
    """Return which blocks of *before* the index knows no more, what it knows beside them, and which of *unsynced* are.

    Compared in a thread: a file of terabytes has a million blocks, and mostly nothing has changed.
    """
    found = storage.load(storage.record.block_bytes)
    gone = before.keys() - found.keys()
    new = {index: block for index, block in found.items() if index not in before}
    synced = {i for i in unsynced & before.keys() & found.keys() if found[i].synced and found[i][:2] == before[i][:2]}
    return gone, new, synced
