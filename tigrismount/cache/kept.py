"""Small records kept beside the blocks: learned orders, load reports, listings, pins, checksums of objects.

The cache stores them and does not look into them. They live in the index, so all daemons that share the directory see
them; each carries a checksum, so what a power cut or a bad disk left of one is never served; each table has a bound, so
none grows for ever. Trouble is never the caller's: a record that cannot be read is missing, one that cannot be written
is not kept, and a disk that does not answer is waited for only briefly.

``RecordTables`` blocks, for worker threads and for commands without a mount; ``KeptRecords`` is the ``RecordStore`` of
a daemon. In a table records have the order of their keys; the order in which they were put is kept in a database of
its own, and the longest ago put goes first when a table is full. Pins are the exception: they are somebody's orders,
so a full table takes no more of them.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import trio
import xxhash

from tigrismount import threads
from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tigrismount.cache.index import CacheIndex
    from tigrismount.threads import Limiter

Result = TypeVar("Result")

KEY_PREFIX_BYTES = 400
"""Longest key that is stored as it is: LMDB takes 511 bytes, table name and digest of a longer one included."""
_HEAD = struct.Struct("<QQH")
_SEQUENCE = struct.Struct(">Q")
_STATE = struct.Struct("<QQQ")
_STATE_PREFIX = b"table:"
_PATIENCE_S = 5.0
"""How long a disk may take for one small record before the daemon goes on without it."""
_SILENCE_S = 30.0
"""How long a disk that did not answer is not asked by who can do without it."""
_MOST_PASSED_OVER = 10_000
"""Records that go last, and are passed over for one that does not; beyond, the oldest goes."""
_THREADS = 8
"""Records looked up at once, and changed at once: as many threads a disk that hangs may take, none that others need."""


@dataclass(frozen=True, slots=True)
class TableBounds:
    """How much one table may hold."""

    entries: int
    """Most records."""
    size_bytes: int
    """Most bytes of keys and values."""
    drops_oldest: bool = True
    """Whether the record put longest ago makes room for a new one; else a full table takes no new ones."""
    drops_last: bytes = b""
    """What the keys of records begin with that go only where there is nothing else to drop; empty for none."""

    def allow(self, key: bytes, value: bytes) -> bool:
        """Tell whether a record is small enough to be one of several."""
        return len(key) < 1 << 16 and len(key) + len(value) <= self.size_bytes // 4

    def hold(self, entries: int, size_bytes: int) -> bool:
        """Tell whether so much is within the bounds."""
        return entries <= self.entries and size_bytes <= self.size_bytes


TABLES = {
    "orders": TableBounds(20_000, 64 << 20),
    "loads": TableBounds(2_000, 32 << 20),
    "metadata": TableBounds(200_000, 512 << 20),
    "pins": TableBounds(10_000, 16 << 20, drops_oldest=False),
    "checksums": TableBounds(200_000, 64 << 20, drops_last=b"bad/"),
}
"""Every table there is. The bounds are what a large host needs, times ten; a record takes at most a quarter of one."""


def bounds_of(tables: Mapping[str, TableBounds], table: str) -> TableBounds:
    """Return the bounds of a table.

    Raises:
        ValueError: There is no such table: a mistake of the caller.
    """
    bounds = tables.get(table)
    if bounds is None:
        raise ValueError(f"there is no table {table!r}")
    return bounds


class _State(NamedTuple):
    """What is known of a table as a whole."""

    next_sequence: int = 0
    entries: int = 0
    size_bytes: int = 0


class _Record(NamedTuple):
    """A record, unpacked."""

    sequence: int
    key: bytes
    value: bytes


class RecordTables:
    """The tables of one index; all methods block and may be called from any thread.

    Args:
        index: The index.
        bounds: The tables there are.
    """

    def __init__(self, index: CacheIndex, bounds: Mapping[str, TableBounds] = TABLES) -> None:
        self._index = index
        self._bounds = bounds

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value of a record, None when it is missing or damaged.

        Raises:
            CacheError: The index failed.
        """
        bounds_of(self._bounds, table)
        stored = _stored_key(table, key)
        if not self._index.has_records:
            return None
        data = self._index.read(lambda txn: txn.get(stored, db=self._index.records))
        record = None if data is None else _unpack(table, bytes(data))
        return record.value if record is not None and record.key == key else None

    def put(self, table: str, key: bytes, value: bytes) -> bool:
        """Keep a record in place of the one with the same key; return whether it is kept.

        Raises:
            CacheError: The index failed.
        """
        bounds = bounds_of(self._bounds, table)
        if not bounds.allow(key, value):
            return False
        return self._index.write(partial(self._put, bounds, table, key, value))

    def _put(self, bounds: TableBounds, table: str, key: bytes, value: bytes, txn: Any) -> bool:
        stored, state = _stored_key(table, key), self._state(txn, table)
        data = _pack(table, _Record(state.next_sequence, key, value))
        old = txn.get(stored, db=self._index.records)
        if not bounds.drops_oldest and not bounds.hold(
            state.entries + (old is None), state.size_bytes + len(data) - len(old or b"")
        ):
            return False
        state = self._remove(txn, table, stored, state)
        while not bounds.hold(state.entries + 1, state.size_bytes + len(data)):
            state = self._remove_oldest(txn, table, state, bounds.drops_last)
        txn.put(stored, data, db=self._index.records)
        txn.put(_order_key(table, state.next_sequence), stored, db=self._index.record_order)
        state = _State(state.next_sequence + 1, state.entries + 1, state.size_bytes + len(data))
        self._set_state(txn, table, state)
        return True

    def delete(self, table: str, key: bytes) -> None:
        """Forget a record; a missing one is no mistake.

        Raises:
            CacheError: The index failed.
        """
        bounds_of(self._bounds, table)
        stored = _stored_key(table, key)
        self._index.write(
            lambda txn: self._set_state(txn, table, self._remove(txn, table, stored, self._state(txn, table)))
        )

    def clear(self, table: str) -> None:
        """Forget every record of a table.

        Raises:
            CacheError: The index failed.
        """
        bounds_of(self._bounds, table)
        self._index.write(partial(self._clear, table))

    def _clear(self, table: str, txn: Any) -> None:
        head = _table_prefix(table)
        for database in (self._index.records, self._index.record_order):
            cursor = txn.cursor(db=database)
            while cursor.set_range(head) and cursor.key().startswith(head):
                cursor.delete()
        self._set_state(txn, table, _State(self._state(txn, table).next_sequence))

    def items(self, table: str, prefix: bytes = b"", limit: int = 1000) -> list[tuple[bytes, bytes]]:
        """Return the records whose keys begin with *prefix*, in key order; damaged ones are left out.

        Raises:
            CacheError: The index failed.
        """
        bounds_of(self._bounds, table)
        if not self._index.has_records:
            return []
        return self._index.read(partial(self._items, table, prefix, limit))

    def _items(self, table: str, prefix: bytes, limit: int, txn: Any) -> list[tuple[bytes, bytes]]:
        head = _table_prefix(table)
        start = head + prefix[:KEY_PREFIX_BYTES]
        found: list[tuple[bytes, bytes]] = []
        cursor = txn.cursor(db=self._index.records)
        if cursor.set_range(start):
            last = b""
            for stored, data in cursor:
                if not stored.startswith(start):
                    break
                same = stored[: len(head) + KEY_PREFIX_BYTES]
                if len(found) >= limit and same != last:
                    break  # not within a run of long keys: those are stored in the order of their digests
                last = same
                record = _unpack(table, bytes(data))
                if record is not None and record.key.startswith(prefix):
                    found.append((record.key, record.value))
        return sorted(found)[:limit]

    def _remove(self, txn: Any, table: str, stored: bytes, state: _State) -> _State:
        data = txn.get(stored, db=self._index.records)
        if data is None:
            return state
        if len(data) >= _HEAD.size:
            txn.delete(_order_key(table, _HEAD.unpack_from(data)[0]), db=self._index.record_order)
        txn.delete(stored, db=self._index.records)
        return state._replace(entries=max(0, state.entries - 1), size_bytes=max(0, state.size_bytes - len(data)))

    def _remove_oldest(self, txn: Any, table: str, state: _State, drops_last: bytes) -> _State:
        cursor = txn.cursor(db=self._index.record_order)
        head = _table_prefix(table)
        oldest: tuple[bytes, bytes] | None = None
        if cursor.set_range(head):
            for order, stored in itertools.islice(cursor, _MOST_PASSED_OVER):
                if not order.startswith(head):
                    break
                oldest = oldest or (order, stored)
                if not drops_last or not stored.startswith(head + drops_last):
                    oldest = order, stored
                    break
        if oldest is None:
            # The books are wrong: what is left of the table has no order. Begin them anew rather than refuse for ever.
            return _State(state.next_sequence)
        txn.delete(oldest[0], db=self._index.record_order)
        return self._remove(txn, table, oldest[1], state)

    def _state(self, txn: Any, table: str) -> _State:
        data = txn.get(_STATE_PREFIX + table.encode(), db=self._index.meta)
        return _State() if data is None else _State(*_STATE.unpack(data))

    def _set_state(self, txn: Any, table: str, state: _State) -> None:
        txn.put(_STATE_PREFIX + table.encode(), _STATE.pack(*state), db=self._index.meta)


