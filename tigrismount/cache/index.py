"""The LMDB index of a cache directory: which blocks of which versions are on disk, and what their bytes must be.

Databases: ``objects`` (digest → version, size, recency, bytes), ``blocks`` (digest and index → length, checksum,
boot, flags), ``meta`` (schema, totals, open sessions), and ``records`` and ``record_order`` (see ``kept``). The totals
change in the same transaction as the records they count, so that all daemons that share the directory agree.

What a record claims after a power cut is checked, see ``storage``. All methods block and are called from worker
threads; the transactions themselves are in ``environment``.

A *session* is one daemon's work on the index. It is noted durably before the first change, so that a mount that only
reads needs no room on the disk, and taken back after everything has been synced. A session of another boot still
standing means that the machine went down with a daemon at work: the *epoch* rises, and no record of an earlier one is
believed without a look at its bytes. So does it where the index lies elsewhere than it was written: who copied it may
have copied data files before a daemon wrote what it records.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from tigrismount.cache.environment import Environment
from tigrismount.cache.records import (
    READABLE_SCHEMAS,
    SCHEMA,
    BlockRecord,
    ObjectRecord,
    block_key,
    boot_token,
    split_block_key,
)
from tigrismount.errors import CacheCorruptError, CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Result = TypeVar("Result")

_U64 = struct.Struct("<Q")
_MASK = (1 << 64) - 1
_SCHEMA_KEY = b"schema"
_BYTES_KEY = b"bytes"
_EPOCH_KEY = b"epoch"
_CAPACITY_KEY = b"capacity"
_PLACE_KEY = b"place"
_SESSION_PREFIX = b"session:"
_RESERVED_PREFIX = b"reserved:"
_SESSION = struct.Struct("<16sI")
_PLACE = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Totals:
    """What the whole index holds."""

    bytes_cached: int = 0
    """Sum of the lengths of all blocks."""
    objects: int = 0
    """Object versions."""
    blocks: int = 0
    """Blocks."""


@dataclass(slots=True)
class _Session:
    """One daemon's work on the index."""

    key: bytes
    boot: bytes
    place: bytes
    capacity_bytes: int
    dead: frozenset[bytes] = frozenset()
    """Keys of other sessions that are known to be over, whatever their process ids say."""
    noted: bool = False

    def outlives(self, key: bytes, boot: bytes, pid: int) -> bool:
        """Tell whether another session is over."""
        return key in self.dead or boot != self.boot or not _alive(pid)


