"""A cache in memory that keeps the promises of the one on disk, and fails when told to.

It passes the same contract suite as the disk cache: same results, same pins, same bound, same errors. Tests of the
layers above use it and script what a real disk does on a bad day: a block that fails its checksum (``corrupt``), one
that cannot be read (``break_reads``), a disk that takes no more (``refuse_writes``), one that is slow (``read_gate``
and ``write_gate``). ``reads`` and ``writes`` record every call, so that tests count instead of timing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import trio

from tigrismount.cache.base import CacheStatistics, Claim, block_length_bytes, check_piece
from tigrismount.cache.kept import TABLES, TableBounds, bounds_of
from tigrismount.cache.none import UncachedObject
from tigrismount.core.eviction import Occupancy
from tigrismount.errors import CacheCorruptError, CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tigrismount.cache.base import CachedObject
    from tigrismount.core.types import ObjectId


@dataclass(slots=True)
class _Version:
    """What is kept of one version; shared by its handles and kept when all are closed."""

    block_bytes: int
    blocks: dict[int, bytes] = field(default_factory=dict)
    proven: set[int] = field(default_factory=set)
    corrupt: set[int] = field(default_factory=set)
    broken: set[int] = field(default_factory=set)
    claimed: set[int] = field(default_factory=set)
    elsewhere: dict[int, trio.Event] = field(default_factory=dict)
    kept_otherwise: bool = False


async def _pass(gate: trio.Event | None) -> None:
    if gate is None:
        await trio.lowlevel.checkpoint()
    else:
        await gate.wait()


class MemoryRecords:
    """A ``RecordStore`` in memory, with the bounds of the one on disk.

    Args:
        bounds: Bounds of each table.
    """

    def __init__(self, bounds: Mapping[str, TableBounds] = TABLES) -> None:
        self.refuse = False
        """While True nothing is found and nothing is kept, as with a failing disk."""
        self._bounds = bounds
        self._tables: dict[str, dict[bytes, bytes]] = {table: {} for table in bounds}

    def _table(self, table: str) -> dict[bytes, bytes]:
        bounds_of(self._bounds, table)
        return {} if self.refuse else self._tables[table]

    async def get(self, table: str, key: bytes) -> bytes | None:
        """Return a value, as in the protocol."""
        await trio.lowlevel.checkpoint()
        return self._table(table).get(key)

    async def put(self, table: str, key: bytes, value: bytes) -> bool:
        """Keep a value, as in the protocol."""
        await trio.lowlevel.checkpoint()
        bounds, records = bounds_of(self._bounds, table), self._table(table)
        if self.refuse or not bounds.allow(key, value):
            return False
        others = {k: v for k, v in records.items() if k != key}
        while not bounds.hold(len(others) + 1, _sum_bytes(others) + len(key) + len(value)):
            if not bounds.drops_oldest:
                return False
            sooner = (k for k in others if not bounds.drops_last or not k.startswith(bounds.drops_last))
            del others[next(sooner, next(iter(others)))]
        self._tables[table] = {**others, key: value}
        return True

    async def delete(self, table: str, key: bytes) -> None:
        """Forget a value, as in the protocol."""
        await trio.lowlevel.checkpoint()
        self._table(table).pop(key, None)

    async def items(self, table: str, prefix: bytes = b"", limit: int = 1000) -> list[tuple[bytes, bytes]] | None:
        """Return records in key order, as in the protocol."""
        await trio.lowlevel.checkpoint()
        if self.refuse:
            return None
        return sorted(item for item in self._table(table).items() if item[0].startswith(prefix))[:limit]


def _sum_bytes(records: Mapping[bytes, bytes]) -> int:
    return sum(len(key) + len(value) for key, value in records.items())


class MemoryBlockCache:
    """A ``BlockCache`` without a disk.

    Args:
        block_bytes: Block size of versions first seen now.
        capacity_bytes: Most bytes of blocks kept.
    """

    def __init__(self, *, block_bytes: int = 8 << 20, capacity_bytes: int = 1 << 40) -> None:
        self.block_bytes = block_bytes
        """Block size of versions first seen from now on."""
        self.refuse_writes = False
        """While True every ``write_block`` answers False, as on a full disk."""
        self.read_gate: trio.Event | None = None
        """When set, reads wait for it after they were recorded."""
        self.write_gate: trio.Event | None = None
        """When set, writes wait for it after they were recorded."""
        self.drive_of: Callable[[ObjectId], str] = lambda _: "memory"
        """Which drive a version is on, where a test wants several."""
        self.hanging_drive = ""
        """When set, reads from that drive alone wait for ``read_gate``."""
        self.reads: list[tuple[ObjectId, int]] = []
        """Every ``read_block``, in order of arrival."""
        self.pieces: list[tuple[ObjectId, int, int, int]] = []
        """Every ``read_piece``, in order of arrival: block, start and stop."""
        self.writes: list[tuple[ObjectId, int]] = []
        """Every ``write_block``, in order of arrival."""
        self._occupancy: Occupancy[ObjectId] = Occupancy(capacity_bytes)
        self._versions: dict[ObjectId, _Version] = {}
        self.records = MemoryRecords()
        """Records kept beside the blocks."""
        self._ticks = 0
        self._counters = CacheStatistics(capacity_bytes=capacity_bytes)

    async def open_object(self, obj: ObjectId) -> CachedObject:
        """Return a pinned handle, as in the protocol."""
        await trio.lowlevel.checkpoint()
        if not obj.cacheable or not obj.size_bytes:
            return UncachedObject(self.block_bytes)
        version = self._versions.setdefault(obj, _Version(self.block_bytes))
        self._occupancy.pin(obj)
        self._occupancy.touch(obj, self._tick())
        return _MemoryObject(self, obj, version)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sleep until cancelled: memory needs no publisher."""
        task_status.started()
        await trio.sleep_forever()

    def statistics(self) -> CacheStatistics:
        """Return counters and gauges."""
        counters, total_bytes = self._counters, self._occupancy.total_bytes
        return replace(
            counters,
            bytes_cached=total_bytes,
            objects_cached=len(self._occupancy),
            largest_bytes=max(counters.capacity_bytes, total_bytes),
        )

    async def aclose(self) -> None:
        """Keep everything: opening the same object again is how tests restart a daemon."""
        await trio.lowlevel.checkpoint()

    def block(self, obj: ObjectId, index: int) -> bytes | None:
        """Return the bytes kept of a block, or None; for tests to look at."""
        version = self._versions.get(obj)
        return version.blocks.get(index) if version else None

    def put(self, obj: ObjectId, index: int, data: bytes) -> None:
        """Plant a block as an earlier process would have left it."""
        version = self._versions.setdefault(obj, _Version(self.block_bytes))
        assert len(data) == block_length_bytes(obj.size_bytes, version.block_bytes, index)
        self._keep(obj, version, index, data)

    def corrupt(self, obj: ObjectId, index: int) -> None:
        """Make the next read of a block fail its checksum."""
        self._versions[obj].corrupt.add(index)
        self._versions[obj].proven.discard(index)

    def fetch_elsewhere(self, obj: ObjectId, index: int) -> Callable[[bytes | None], None]:
        """Make another process fetch a block; what is returned ends that, with the bytes it cached or None."""
        version = self._versions.setdefault(obj, _Version(self.block_bytes))
        version.elsewhere[index] = trio.Event()

        def end(data: bytes | None) -> None:
            if data is not None:
                self.put(obj, index, data)
            version.elsewhere.pop(index).set()

        return end

    def keep_otherwise(self, obj: ObjectId) -> None:
        """Make another process have begun a version in blocks of another size."""
        self._versions.setdefault(obj, _Version(self.block_bytes)).kept_otherwise = True

    def claimed(self, obj: ObjectId) -> set[int]:
        """Return the blocks that are claimed."""
        version = self._versions.get(obj)
        return set(version.claimed) if version else set()

    def break_reads(self, obj: ObjectId, index: int) -> None:
        """Make the next read of a block fail as a bad disk does."""
        self._versions[obj].broken.add(index)

    def _tick(self) -> int:
        self._ticks += 1
        return self._ticks

    def _count(self, **changes: int) -> None:
        added = {name: getattr(self._counters, name) + by for name, by in changes.items()}
        self._counters = replace(self._counters, **added)

    def _keep(self, obj: ObjectId, version: _Version, index: int, data: bytes) -> None:
        version.blocks[index] = data
        version.proven.discard(index)
        self._occupancy.add(obj, len(data), self._tick())

    def _drop(self, obj: ObjectId, version: _Version, index: int) -> None:
        data = version.blocks.pop(index, b"")
        self._occupancy.shrink(obj, len(data))

    def _make_room(self, need_bytes: int) -> bool:
        eviction = self._occupancy.plan(need_bytes)
        if not eviction.enough:
            return False
        for obj in eviction.victims:
            if obj == eviction.victims[-1] and eviction.last_bytes < self._occupancy.size_bytes(obj):
                self._trim(obj, eviction.last_bytes)
                continue
            del self._versions[obj]
            self._occupancy.remove(obj)
            self._count(evicted_objects=1)
        return True

    def _trim(self, obj: ObjectId, need_bytes: int) -> None:
        blocks = self._versions[obj].blocks
        while need_bytes > 0 and blocks:
            data = blocks.pop(max(blocks))
            need_bytes -= len(data)
            self._occupancy.shrink(obj, len(data))
        self._count(trimmed_objects=1)

    async def _read(self, obj: ObjectId, version: _Version, index: int, buffer: memoryview) -> None:
        self.reads.append((obj, index))
        hangs = self.hanging_drive in ("", self.drive_of(obj))
        await _pass(self.read_gate if hangs else None)
        data = version.blocks.get(index)
        if data is None:
            raise CacheError(f"block {index} is not cached", bucket=obj.bucket, key=obj.key)
        if index in version.broken:
            version.broken.discard(index)
            self._drop(obj, version, index)
            raise CacheError(f"block {index} cannot be read", bucket=obj.bucket, key=obj.key)
        if index in version.corrupt:
            version.corrupt.discard(index)
            self._drop(obj, version, index)
            self._count(corrupt_blocks=1)
            buffer[: len(data)] = bytes(len(data))  # they are known to be wrong once they are there
            raise CacheCorruptError(f"block {index} fails its checksum", bucket=obj.bucket, key=obj.key)
        buffer[: len(data)] = data
        version.proven.add(index)
        self._count(blocks_read=1, bytes_read=len(data))

    async def _read_piece(self, obj: ObjectId, version: _Version, index: int, start: int, stop: int) -> bytes:
        await _pass(self.read_gate if self.hanging_drive in ("", self.drive_of(obj)) else None)
        if index not in version.blocks or index in version.broken:
            raise CacheError(f"block {index} cannot be read", bucket=obj.bucket, key=obj.key)
        self._count(pieces_read=1, bytes_read=stop - start)
        return version.blocks[index][start:stop]

    async def _write(self, obj: ObjectId, version: _Version, index: int, data: memoryview) -> bool:
        self.writes.append((obj, index))
        await _pass(self.write_gate)
        if index in version.blocks:
            return True
        if self.refuse_writes or version.kept_otherwise or not self._make_room(len(data)):
            self._count(writes_skipped=1)
            return False
        self._keep(obj, version, index, bytes(data))
        self._count(blocks_written=1, bytes_written=len(data))
        return True

    def _close(self, obj: ObjectId) -> None:
        self._occupancy.touch(obj, self._tick())
        self._occupancy.unpin(obj)