class KeptRecords:
    """The ``RecordStore`` of a disk cache.

    Args:
        index: The index of its directory.
        on_failure: Called with the failure when the index cannot be read or written.
        bounds: The tables there are.
    """

    def __init__(
        self,
        index: CacheIndex,
        *,
        on_failure: Callable[[CacheError | OSError], None],
        bounds: Mapping[str, TableBounds] = TABLES,
    ) -> None:
        self._index = index
        self._tables = RecordTables(index, bounds)
        self._on_failure = on_failure
        self._looking = trio.CapacityLimiter(_THREADS)
        self._changing = trio.CapacityLimiter(_THREADS)
        self._unsynced = False
        self._silent_until_s = -math.inf

    @property
    def is_silent(self) -> bool:
        """Whether the disk did not answer a moment ago: who asks waits for a while, and hears nothing."""
        return trio.current_time() < self._silent_until_s

    async def get(self, table: str, key: bytes) -> bytes | None:
        """Return a value, as in the protocol."""
        return await self._attempt(self._looking, partial(self._tables.get, table, key), otherwise=None)

    async def put(self, table: str, key: bytes, value: bytes) -> bool:
        """Keep a value, as in the protocol."""
        kept = await self._attempt(self._changing, partial(self._tables.put, table, key, value), otherwise=False)
        self._unsynced |= kept
        return kept

    async def delete(self, table: str, key: bytes) -> None:
        """Forget a value, as in the protocol."""
        await self._attempt(self._changing, partial(self._tables.delete, table, key), otherwise=None)
        self._unsynced = True

    async def items(self, table: str, prefix: bytes = b"", limit: int = 1000) -> list[tuple[bytes, bytes]] | None:
        """Return records in key order, as in the protocol."""
        return await self._attempt(self._looking, partial(self._tables.items, table, prefix, limit), otherwise=None)

    async def sync(self) -> None:
        """Put what was kept lately on the disk.

        Raises:
            CacheError: The index failed.
        """
        if self._unsynced:
            self._unsynced = False
            try:
                await threads.run_sync(self._index.sync)
            except BaseException:
                self._unsynced = True  # for the next call
                raise

    async def _attempt(self, limiter: Limiter, work: Callable[[], Result], *, otherwise: Result) -> Result:
        with trio.move_on_after(_PATIENCE_S):
            try:
                return await threads.run_sync(work, limiter=limiter, abandon_on_cancel=True)
            except (CacheError, threads.NoThreadError) as error:
                self._on_failure(error)
                return otherwise
        self._silent_until_s = trio.current_time() + _SILENCE_S
        self._on_failure(CacheError(f"the cache's disk has not answered for {_PATIENCE_S:g} s"))
        return otherwise


def _table_prefix(table: str) -> bytes:
    return table.encode() + b"\0"


def _stored_key(table: str, key: bytes) -> bytes:
    head = _table_prefix(table) + key[:KEY_PREFIX_BYTES]
    return head if len(key) <= KEY_PREFIX_BYTES else head + hashlib.sha256(key).digest()


def _order_key(table: str, sequence: int) -> bytes:
    return _table_prefix(table) + _SEQUENCE.pack(sequence)


def _checksum(table: str, record: _Record) -> int:
    parts = (_table_prefix(table), _SEQUENCE.pack(record.sequence), record.key, b"\0", record.value)
    return int(xxhash.xxh3_64_intdigest(b"".join(parts)))


def _pack(table: str, record: _Record) -> bytes:
    head = _HEAD.pack(record.sequence, _checksum(table, record), len(record.key))
    return head + record.key + record.value


def _unpack(table: str, data: bytes) -> _Record | None:
    if len(data) < _HEAD.size:
        return None
    sequence, checksum, key_bytes = _HEAD.unpack_from(data)
    value_start = _HEAD.size + key_bytes
    record = _Record(sequence, data[_HEAD.size : value_start], data[value_start:])
    return record if _checksum(table, record) == checksum else None
