"""Computing checksums of whole objects, from the blocks in the disk cache. hashlib and zlib release the GIL.

SHA-256 costs 0.5 to 1.2 CPU seconds per GiB, so this is done once for each version, when nobody waits.
"""

from __future__ import annotations

import hashlib
import mmap
import zlib
from typing import TYPE_CHECKING, Protocol

import trio

from tigrismount.cache.base import block_length_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from tigrismount.cache.base import CachedObject
    from tigrismount.core.types import ObjectId


class Sum(Protocol):
    """A checksum in the making, as hashlib's."""

    def update(self, data: memoryview, /) -> None:
        """Take the next bytes."""

    def hexdigest(self) -> str:
        """Return the sum so far in hexadecimal."""


class _Crc32:
    """CRC-32 as S3 means it."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


_MAKERS: dict[str, Callable[[], Sum]] = {
    "sha256": hashlib.sha256,
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "crc32": _Crc32,
}

SUMMABLE = frozenset(_MAKERS)
"""Algorithms that can be computed here; a sum of another one is as good as none."""


async def sums_of(
    obj: ObjectId,
    cached: CachedObject,
    algorithms: Collection[str],
    *,
    on_block: Callable[[int], Awaitable[None]],
) -> dict[str, str]:
    """Return the checksums of an object's bytes in the cache, by algorithm, in hexadecimal.

    Args:
        obj: The version.
        cached: Its handle; all of it must be there.
        algorithms: Which sums; with none every block is still read back and compared with its own checksum.
        on_block: Called with the length of each block when it is done; may wait, to let others go first.

    Raises:
        CacheError: A block is missing, cannot be read, or fails its own checksum and is dropped.
    """
    sums = {name: _MAKERS[name]() for name in algorithms}
    with mmap.mmap(-1, cached.block_bytes) as memory, memoryview(memory) as buffer:  # aligned, for O_DIRECT
        for index in range(-(-obj.size_bytes // cached.block_bytes)):
            length_bytes = block_length_bytes(obj.size_bytes, cached.block_bytes, index)
            await cached.read_block(index, buffer, check=True)
            with buffer[:length_bytes] as data:
                if sums:
                    await trio.to_thread.run_sync(_update, list(sums.values()), data)
            await on_block(length_bytes)
    return {name: found.hexdigest() for name, found in sums.items()}


def _update(sums: list[Sum], data: memoryview) -> None:
    for one in sums:
        one.update(data)
