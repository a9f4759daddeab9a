"""The cache of a mount that has none: it holds nothing, keeps nothing and never fails.

Also what any cache answers for versions without a strong ETag: bytes that cannot be told from those of the next
version must not outlive this process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tigrismount.cache.base import CacheStatistics, Claim
from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tigrismount.core.types import ObjectId


class UncachedObject:
    """A version of which nothing is ever cached.

    Args:
        block_bytes: Block size to report.
    """

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes

    @property
    def block_bytes(self) -> int:
        """As in the protocol."""
        return self._block_bytes

    @property
    def drive(self) -> str:
        """No drive's name."""
        return ""

    @property
    def kept_otherwise(self) -> bool:
        """Return False."""
        return False

    def has(self, index: int) -> bool:
        """Return False."""
        return False

    def count(self) -> int:
        """Return 0."""
        return 0

    async def read_block(self, index: int, buffer: memoryview, *, check: bool = False) -> None:
        """Raise: there is nothing to read.

        Raises:
            CacheError: Always.
        """
        await trio.lowlevel.checkpoint()
        raise CacheError(f"block {index} is not cached")

    def proven(self, index: int) -> bool:
        """Return False."""
        return False

    async def read_piece(self, index: int, start: int, stop: int) -> bytes:
        """Raise: there is nothing to read.

        Raises:
            CacheError: Always.
        """
        await trio.lowlevel.checkpoint()
        raise CacheError(f"block {index} is not cached")

    def unproven(self) -> list[int] | None:
        """Return None: nothing is on disk."""
        return None

    def published(self) -> bool:
        """Return True: there is nothing that could be lost."""
        return True

    async def open_file(self) -> int:
        """Raise: there is no file.

        Raises:
            CacheError: Always.
        """
        await trio.lowlevel.checkpoint()
        raise CacheError("the version is not cached")

    async def prove_block(self, index: int, fd: int) -> None:
        """Raise: there is nothing to verify.

        Raises:
            CacheError: Always.
        """
        await trio.lowlevel.checkpoint()
        raise CacheError(f"block {index} is not cached")

    async def write_block(self, index: int, buffer: memoryview, length_bytes: int) -> bool:
        """Return False."""
        await trio.lowlevel.checkpoint()
        return False

    async def claim(self, indexes: Sequence[int]) -> tuple[Claim, int]:
        """Return that all is ours: nobody else could be waited for."""
        await trio.lowlevel.checkpoint()
        return Claim.OURS, len(indexes)

    async def wait_claim(self, index: int) -> Claim:
        """Return that it is ours."""
        await trio.lowlevel.checkpoint()
        return Claim.OURS

    def unclaim(self, index: int) -> None:
        """Do nothing."""

    async def refresh(self) -> None:
        """Do nothing: nothing can have changed."""
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Do nothing."""


class NoRecords:
    """A ``RecordStore`` that keeps nothing."""

    async def get(self, table: str, key: bytes) -> bytes | None:
        """Return None."""
        await trio.lowlevel.checkpoint()
        return None

    async def put(self, table: str, key: bytes, value: bytes) -> bool:
        """Return False."""
        await trio.lowlevel.checkpoint()
        return False

    async def delete(self, table: str, key: bytes) -> None:
        """Do nothing."""
        await trio.lowlevel.checkpoint()

    async def items(self, table: str, prefix: bytes = b"", limit: int = 1000) -> list[tuple[bytes, bytes]]:
        """Return nothing."""
        await trio.lowlevel.checkpoint()
        return []


class NoCache:
    """A ``BlockCache`` for mounts without a cache directory.

    Args:
        block_bytes: Block size of every version.
        degraded: Why there is none although one was asked for; empty when none was.
    """

    def __init__(self, block_bytes: int = 8 << 20, *, degraded: str = "") -> None:
        self._block_bytes = block_bytes
        self._degraded = degraded
        self.records = NoRecords()
        """Keeps nothing."""

    async def open_object(self, obj: ObjectId) -> UncachedObject:
        """Return an empty version."""
        await trio.lowlevel.checkpoint()
        return UncachedObject(self._block_bytes)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sleep until cancelled."""
        task_status.started()
        await trio.sleep_forever()

    def tables(self) -> dict[str, int]:
        """Return nothing: nothing is remembered."""
        return {}

    def statistics(self) -> CacheStatistics:
        """Return zeros, and why there is no cache."""
        return CacheStatistics(degraded=self._degraded)

    async def aclose(self) -> None:
        """Do nothing."""
        await trio.lowlevel.checkpoint()