class _MemoryObject:
    """One handle on a version."""

    def __init__(self, cache: MemoryBlockCache, obj: ObjectId, version: _Version) -> None:
        self._cache = cache
        self._obj = obj
        self._version = version
        self._closed = False

    @property
    def block_bytes(self) -> int:
        return self._version.block_bytes

    @property
    def drive(self) -> str:
        return self._cache.drive_of(self._obj)

    @property
    def kept_otherwise(self) -> bool:
        return self._version.kept_otherwise

    def has(self, index: int) -> bool:
        return index in self._version.blocks

    def count(self) -> int:
        return len(self._version.blocks)

    async def read_block(self, index: int, buffer: memoryview, *, check: bool = False) -> None:
        length_bytes = block_length_bytes(self._obj.size_bytes, self.block_bytes, index)
        if len(buffer) < length_bytes:
            raise ValueError(f"a buffer of {len(buffer)} bytes is too small for block {index} of {length_bytes}")
        if self._closed:
            raise CacheError(f"block {index} was asked for after its handle was closed")
        await self._cache._read(self._obj, self._version, index, buffer)

    def proven(self, index: int) -> bool:
        return index in self._version.blocks and index in self._version.proven

    async def read_piece(self, index: int, start: int, stop: int) -> bytes:
        check_piece(self._obj.size_bytes, self.block_bytes, index, start, stop)
        self._cache.pieces.append((self._obj, index, start, stop))
        if self._closed or not self.proven(index):
            raise CacheError(f"a piece of block {index} was asked for, which is not proven")
        return await self._cache._read_piece(self._obj, self._version, index, start, stop)

    def unproven(self) -> list[int] | None:
        blocks = self._version.blocks
        return [] if len(blocks) * self.block_bytes >= self._obj.size_bytes else None

    def published(self) -> bool:
        return True

    async def open_file(self) -> int:
        await trio.lowlevel.checkpoint()
        raise CacheError("a version in memory has no file")

    async def prove_block(self, index: int, fd: int) -> None:
        await trio.lowlevel.checkpoint()
        raise CacheError("a version in memory has no file")

    async def write_block(self, index: int, buffer: memoryview, length_bytes: int) -> bool:
        if length_bytes != block_length_bytes(self._obj.size_bytes, self.block_bytes, index):
            raise ValueError(f"block {index} does not have {length_bytes} bytes")
        if self._closed:
            return False
        return await self._cache._write(self._obj, self._version, index, buffer[:length_bytes])

    async def claim(self, indexes: Sequence[int]) -> tuple[Claim, int]:
        await trio.lowlevel.checkpoint()
        kinds = [self._claim(index) for index in indexes]
        if kinds[0] is not Claim.OURS:
            return kinds[0], 1
        count = next((n for n, kind in enumerate(kinds) if kind is not Claim.OURS), len(kinds))
        self._version.claimed.update(indexes[:count])
        return Claim.OURS, count

    def _claim(self, index: int) -> Claim:
        if index in self._version.elsewhere:
            return Claim.ELSEWHERE
        return Claim.ON_DISK if self.has(index) else Claim.OURS

    async def wait_claim(self, index: int) -> Claim:
        elsewhere = self._version.elsewhere.get(index)
        await _pass(elsewhere)
        if not self.has(index):
            self._version.claimed.add(index)
        return self._claim(index)

    def unclaim(self, index: int) -> None:
        self._version.claimed.discard(index)

    async def refresh(self) -> None:
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._cache._close(self._obj)
