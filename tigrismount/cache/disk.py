"""The disk cache as the daemon uses it: decides in the event loop, works in threads, never harms a read.

Everything that touches the disk or the index runs in worker threads, reads apart from writes so that a demand read
never queues behind them. Threads cannot be cancelled and are waited for, so a caller's buffer is never touched once
``read_block`` or ``write_block`` has returned.

Writes are a favour: beyond ``write_queue_bytes`` waiting, without room, or while the disk fails, ``write_block``
answers False at once and the block is simply not cached. After a failure the disk is left alone for a while, which
``statistics().degraded`` says.

``run`` publishes about once a second (``publisher``), keeps the bounds (``room``), and once at its start removes what
a crash left behind. Without it the cache works all the same, only a power cut would cost more.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from tigrismount import threads
from tigrismount.cache.base import CacheStatistics, Claim, block_length_bytes, check_piece
from tigrismount.cache.claims import Claims
from tigrismount.cache.datafile import close_quietly
from tigrismount.cache.directory import kernel_boot_id, open_cache_directory, remove_old_caches
from tigrismount.cache.health import Health
from tigrismount.cache.kept import KeptRecords
from tigrismount.cache.none import UncachedObject
from tigrismount.cache.publisher import Publisher
from tigrismount.cache.reclaim import sweep
from tigrismount.cache.records import MAX_BLOCKS, ObjectRecord, boot_token, object_digest, valid_block_bytes
from tigrismount.cache.room import Room
from tigrismount.cache.storage import FileGoneError, Trust
from tigrismount.cache.versions import OpenVersions
from tigrismount.errors import CacheCorruptError, CacheError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tigrismount.cache.base import CachedObject
    from tigrismount.cache.directory import CacheDirectory
    from tigrismount.cache.index import CacheIndex
    from tigrismount.cache.options import DiskCacheConfig
    from tigrismount.cache.records import BlockRecord
    from tigrismount.cache.storage import StoredVersion
    from tigrismount.cache.versions import OpenVersion
    from tigrismount.core.types import ObjectId

T = TypeVar("T")

_PUBLISH_INTERVAL_S = 1.0
"""What a power cut may cost at most; a sync this often costs nothing measurable."""
_READ_THREADS = 16
"""More than the block store asks for at once: its own limit is the one that counts."""
_WRITE_THREADS = 2
"""One thread wrote 1.17 GB/s with O_DIRECT and four no more; the second one covers checksums and commits."""

_OPENING_S = 25.0
"""How long opening may take, a walk of a large index included; a mount that waits longer is given up (``holder``)."""
_PATIENCE_S = 2.0
"""How long the first look at a version may take; it needs a millisecond, and a read waits for it."""
_BLOCK_PATIENCE_S = 1e-5
"""The same for each block on top, of which the look takes a fifth: those of a file of terabytes are a million."""
_SILENCE_S = 30.0
"""How long a disk that hung is not even looked at."""
_BACKLOG_SHOWN_S = 10.0
"""How long ``degraded`` tells of a block that was not cached because the disk was busy."""

_log = logging.getLogger(__name__)


class DiskBlockCache:
    """A ``BlockCache`` in a directory. Made by ``open``, which does the blocking part.

    Args:
        config: The directory and its bounds.
        store_id: Store the objects come from; part of every version's name.
        boot_id: This boot of the machine.
        directory: The directory, opened.
        index: Its index, which belongs to this object from now on.
        clock: Returns seconds since 1970, for recency.
    """

    def __init__(
        self,
        config: DiskCacheConfig,
        *,
        store_id: str,
        boot_id: str,
        directory: CacheDirectory,
        index: CacheIndex,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._store_id = store_id
        self._directory = directory
        self._index = index
        self._clock = clock
        trust = Trust(boot_token(boot_id), self._begin_session(boot_id))
        self._versions = OpenVersions(directory, index, trust, on_open=self._note_open, on_close=self._note_close)
        self._publisher = Publisher(directory, index, on_lost=self._versions.note_lost)
        self._room = Room(
            directory,
            index,
            config,
            limiter=trio.CapacityLimiter(_WRITE_THREADS),
            recency_ms=lambda: self._publisher.used_ms,
            on_evicted=self._note_eviction,
        )
        self._counters = CacheStatistics(capacity_bytes=config.size_bytes)
        self._queued_bytes = 0
        self._health = Health(directory, index, trial_bytes=config.block_bytes)
        self.records = KeptRecords(index, on_failure=self._health.fail)
        """Small records kept beside the blocks."""
        self._claims = Claims(self._versions, self._health, takes_writes=lambda: self._admits(config.block_bytes))
        self._read_limiter = trio.CapacityLimiter(_READ_THREADS)
        self._write_turns = trio.CapacityLimiter(_WRITE_THREADS)
        self._reading: dict[object, float] = {}
        """When the reads that are under way began, oldest first."""
        self._backlog_s = -math.inf
        self._silent_until_s = -math.inf
        self._closed = False

    @classmethod
    async def open(
        cls,
        config: DiskCacheConfig,
        *,
        store_id: str,
        boot_id: str | None = None,
        clock: Callable[[], float] = time.time,
        within_s: float = math.inf,
    ) -> DiskBlockCache:
        """Open the cache in ``config.directory``, made when missing.

        What another release left there, or a crash damaged, is set aside with one log line, and the cache is empty.

        Args:
            config: The directory and its bounds.
            store_id: Store the objects come from.
            boot_id: This boot of the machine, None to ask the kernel.
            clock: Returns seconds since 1970, for recency.
            within_s: Longest wait, where it is less than opening may take.

        Raises:
            ConfigError: The directory cannot be made or written, or is not ours to use.
            CacheError: The index cannot be opened: this process has it open already, or the disk fails, or nobody
                answers because of a disk that hangs, or of a process that was stopped while it changed the index.
        """
        if not valid_block_bytes(config.block_bytes):
            raise ConfigError(f"a block size of {config.block_bytes} bytes is not a power of two from 4096")

        gave_up, made = threading.Event(), list[DiskBlockCache]()

        def leave() -> None:
            with suppress(IndexError):  # by whoever takes it out, once
                made.pop()._leave()

        def work() -> DiskBlockCache:
            boot = kernel_boot_id() if boot_id is None else boot_id
            directory, index = open_cache_directory(config.directory)
            try:
                cache = cls(config, store_id=store_id, boot_id=boot, directory=directory, index=index, clock=clock)
            except BaseException as error:
                index.close()
                directory.leave()
                if isinstance(error, OSError):
                    raise CacheError(f"the cache in {config.directory} cannot be opened: {error.strerror}") from error
                raise
            made.append(cache)
            if gave_up.is_set():
                leave()
            return cache

        # Shielded: who is cancelled gets it all the same, and closes it.
        opening_s = min(_OPENING_S, within_s)
        with trio.move_on_after(opening_s, shield=True):
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True)
        gave_up.set()
        leave()  # where it was made at this very moment
        raise CacheError(f"the cache in {config.directory} could not be opened within {opening_s:.3g} s")

    def _leave(self) -> None:
        self._index.close()
        self._directory.leave()

    def _begin_session(self, boot_id: str) -> int:
        tenancy = self._directory.tenancy
        return self._index.begin_session(boot_id, self._config.size_bytes, alone=tenancy is not None and tenancy.alone)

    # --- versions

    async def open_object(self, obj: ObjectId) -> CachedObject:
        """Return a pinned handle on *obj*, as in the protocol.

        A version without a strong ETag or of more blocks than can be counted, and any version while the cache cannot
        be read, gets a handle that never holds anything.
        """
        if self._closed or not obj.cacheable or not obj.size_bytes or self._is_silent:
            await trio.lowlevel.checkpoint()
            return UncachedObject(self._config.block_bytes)
        digest = object_digest(self._store_id, obj)
        record = ObjectRecord(
            self._store_id, obj.bucket, obj.key, obj.etag, obj.size_bytes, self._config.block_bytes, self._now_ms()
        )
        handle = object()
        patience_s = _PATIENCE_S + obj.size_bytes / self._config.block_bytes * _BLOCK_PATIENCE_S
        with trio.move_on_after(patience_s):
            try:
                version = await self._versions.open(digest, record, handle)
            except (CacheError, OSError) as error:
                self._health.fail(error)
                return UncachedObject(self._config.block_bytes)
            if obj.size_bytes > version.storage.record.block_bytes * MAX_BLOCKS:
                self._versions.close(version, handle)
                return UncachedObject(self._config.block_bytes)
            return _DiskObject(self, version, handle)
        self._silent_until_s = trio.current_time() + _SILENCE_S
        self._health.fail(CacheError(f"the disk has not answered for {patience_s:.3g} s"))
        return UncachedObject(self._config.block_bytes)

    @property
    def _is_silent(self) -> bool:
        """Whether the disk hung a moment ago, so that not even a look at it is worth the wait."""
        return trio.current_time() < self._silent_until_s

    def _note_open(self, digest: bytes) -> None:
        self._room.pin(digest)
        self._publisher.used(digest, self._now_ms())

    def _note_close(self, digest: bytes) -> None:
        self._room.unpin(digest)
        self._claims.forget(digest)
        self._publisher.used(digest, self._now_ms())

    async def _refresh(self, version: OpenVersion) -> None:
        try:
            await self._versions.refresh(version)
        except (CacheError, OSError) as error:
            self._health.fail(error)

    # --- blocks

    async def _read(self, version: OpenVersion, index: int, buffer: memoryview, *, check: bool) -> None:
        storage = version.storage
        block = await self._known(storage, index)
        check = check or storage.needs_check(index, block, self._config.verify)
        await self._read_known(version, index, block, partial(storage.read, buffer=buffer, check=check), checked=check)

    async def _prove(self, version: OpenVersion, index: int, fd: int) -> None:
        storage = version.storage
        block = await self._known(storage, index)
        try:
            await self._read_known(version, index, block, partial(storage.prove, fd=fd), checked=True)
        except FileGoneError as error:
            raise CacheError(f"block {index} cannot be proven: its file was replaced") from error

    async def _known(self, storage: StoredVersion, index: int) -> BlockRecord:
        block = storage.blocks.get(index)
        if block is None:
            await trio.lowlevel.checkpoint()
            raise CacheError(f"block {index} is not cached", bucket=storage.record.bucket, key=storage.record.key)
        return block

    async def _read_known(
        self,
        version: OpenVersion,
        index: int,
        block: BlockRecord,
        read: Callable[[int, BlockRecord], None],
        *,
        checked: bool,
    ) -> None:
        storage = version.storage
        try:
            await self._read_in_thread(storage, partial(read, index, block))
        except threads.NoThreadError as error:
            raise CacheError(f"block {index} cannot be read: {error}") from error  # and stays cached
        except CacheError as error:
            storage.forget(index, block)
            self._count(corrupt_blocks=int(isinstance(error, CacheCorruptError)))
            _log.warning("%s; it is dropped from the cache", error)
            raise
        self._count(blocks_read=1, bytes_read=block.length_bytes)
        confirmed = self._versions.note_verified(storage, index, block) if checked else None
        if confirmed is not None:
            self._publisher.confirmed(version.digest, index, block, confirmed)

    async def _read_in_thread(self, storage: StoredVersion, read: Callable[[], T]) -> T:
        token = object()
        self._reading[token] = trio.current_time()
        try:
            with self._versions.using(storage):
                return await threads.run_sync(read, limiter=self._read_limiter)
        finally:
            del self._reading[token]

    def _proven(self, storage: StoredVersion, index: int) -> bool:
        block = storage.blocks.get(index)
        return block is not None and not storage.needs_check(index, block, self._config.verify)

    def _published(self, version: OpenVersion) -> bool:
        storage = version.storage
        if not storage.unsynced:
            return True
        if not self._publisher.has(version.digest):  # whoever wrote them may have ended before
            for index in storage.unsynced:
                block = storage.blocks[index]
                if not storage.needs_check(index, block, "off"):
                    self._publisher.written(version.digest, index, block)
        return False

    async def _read_piece(self, version: OpenVersion, index: int, start: int, stop: int) -> bytes:
        storage = version.storage
        if not self._proven(storage, index):
            await trio.lowlevel.checkpoint()
            raise CacheError(f"a piece of block {index} was asked for, which is not proven")
        try:
            found = await self._read_in_thread(storage, partial(storage.read_piece, index, start, stop))
        except threads.NoThreadError as error:
            raise CacheError(f"a piece of block {index} cannot be read: {error}") from error
        self._count(pieces_read=1, bytes_read=stop - start)
        return found

    async def _write(self, version: OpenVersion, index: int, buffer: memoryview, length_bytes: int) -> bool:
        if index in version.storage.blocks:
            await trio.lowlevel.checkpoint()
            return True
        if self._queued_bytes + length_bytes > max(self._config.write_queue_bytes, length_bytes):
            self._note_backlog()
        written = self._admits(length_bytes) and await self._write_queued(version, index, buffer, length_bytes)
        if not written:
            self._count(writes_skipped=1)
        return written

    def _note_backlog(self) -> None:
        self._backlog_s = trio.current_time()

    def _admits(self, length_bytes: int) -> bool:
        """Tell whether one more block may wait for the disk; the first may always."""
        if self._closed or not self._health.worth_a_try or not self._room.worth_a_try:
            return False
        return not self._queued_bytes or self._queued_bytes + length_bytes <= self._config.write_queue_bytes

    async def _write_queued(self, version: OpenVersion, index: int, buffer: memoryview, length_bytes: int) -> bool:
        self._queued_bytes += length_bytes
        try:
            await self._write_turns.acquire()  # here it can be cancelled
            try:
                with trio.CancelScope(shield=True):
                    kept = await self._write_now(version, index, buffer, length_bytes)
            finally:
                self._write_turns.release()
        except (CacheError, OSError) as error:
            self._health.fail(error)
            return False
        except trio.Cancelled:  # while it waited: its memory was needed
            self._note_backlog()
            self._count(writes_skipped=1)
            raise
        finally:
            self._queued_bytes -= length_bytes
        return kept

    async def _write_now(self, version: OpenVersion, index: int, buffer: memoryview, length_bytes: int) -> bool:
        for _ in range(2):  # a second time when the file was removed under us
            storage = version.storage
            if storage.kept_otherwise:  # it would take room that nobody counts
                return False
            write = partial(storage.write, index, buffer, length_bytes, self._now_ms())
            try:
                with self._versions.using(storage):
                    block = await self._room.fill(length_bytes, write)
            except FileGoneError:
                await self._versions.replace(version, storage)
                continue
            if block is not None:
                self._note_written(storage, index, block)
            return block is not None
        return False

    async def _open_file(self, version: OpenVersion) -> int:
        storage = version.storage
        gave_up, made = threading.Event(), list[int]()

        def close() -> None:
            with suppress(IndexError):  # by whoever takes it out, once
                close_quietly(made.pop())

        def work() -> int:
            fd = storage.file.open_again()
            made.append(fd)
            if gave_up.is_set():
                close()
            return fd

        try:
            return await self._versions.run_sync(storage, work, limiter=self._read_limiter)
        except OSError as error:
            raise CacheError(f"the data file cannot be opened: {error.strerror}") from error
        except trio.Cancelled:
            gave_up.set()
            close()
            raise

    def _note_written(self, storage: StoredVersion, index: int, block: BlockRecord) -> None:
        storage.know(index, block)
        if not block.synced:
            self._publisher.written(storage.digest, index, block)
        self._count(blocks_written=1, bytes_written=block.length_bytes)
        self._health.succeed()

    # --- upkeep

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Publish and keep the bounds until cancelled; publish what is left on the way out."""
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._attempt, self._tidy)
                while True:
                    await trio.sleep(_PUBLISH_INTERVAL_S)
                    is_ours = await self._attempt(self._check_directory)
                    await self._attempt(self._publisher.publish)
                    await self._attempt(self.records.sync)
                    if is_ours:  # else the files by these names are another cache's, and our index says nothing of them
                        await self._attempt(self._room.enforce)
                    await self._attempt(self._recheck)
        finally:
            with trio.CancelScope(shield=True):
                await self._attempt(self._publisher.publish)

    async def _recheck(self) -> None:
        try:
            await self._health.recheck()
        except OSError as error:
            await self._room.make_room_in_quota(error, self._config.block_bytes)
            raise

    async def _check_directory(self) -> None:
        await threads.run_sync(self._directory.check_same)

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do some upkeep, return whether it went well; trouble with it is trouble with the disk, and ends there."""
        try:
            await work()
        except (CacheError, OSError) as error:
            self._health.fail(error)
            return False
        return True

    async def _tidy(self) -> None:
        """Remove what a crash, or a cache set aside, has left on the disk."""

        def work() -> None:
            try:
                sweep(self._directory, self._index)
            finally:
                remove_old_caches(self._directory)

        # Removing 100 GB takes seconds and can be done another time: stopping does not wait for it.
        await threads.run_sync(work, abandon_on_cancel=True)

    def tables(self) -> dict[str, int]:
        """Return how much is remembered, by kind."""
        return {"cache_open": self._versions.open_count, "cache_verified": self._versions.verified_count}

    def statistics(self) -> CacheStatistics:
        """Return counters and gauges."""
        return replace(
            self._counters,
            bytes_cached=self._index.bytes_cached,
            objects_cached=self._index.objects_cached,
            largest_bytes=max(self._config.size_bytes, self._index.bytes_cached),
            room_bytes=self._room.most_bytes,
            degraded=self._health.reason or self._hang_reason() or self._no_room_reason() or self._backlog_reason(),
        )

    def _hang_reason(self) -> str:
        oldest_s = next(iter(self._reading.values()), math.inf)
        hangs = trio.current_time() - oldest_s > _PATIENCE_S
        return f"the disk has not answered for {_PATIENCE_S:g} s" if hangs else ""

    def _backlog_reason(self) -> str:
        recent = trio.current_time() - self._backlog_s < _BACKLOG_SHOWN_S
        return "the cache's disk is slower than the network; not everything is cached" if recent else ""

    @property
    def directory_path(self) -> str:
        """Where it is."""
        return self._directory.path

    @property
    def failing(self) -> bool:
        """Whether the disk takes nothing at the moment."""
        return bool(self._health.reason)

    def _no_room_reason(self) -> str:
        floor_percent = 100 * self._config.free_floor_fraction
        return f"the cache's disk is full ({floor_percent:g} % of it stay free)" if self._room.below_floor else ""

    async def aclose(self) -> None:
        """Publish what is left, note a clean end, close the index. Idempotent."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        with trio.CancelScope(shield=True):
            await self._attempt(self._publisher.publish)
            await self._attempt(partial(threads.run_sync, self._index.end_session))
            await trio.to_thread.run_sync(self._index.close)
            self._directory.leave()

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _count(self, **changes: int) -> None:
        added = {name: getattr(self._counters, name) + by for name, by in changes.items()}
        self._counters = replace(self._counters, **added)

    def _note_eviction(self, digest: bytes, whole: bool) -> None:
        self._versions.note_eviction(digest)
        self._count(evicted_objects=int(whole), trimmed_objects=int(not whole))


