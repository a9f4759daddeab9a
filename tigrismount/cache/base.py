"""What ``blocks`` needs of a disk cache, as a protocol: the LMDB-backed one and the in-memory fake share it.

The contract suite in ``testing.cache_contract`` is the specification. Nothing in here may harm a read: every failure of
the cache is a ``CacheError`` that the caller answers by fetching from the store.
"""

from __future__ import annotations

import mmap
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import trio

    from tigrismount.core.types import ObjectId


def block_length_bytes(size_bytes: int, block_bytes: int, index: int) -> int:
    """Return the length of block *index* of an object: *block_bytes*, or what is left for the last one.

    Args:
        size_bytes: Size of the object.
        block_bytes: Its block size.
        index: Block, within the object.

    Raises:
        ValueError: The object has no such block: a mistake of the caller.
    """
    length_bytes = min(block_bytes, size_bytes - index * block_bytes)
    if index < 0 or length_bytes <= 0:
        raise ValueError(f"an object of {size_bytes} bytes has no block {index} of {block_bytes} bytes")
    return length_bytes


def check_piece(size_bytes: int, block_bytes: int, index: int, start: int, stop: int) -> None:
    """Raise unless a block has bytes ``[start, stop)``; arguments as of ``read_piece`` and ``block_length_bytes``.

    Raises:
        ValueError: It does not: a mistake of the caller.
    """
    length_bytes = block_length_bytes(size_bytes, block_bytes, index)
    if not 0 <= start < stop <= length_bytes:
        raise ValueError(f"[{start}, {stop}) is no piece of block {index} of {length_bytes} bytes")


