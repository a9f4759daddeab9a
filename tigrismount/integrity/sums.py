"""Computing checksums of whole objects, from the blocks in the disk cache.

SHA-256 costs 0.5 to 1.2 CPU seconds per GiB, so this is done once for each version, when nobody waits. hashlib and
zlib release the GIL; the CRCs that S3 adds to them come from a library that does not, a piece at a time
(docs/adr/0020).
"""

from __future__ import annotations

import hashlib
import zlib
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anycrc

from tigrismount import threads
from tigrismount.cache.base import block_length_bytes, block_memory
from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from tigrismount.cache.base import CachedObject
    from tigrismount.core.types import ObjectId


_PIECE_BYTES = 1 << 20
"""Bytes of a CRC that are computed at once: with the GIL held that is 0.1 ms, and 1 ms where there is no SIMD."""


class Sum(Protocol):
    """A checksum in the making, as hashlib's."""

    def update(self, data: memoryview, /) -> None:
        """Take the next bytes."""

    def hexdigest(self) -> str:
        """Return the sum so far in hexadecimal."""


class _Crc:
    """A CRC as S3 means it: reflected, in big-endian hexadecimal.

    Args:
        extend: Returns the CRC of what came before and some more bytes, given these and that one's CRC.
        size_bytes: Length of the sum.
    """

    def __init__(self, extend: Callable[[memoryview, int], int], size_bytes: int) -> None:
        self._extend = extend
        self._digits = 2 * size_bytes
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        for start in range(0, len(data), _PIECE_BYTES):
            self._value = self._extend(data[start : start + _PIECE_BYTES], self._value)

    def hexdigest(self) -> str:
        return f"{self._value:0{self._digits}x}"


MAKERS: dict[str, Callable[[], Sum]] = {
    "sha256": hashlib.sha256,
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "crc32": partial(_Crc, zlib.crc32, 4),
    "crc32c": partial(_Crc, anycrc.Model("CRC32C").calc, 4),
    "crc64nvme": partial(_Crc, anycrc.Model("CRC64-NVME").calc, 8),
}
"""What makes a sum, by algorithm."""

SUMMABLE = frozenset(MAKERS)
"""Algorithms that can be computed here; a sum of another one is as good as none."""


async def sums_of(
    obj: ObjectId,
    cached: CachedObject,
    algorithms: Collection[str],
    *,
    on_block: Callable[[int], Awaitable[None]],
    before_block: Callable[[int], Awaitable[None]] | None = None,
) -> dict[str, str]:
    """Return the checksums of an object's bytes in the cache, by algorithm, in hexadecimal.

    Args:
        obj: The version.
        cached: Its handle; all of it must be there, or come before ``before_block`` returns.
        algorithms: Which sums; with none every block is still read back and compared with its own checksum.
        on_block: Called with the length of each block when it is done; may wait, to let others go first.
        before_block: Called with the index of each block before it is read; waits until it is there.

    Raises:
        CacheError: A block is missing, cannot be read, or fails its own checksum and is dropped; or there is no memory
            to read it into.
    """
    sums = {name: MAKERS[name]() for name in algorithms}
    with block_memory(cached.block_bytes) as buffer:
        for index in range(-(-obj.size_bytes // cached.block_bytes)):
            length_bytes = block_length_bytes(obj.size_bytes, cached.block_bytes, index)
            if before_block is not None:
                await before_block(index)
            await cached.read_block(index, buffer, check=True)
            with buffer[:length_bytes] as data:
                if sums:
                    try:
                        await threads.run_sync(partial(_update, list(sums.values()), data))
                    except threads.NoThreadError as exc:
                        raise CacheError(f"its checksums cannot be computed: {exc}") from exc
            await on_block(length_bytes)
    return {name: found.hexdigest() for name, found in sums.items()}


def _update(sums: list[Sum], data: memoryview) -> None:
    for one in sums:
        one.update(data)