class _DiskObject:
    """One handle; what it does is done by the cache, on the version that all handles share."""

    def __init__(self, cache: DiskBlockCache, version: OpenVersion, handle: object) -> None:
        self._cache = cache
        self._version = version
        self._handle = handle
        self._closed = False

    @property
    def block_bytes(self) -> int:
        return self._version.storage.record.block_bytes

    @property
    def drive(self) -> str:
        return self._cache.directory_path

    @property
    def kept_otherwise(self) -> bool:
        return self._version.storage.kept_otherwise

    def has(self, index: int) -> bool:
        return index in self._version.storage.blocks

    def count(self) -> int:
        return len(self._version.storage.blocks)

    def _length_bytes(self, index: int) -> int:
        return block_length_bytes(self._version.storage.record.size_bytes, self.block_bytes, index)

    async def read_block(self, index: int, buffer: memoryview, *, check: bool = False) -> None:
        length_bytes = self._length_bytes(index)
        if len(buffer) < length_bytes:
            raise ValueError(f"a buffer of {len(buffer)} bytes is too small for block {index} of {length_bytes}")
        if self._closed:
            raise CacheError(f"block {index} was asked for after its handle was closed")
        await self._cache._read(self._version, index, buffer, check=check)

    def proven(self, index: int) -> bool:
        return self._cache._proven(self._version.storage, index)

    async def read_piece(self, index: int, start: int, stop: int) -> bytes:
        check_piece(self._version.storage.record.size_bytes, self.block_bytes, index, start, stop)
        if self._closed:
            raise CacheError(f"a piece of block {index} was asked for after its handle was closed")
        return await self._cache._read_piece(self._version, index, start, stop)

    def unproven(self) -> list[int] | None:
        storage, verify = self._version.storage, self._cache._config.verify
        if len(storage.blocks) * self.block_bytes < storage.record.size_bytes:
            return None
        return storage.unproven(verify)

    def published(self) -> bool:
        return self._cache._published(self._version)

    async def open_file(self) -> int:
        if self._closed:
            raise CacheError("a file was asked for after its handle was closed")
        return await self._cache._open_file(self._version)

    async def prove_block(self, index: int, fd: int) -> None:
        if self._closed:
            raise CacheError(f"block {index} was asked for after its handle was closed")
        await self._cache._prove(self._version, index, fd)

    async def write_block(self, index: int, buffer: memoryview, length_bytes: int) -> bool:
        if length_bytes != self._length_bytes(index) or len(buffer) < length_bytes:
            raise ValueError(f"block {index} does not have {length_bytes} bytes, or the buffer is too small")
        return not self._closed and await self._cache._write(self._version, index, buffer, length_bytes)

    async def claim(self, indexes: Sequence[int]) -> tuple[Claim, int]:
        if self._closed:
            return Claim.OURS, len(indexes)
        return await self._cache._claims.claim(self._version, indexes)

    async def wait_claim(self, index: int) -> Claim:
        return await self._cache._claims.wait(self._version, index)

    def unclaim(self, index: int) -> None:
        self._cache._claims.unclaim(self._version, index)

    async def refresh(self) -> None:
        await self._cache._refresh(self._version)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._cache._versions.close(self._version, self._handle)