@contextmanager
def block_memory(block_bytes: int) -> Iterator[memoryview]:
    """Give memory for one block, aligned as ``O_DIRECT`` wants it.

    Args:
        block_bytes: Its size.

    Raises:
        CacheError: The kernel has none.
    """
    try:
        memory = mmap.mmap(-1, block_bytes)
    except OSError as error:
        raise CacheError(f"there is no memory for a block: {error.strerror}") from error
    try:
        with memoryview(memory) as buffer:
            yield buffer
    finally:
        with suppress(BufferError):  # a read that failed has views of it, and goes with its error
            memory.close()


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Counters since start, and gauges where said."""

    bytes_cached: int = 0
    """Gauge: bytes of blocks in the cache now (all daemons that share it)."""
    objects_cached: int = 0
    """Gauge: object versions in the cache now."""
    capacity_bytes: int = 0
    """Gauge: the configured bound."""
    largest_bytes: int = 0
    """Gauge: most bytes that one version may have, as it lies in one directory; what there is of others counts."""
    room_bytes: int = 0
    """Gauge: what it could hold beside all else that is on its disk now; at most the bound."""
    blocks_read: int = 0
    """Blocks read back from disk."""
    pieces_read: int = 0
    """Pieces of blocks read back from disk."""
    bytes_read: int = 0
    """Bytes read back from disk."""
    blocks_written: int = 0
    """Blocks written."""
    bytes_written: int = 0
    """Bytes written."""
    writes_skipped: int = 0
    """Blocks not cached because the disk could not keep up, was full, or failed."""
    corrupt_blocks: int = 0
    """Blocks that failed their checksum and were dropped."""
    evicted_objects: int = 0
    """Object versions evicted."""
    trimmed_objects: int = 0
    """Times that a part of an object version was evicted."""
    degraded: str = ""
    """Why nothing is written at the moment; empty when all is well."""


class Claim(Enum):
    """Who fetches a block, among all processes that share the cache."""

    OURS = auto()
    """We do."""
    ELSEWHERE = auto()
    """Another process is at it."""
    ON_DISK = auto()
    """Nobody has to: it is on the disk, and ``has`` says so now."""


class CachedObject(Protocol):
    """One object version as the cache holds it; open ones are never evicted."""

    @property
    def block_bytes(self) -> int:
        """Block size recorded for this version, a power of two; every index below counts in it."""

    @property
    def drive(self) -> str:
        """Names the drive that its blocks are on: what is read from one must not wait for another that hangs."""

    @property
    def kept_otherwise(self) -> bool:
        """Whether another process has begun this version in blocks of another size: none of ours is kept for now."""

    def has(self, index: int) -> bool:
        """Tell from memory whether block *index* is on disk. Never blocks."""

    def count(self) -> int:
        """Return how many blocks of this version are on disk. Never blocks."""

    async def read_block(self, index: int, buffer: memoryview, *, check: bool = False) -> None:
        """Read block *index* into the start of *buffer* and verify it as configured.

        Args:
            index: Block to read.
            buffer: Page-aligned memory whose size is the block's length rounded up to 4096 (or more).
            check: Verify it even where the configuration would not.

        Raises:
            CacheCorruptError: It failed its checksum; the block was dropped from the index.
            CacheError: It could not be read, or has been evicted meanwhile; ``has`` is False from now on.
        """

    def proven(self, index: int) -> bool:
        """Tell whether block *index* is on disk and the next read would not verify it, as configured. Never blocks."""

    async def read_piece(self, index: int, start: int, stop: int) -> bytes:
        """Return bytes ``[start, stop)`` of a block, counted from its first byte; nothing is verified.

        Args:
            index: A block that is ``proven``.
            start: First byte.
            stop: One past the last byte, at most the block's length.

        Raises:
            CacheError: It could not be read, or is not proven any more; ``has`` may go on saying that it is there.
        """

    def unproven(self) -> list[int] | None:
        """Return the blocks that the next read would verify, as configured; None while some are not on disk at all."""

    def published(self) -> bool:
        """Tell whether the data of all blocks that are on disk were synced: until then that may still fail.

        What was not is synced soon, by whomever it was written. Never blocks.
        """

    async def open_file(self) -> int:
        """Return a descriptor for reading of the file that these blocks are in; the caller closes it.

        It is locked like an open version: as long as it, a duplicate of it or the kernel's own reference to it is open,
        nobody evicts or punches the file. Only where all blocks are on disk is it byte for byte the object.

        Raises:
            CacheError: There is none, or its filesystem cannot tell when nobody has it open any more.
        """

    async def prove_block(self, index: int, fd: int) -> None:
        """Verify block *index* as it is in the page cache, and leave it there: nothing is copied out of it.

        Args:
            index: Block to verify.
            fd: What ``open_file`` returned.

        Raises:
            CacheCorruptError: It failed its checksum; the block was dropped from the index.
            CacheError: It could not be read, or has been evicted meanwhile, and ``has`` is False from now on; or *fd*
                is not of the file that holds it now.
        """

    async def write_block(self, index: int, buffer: memoryview, length_bytes: int) -> bool:
        """Write a complete block and record it; the caller keeps *buffer* unchanged until this returns.

        Args:
            index: Block to write; already cached blocks are left alone.
            buffer: Page-aligned memory, at least *length_bytes* rounded up to 4096 long.
            length_bytes: Bytes of the block: ``block_bytes``, or less for the last one.

        Returns:
            Whether the block is in the cache now. False when the disk is full, failing or too slow; never raises
            for that.
        """

    async def claim(self, indexes: Sequence[int]) -> tuple[Claim, int]:
        """Claim blocks that are about to be fetched, so that other processes on the cache do not fetch them too.

        A claim lasts until ``unclaim`` and dies with its process. Where nothing can be cached at the moment everything
        is ours at once, so that nobody waits for what will never be on the disk.

        Args:
            indexes: The blocks, in the order in which they are fetched; at least one.

        Returns:
            How it is about the first one, and for how many from there on: claimed ones as far as they go, else 1.
        """

    async def wait_claim(self, index: int) -> Claim:
        """Wait for a block that is ``ELSEWHERE``: until it is on the disk, or whoever was at it is gone or too slow.

        Returns:
            ``ON_DISK`` or ``OURS``.
        """

    def unclaim(self, index: int) -> None:
        """Let others fetch a block again; when it has been written they see it. Never blocks. Idempotent."""

    async def refresh(self) -> None:
        """Learn what other processes have added or dropped meanwhile; ``open_object`` does it by itself."""

    def close(self) -> None:
        """Let the version be evicted again. Idempotent."""


class RecordStore(Protocol):
    """Small records beside the blocks, opaque to the cache, shared by the daemons of a directory.

    Crash-safe and checksummed; each table of ``cache.kept.TABLES`` is bounded. Trouble of the cache never reaches the
    caller: then nothing is found, or nothing is kept. An unknown table is a mistake (``ValueError``).
    """

    async def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value of *key*, None when it is missing or damaged, or there is no cache."""

    async def put(self, table: str, key: bytes, value: bytes) -> bool:
        """Keep *value* in place of what *key* had; return whether it is kept.

        A full table drops what was put longest ago ("pins" takes no more instead). False as well for a value that is
        larger than a quarter of its table's bound, and when the cache is in trouble.
        """

    async def delete(self, table: str, key: bytes) -> None:
        """Forget *key*; a missing one is no mistake."""

    async def items(self, table: str, prefix: bytes = b"", limit: int = 1000) -> list[tuple[bytes, bytes]] | None:
        """Return keys and values of the keys that begin with *prefix*, in key order, at most *limit* of them.

        None when the cache is in trouble, and nobody can tell.
        """


class BlockCache(Protocol):
    """All cached versions."""

    @property
    def records(self) -> RecordStore:
        """Small records kept beside the blocks."""

    async def open_object(self, obj: ObjectId) -> CachedObject:
        """Return the cached state of *obj*, empty when it is new; it is pinned until closed.

        Several calls for one version return independent handles on shared state.
        """

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Publish records and evict until cancelled; publishes what is left on the way out."""

    def statistics(self) -> CacheStatistics:
        """Return counters and gauges."""

    async def aclose(self) -> None:
        """Publish what is left and let go of the directory, once nothing uses the cache any more. Idempotent."""