class CacheIndex:
    """One process's use of the index; safe to call from any thread.

    Args:
        path: Directory of the LMDB environment; made by the caller.
        readonly: Whether to look only; then the index must exist, and no session is opened.

    Raises:
        CacheCorruptError: It is damaged, or of another schema.
        CacheError: It cannot be opened.
        OSError: The disk is full, or does not let us.
    """

    def __init__(self, path: str, *, readonly: bool = False) -> None:
        self.bytes_cached = 0
        """Sum of the lengths of all blocks, as of this process's last transaction that knew it."""
        self.objects_cached = 0
        """Object versions, likewise."""
        self._path = path
        self._session: _Session | None = None
        self._noting = threading.Lock()
        self._counting = threading.Lock()
        self._counted = 0
        self._owed_bytes = 0
        """Set aside and not wanted any more, where the index did not take it back when it was told."""
        self._env = Environment(
            path, (b"objects", b"blocks", b"meta"), (b"records", b"record_order"), readonly=readonly
        )
        self._objects, self._blocks, self._meta = self._env.databases
        self.meta: Any = self._meta
        """Database of what concerns the whole index; others keep their sums in it, under names of their own."""
        self.records: Any = self._env.added_databases[0]
        """Database of the records that ``kept`` keeps; None when looking at an index of schema 1."""
        self.record_order: Any = self._env.added_databases[1]
        """Database of the order in which they were put; None likewise."""
        try:
            self._check_schema(readonly)
        except BaseException:
            self._env.close()
            raise

    def _check_schema(self, readonly: bool) -> None:
        schema = self.read(lambda txn: self._number(txn, _SCHEMA_KEY))
        new = self.count() == Totals() and self._env.entries() == self._env.database_count
        if schema not in READABLE_SCHEMAS and not (schema == 0 and new and not readonly):
            raise CacheCorruptError(f"the cache index has schema {schema}, this release reads {SCHEMA}")
        if schema != SCHEMA and not readonly:
            # Schema 1 lacks nothing but the databases that opening has just made: this is the whole migration. Synced
            # before anything else is written, so that no release sees the new things under the old number.
            self.write(lambda txn: txn.put(_SCHEMA_KEY, _U64.pack(SCHEMA), db=self._meta))
            self.sync()

    @property
    def has_records(self) -> bool:
        """Whether there are tables of records: not when looking at an index of schema 1."""
        return self.records is not None and self.record_order is not None

    # --- transactions

    def read(self, work: Callable[[Any], Result]) -> Result:
        """Return *work(transaction)* in a read transaction."""
        return self._transact(work, write=False)

    def write(self, work: Callable[[Any], Result]) -> Result:
        """Return *work(transaction)* in a write transaction; *work* may run again when the map has to grow."""
        with self._noting:
            if self._session is not None and not self._session.noted:
                self._note_session(self._session)
        return self._transact(work, write=True)

    def _transact(self, work: Callable[[Any], Result], *, write: bool) -> Result:
        try:
            return self._env.transact(work, write=write)
        except BaseException:
            with self._counting:
                self._counted = 0  # what was noted in a transaction that failed is not so
            raise

    def count(self) -> Totals:
        """Return what the whole index holds, changes of other processes included.

        Not part of every transaction: each look costs a call that lets go of Python's lock, and those are what writing
        a block costs most.
        """

        def work(txn: Any) -> Totals:
            return Totals(self._bytes(txn), self._count_objects(txn), txn.stat(self._blocks)["entries"])

        return self.read(work)

    def _number(self, txn: Any, key: bytes) -> int:
        data = txn.get(key, db=self._meta)
        if data is None:
            return 0
        if len(data) != _U64.size:
            raise CacheCorruptError(f"the cache index has a damaged {key.decode()}")
        return int(_U64.unpack(data)[0])

    def _bytes(self, txn: Any) -> int:
        bytes_cached = self._number(txn, _BYTES_KEY)
        self._note(txn, bytes_cached=bytes_cached)
        return bytes_cached

    def _add_bytes(self, txn: Any, by: int) -> None:
        bytes_cached = max(0, self._number(txn, _BYTES_KEY) + by)
        txn.put(_BYTES_KEY, _U64.pack(bytes_cached), db=self._meta)
        self._note(txn, bytes_cached=bytes_cached)

    def _count_objects(self, txn: Any) -> int:
        objects: int = txn.stat(self._objects)["entries"]
        self._note(txn, objects_cached=objects)
        return objects

    def _note(self, txn: Any, *, bytes_cached: int | None = None, objects_cached: int | None = None) -> None:
        with self._counting:  # transactions end in any order: an older sum never replaces a newer one
            if txn.id() < self._counted:
                return
            self._counted = txn.id()
            self.bytes_cached = self.bytes_cached if bytes_cached is None else bytes_cached
            self.objects_cached = self.objects_cached if objects_cached is None else objects_cached

    def rewrite_totals(self) -> None:
        """Write something that changes nothing, or what is owed, to see whether the index can be written and synced."""
        self.release(0)
        self.write(lambda txn: self._add_bytes(txn, 0))
        self.sync()

    # --- objects and blocks

    def object(self, digest: bytes) -> ObjectRecord | None:
        """Return the record of a version, None when it is unknown."""
        data = self.read(lambda txn: txn.get(digest, db=self._objects))
        return None if data is None else ObjectRecord.unpack(data)

    def objects(self) -> dict[bytes, ObjectRecord]:
        """Return the records of all versions."""

        def work(txn: Any) -> dict[bytes, ObjectRecord]:
            return {bytes(digest): ObjectRecord.unpack(data) for digest, data in txn.cursor(db=self._objects)}

        return self.read(work)

    def blocks(self, digest: bytes) -> dict[int, BlockRecord]:
        """Return the records of all blocks of a version, by block index."""
        return self.read(partial(self._blocks_of, digest))

    def version(self, digest: bytes) -> tuple[ObjectRecord | None, dict[int, BlockRecord]]:
        """Return what ``object`` and ``blocks`` do, of one moment."""

        def work(txn: Any) -> tuple[ObjectRecord | None, dict[int, BlockRecord]]:
            data = txn.get(digest, db=self._objects)
            return None if data is None else ObjectRecord.unpack(data), self._blocks_of(digest, txn)

        return self.read(work)

    def _blocks_of(self, digest: bytes, txn: Any) -> dict[int, BlockRecord]:
        found = {}
        cursor = txn.cursor(db=self._blocks)
        if cursor.set_range(digest):
            for key, data in cursor:
                if not key.startswith(digest):
                    break
                found[split_block_key(key)[1]] = BlockRecord.unpack(data)
        return found

    def block(self, digest: bytes, index: int, block_bytes: int) -> BlockRecord | None:
        """Return the record of one block; None when it is unknown, or the version is kept in blocks of another size."""

        def work(txn: Any) -> BlockRecord | None:
            data = txn.get(block_key(digest, index), db=self._blocks)
            obj = None if data is None else txn.get(digest, db=self._objects)
            if obj is None or ObjectRecord.unpack(obj).block_bytes != block_bytes:
                return None
            return BlockRecord.unpack(data)

        return self.read(work)

    # --- reservations

    def reserve(self, length_bytes: int, bound_bytes: int, room_bytes: int) -> bool:
        """Set bytes aside for this process, unless they would exceed a bound.

        Args:
            length_bytes: How many; ``put_block`` or ``release`` takes them back.
            bound_bytes: Bound of what is cached and what all have set aside.
            room_bytes: Bound of what all have set aside.
        """

        def work(txn: Any) -> bool:
            need_bytes = self._reserved(txn) + length_bytes
            if need_bytes > room_bytes or self._bytes(txn) + need_bytes > bound_bytes:
                return False
            self._add_reserved(txn, length_bytes)
            return True

        self.release(0)
        return self.write(work)

    def release(self, length_bytes: int) -> None:
        """Take back what was set aside, and what could not be taken back before.

        A disk that is full takes no change, and the room must not stay set aside for as long as this process lives.
        """
        with self._counting:
            length_bytes, self._owed_bytes = length_bytes + self._owed_bytes, 0
        if not length_bytes:
            return
        try:
            self.write(lambda txn: self._add_reserved(txn, -length_bytes))
        except CacheError:
            with self._counting:
                self._owed_bytes += length_bytes
            raise

    def reserved_bytes(self) -> int:
        """Return what all processes together have set aside."""
        return self.read(self._reserved)

    @property
    def _reserved_key(self) -> bytes:
        return _RESERVED_PREFIX + (self._session.key.removeprefix(_SESSION_PREFIX) if self._session else b"")

    def _add_reserved(self, txn: Any, by: int) -> None:
        held_bytes = max(0, self._number(txn, self._reserved_key) + by)
        if held_bytes:
            txn.put(self._reserved_key, _U64.pack(held_bytes), db=self._meta)
        else:
            txn.delete(self._reserved_key, db=self._meta)

    def _reserved(self, txn: Any) -> int:
        """Return what living processes have set aside; what a dead one had is free again."""
        total_bytes = 0
        cursor = txn.cursor(db=self._meta)
        if cursor.set_range(_RESERVED_PREFIX):
            for key, data in cursor:
                if not key.startswith(_RESERVED_PREFIX):
                    break
                if key == self._reserved_key or self._is_at_work(txn, key.removeprefix(_RESERVED_PREFIX)):
                    total_bytes += _U64.unpack(data)[0]
        return total_bytes

    def _is_at_work(self, txn: Any, session: bytes) -> bool:
        data = txn.get(_SESSION_PREFIX + session, db=self._meta)
        if data is None or self._session is None:
            return False
        return not self._session.outlives(_SESSION_PREFIX + session, *_SESSION.unpack(data))

    # --- changes

    def put_block(
        self, digest: bytes, obj: ObjectRecord, index: int, block: BlockRecord, *, reserved_bytes: int = 0
    ) -> BlockRecord | None:
        """Record a block whose data has been written.

        Args:
            digest: Its version.
            obj: The version, as recorded when it is new; its ``last_used_ms`` counts as a use in any case.
            index: The block.
            block: What to record.
            reserved_bytes: What was set aside for it, which this takes back in any case.

        Returns:
            What is recorded now: *block*, or what another process recorded before. None when the version is kept
            in blocks of another size, so that *index* means something else there.
        """

        def work(txn: Any) -> BlockRecord | None:
            if reserved_bytes:
                self._add_reserved(txn, -reserved_bytes)
            data = txn.get(digest, db=self._objects)
            known = ObjectRecord.unpack(data) if data is not None else obj
            if known.block_bytes != obj.block_bytes:
                return None
            key = block_key(digest, index)
            existing = txn.get(key, db=self._blocks)
            if existing is not None:
                return BlockRecord.unpack(existing)
            txn.put(key, block.pack(), db=self._blocks)
            self._grow_object(txn, digest, known, block.length_bytes, obj.last_used_ms)
            if data is None:
                self._count_objects(txn)
            return block

        return self.write(work)

    def _grow_object(self, txn: Any, digest: bytes, obj: ObjectRecord, by: int, last_used_ms: int = 0) -> None:
        cached_bytes = max(0, obj.cached_bytes + by)
        last_used_ms = max(obj.last_used_ms, last_used_ms)
        txn.put(digest, replace(obj, cached_bytes=cached_bytes, last_used_ms=last_used_ms).pack(), db=self._objects)
        self._add_bytes(txn, by)

    def drop_block(self, digest: bytes, index: int, block: BlockRecord) -> bool:
        """Forget a block, unless another process has recorded it anew.

        Args:
            digest: Its version.
            index: The block.
            block: What is known to be wrong; length and checksum are compared.

        Returns:
            Whether it was there and is gone.
        """

        def work(txn: Any) -> bool:
            key = block_key(digest, index)
            data = txn.get(key, db=self._blocks)
            if data is None or BlockRecord.unpack(data)[:2] != block[:2]:
                return False
            txn.delete(key, db=self._blocks)
            obj = txn.get(digest, db=self._objects)
            if obj is not None:
                self._grow_object(txn, digest, ObjectRecord.unpack(obj), -block.length_bytes)
            return True

        return self.write(work)

    def drop_blocks(self, digest: bytes, indexes: Iterable[int], *, hold: bool = False) -> int:
        """Forget some blocks of a version, whatever is recorded of them; return how many bytes they took.

        With *hold* these bytes stay set aside until ``release``: they are on the disk for a moment longer.
        """
        indexes = list(indexes)

        def work(txn: Any) -> int:
            dropped_bytes = 0
            for index in indexes:
                data = txn.pop(block_key(digest, index), db=self._blocks)
                dropped_bytes += 0 if data is None else BlockRecord.unpack(data).length_bytes
            obj = txn.get(digest, db=self._objects)
            if obj is not None:
                self._grow_object(txn, digest, ObjectRecord.unpack(obj), -dropped_bytes)
            if hold:
                self._add_reserved(txn, dropped_bytes)
            return dropped_bytes

        return self.write(work)

    def drop_object(self, digest: bytes, *, hold: bool = False) -> int:
        """Forget a version and all its blocks; return how many bytes they took. For *hold* see ``drop_blocks``."""

        def work(txn: Any) -> int:
            dropped_bytes = 0
            cursor = txn.cursor(db=self._blocks)
            while cursor.set_range(digest) and cursor.key().startswith(digest):
                dropped_bytes += BlockRecord.unpack(cursor.value()).length_bytes
                cursor.delete()
            if txn.delete(digest, db=self._objects) or dropped_bytes:
                self._add_bytes(txn, -dropped_bytes)
                self._count_objects(txn)
            if hold:
                self._add_reserved(txn, dropped_bytes)
            return dropped_bytes

        return self.write(work)

    def replace_blocks(self, changes: Iterable[tuple[bytes, int, BlockRecord, BlockRecord]]) -> None:
        """Exchange records that are still what they are thought to be.

        Args:
            changes: Digest, block index, the record as known, the record to put in its place.
        """
        changes = list(changes)

        def work(txn: Any) -> None:
            for digest, index, old, new in changes:
                key = block_key(digest, index)
                if txn.get(key, db=self._blocks) == old.pack():
                    txn.put(key, new.pack(), db=self._blocks)

        self.write(work)

    def touch(self, last_used_ms: Mapping[bytes, int]) -> None:
        """Note when versions were used last; unknown ones are ignored, time never goes back."""

        def work(txn: Any) -> None:
            for digest, used_ms in last_used_ms.items():
                data = txn.get(digest, db=self._objects)
                if data is not None:
                    self._grow_object(txn, digest, ObjectRecord.unpack(data), 0, used_ms)

        self.write(work)

    def check(self) -> None:
        """Walk every record and compare the sums.

        Raises:
            CacheCorruptError: Something does not unpack or does not add up. A tree that is damaged badly enough can
                also end the process, which is why this runs in one of its own (``probe``).
        """
        self.read(self._check)

    def _check(self, txn: Any) -> None:
        found: Counter[bytes] = Counter()
        for key, data in txn.cursor(db=self._blocks):
            found[split_block_key(key)[0]] += BlockRecord.unpack(data).length_bytes
        claimed = {digest: ObjectRecord.unpack(data).cached_bytes for digest, data in txn.cursor(db=self._objects)}
        if {digest: size_bytes for digest, size_bytes in claimed.items() if size_bytes} != found:
            raise CacheCorruptError("the sizes of blocks and objects in the cache index disagree")
        if sum(claimed.values()) != self._number(txn, _BYTES_KEY):
            raise CacheCorruptError("the cache index does not add up")

    # --- sessions

    def begin_session(self, boot_id: str, capacity_bytes: int, *, alone: bool = False) -> int:
        """Get ready to change the index; noted in it with the first change.

        Args:
            boot_id: This boot of the machine.
            capacity_bytes: The bound of this daemon, for ``cache stats`` to show.
            alone: Whether nobody else has the index open. Then every session in it is over, even if its process id is
                somebody's: in a container the next process gets the id of the one that was killed.

        Returns:
            The epoch: higher than in the index when the machine went down with a session open, or the index is a copy.

        Raises:
            CacheError: The index failed.
            OSError: It cannot be looked at.
        """
        dead = frozenset(key for key, _, _ in self.read(self._sessions)) if alone else frozenset()
        key, place = _SESSION_PREFIX + os.urandom(8), _place_of(self._path)
        self._session = _Session(key, boot_token(boot_id), place, capacity_bytes, dead)
        return self.read(partial(self._epoch, self._session))

    def _epoch(self, session: _Session, txn: Any) -> int:
        unclean = any(its_boot != session.boot for _, its_boot, _ in self._sessions(txn))
        is_copy = txn.get(_PLACE_KEY, session.place, db=self._meta) != session.place
        return self._number(txn, _EPOCH_KEY) + (unclean or is_copy)

    def _sessions(self, txn: Any) -> list[tuple[bytes, bytes, int]]:
        """Return key, boot and process id of every session noted."""
        noted = [(key, data) for key, data in txn.cursor(db=self._meta) if key.startswith(_SESSION_PREFIX)]
        return [(key, *_SESSION.unpack(data)) for key, data in noted]

    def _note_session(self, session: _Session) -> None:
        def work(txn: Any) -> None:
            txn.put(_EPOCH_KEY, _U64.pack(self._epoch(session, txn)), db=self._meta)
            txn.put(_PLACE_KEY, session.place, db=self._meta)
            for key, boot, pid in self._sessions(txn):
                if session.outlives(key, boot, pid):
                    txn.delete(key, db=self._meta)
                    txn.delete(_RESERVED_PREFIX + key.removeprefix(_SESSION_PREFIX), db=self._meta)
            txn.put(_CAPACITY_KEY, _U64.pack(session.capacity_bytes), db=self._meta)
            txn.put(session.key, _SESSION.pack(session.boot, os.getpid()), db=self._meta)

        self._transact(work, write=True)
        self.sync()
        session.noted = True

    def end_session(self) -> None:
        """Note durably that all this process has recorded is on the disk."""
        session, reserved_key = self._session, self._reserved_key
        self._session = None
        if session is not None and session.noted:

            def work(txn: Any) -> None:
                txn.delete(session.key, db=self._meta)
                txn.delete(reserved_key, db=self._meta)

            self.sync()
            self.write(work)
            self.sync()

    def capacity_bytes(self) -> int:
        """Return the bound noted by the daemon that began to write last, 0 when none has."""
        return self.read(lambda txn: self._number(txn, _CAPACITY_KEY))

    def sync(self) -> None:
        """Put everything committed so far on the disk."""
        self._env.sync()

    def close(self) -> None:
        """Close the index; every later call raises ``CacheError``. Idempotent."""
        self._env.close()


def _place_of(path: str) -> bytes:
    """Return what a copy of the index in *path* has otherwise: the filesystem, and the number of the file there."""
    name = os.path.join(path, "data.mdb")
    return _PLACE.pack(os.statvfs(name).f_fsid & _MASK, os.stat(name).st_ino & _MASK)


def _alive(pid: int) -> bool:
    """Tell whether there is such a process. Not by its directory in /proc, which hides those of others (hidepid).

    With ``ProtectProc=invisible``, as in our unit, those of the same user, too: a worker keeps to itself (``privacy``).
    """
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
