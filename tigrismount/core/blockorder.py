"""The order in which the blocks of one object are read, as a space of its own.

Loaders read files in orders of their own: by the natural order of names, backwards, only their own rank's part. Seen
through such an order every one of them is sequential: block *k* of the order is block *k* of a *virtual* file, and the
streams and windows of ``core.readahead`` work there as they do in a file that is read from front to back. Blocks that
the order leaves out do not exist in it, so nobody plans them.

An order is kept as runs of consecutive blocks, each as its distance from where the run before it ended and its
length, in variable-length integers: a few bytes for a file that was read from front to back, about three for each
jump of one that was not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tigrismount.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_VERSION = 1
MAX_BLOCKS = 1 << 20
"""Most blocks of one order: 8 TiB at 8 MiB, above the largest object of any store."""


class BlockOrder:
    """Some blocks of an object, in the order in which they are wanted.

    Args:
        blocks: Block indexes, each once.
        block_bytes: Their size.
        size_bytes: Size of the object; blocks behind its end are left out.
    """

    def __init__(self, blocks: Iterable[int], block_bytes: int, size_bytes: int) -> None:
        self.block_bytes = block_bytes
        self._object_bytes = size_bytes
        count = -(-size_bytes // block_bytes)
        self.blocks = tuple(index for index in dict.fromkeys(blocks) if index < count)

    @property
    def size_bytes(self) -> int:
        """Size of the virtual file: whole blocks."""
        return len(self.blocks) * self.block_bytes

    def in_blocks_of(self, block_bytes: int) -> BlockOrder:
        """Return the order for blocks of another size; both sizes are powers of two.

        Args:
            block_bytes: Their size.
        """
        if block_bytes == self.block_bytes:
            return self
        pieces = max(1, self.block_bytes // block_bytes)
        starts = (index * self.block_bytes for index in self.blocks)
        blocks = (start // block_bytes + piece for start in starts for piece in range(pieces))
        return BlockOrder(blocks, block_bytes, self._object_bytes)

    def encode(self) -> bytes:
        """Return the order as a record; see :func:`decode`."""
        out = bytearray([_VERSION, self.block_bytes.bit_length() - 1])
        expected = 0
        position = 0
        while position < len(self.blocks):
            first = self.blocks[position]
            length = 1
            while position + length < len(self.blocks) and self.blocks[position + length] == first + length:
                length += 1
            distance = first - expected
            _put(out, distance * 2 if distance >= 0 else -distance * 2 - 1)
            _put(out, length)
            expected = first + length
            position += length
        return bytes(out)


def decode(record: bytes, size_bytes: int) -> BlockOrder:
    """Return the order that a record holds, for an object of *size_bytes*.

    Raises:
        FormatError: It is no such record, or names what no order can.
    """
    if len(record) < 2 or record[0] != _VERSION or not 12 <= record[1] <= 40:
        raise FormatError("no record of an order")
    numbers = list(_numbers(record[2:]))
    if len(numbers) % 2:
        raise FormatError("the record of an order ends in the middle of a run")
    blocks: dict[int, None] = {}
    count = -(-size_bytes // (1 << record[1]))
    expected = 0
    for folded, length in zip(numbers[::2], numbers[1::2], strict=True):
        first = expected + (folded // 2 if folded % 2 == 0 else -(folded + 1) // 2)
        if first < 0 or not 0 < length <= MAX_BLOCKS or first + length > MAX_BLOCKS:
            raise FormatError("the record of an order names blocks that no object has")
        run = range(first, min(first + length, count))
        if len(blocks) + len(run) > MAX_BLOCKS:
            raise FormatError("the record of an order names blocks twice")
        blocks.update(dict.fromkeys(run))
        expected = first + length
    return BlockOrder(blocks, 1 << record[1], size_bytes)


def _put(out: bytearray, number: int) -> None:
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _numbers(data: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if shift > 56:
            raise FormatError("the record of an order holds a number without end")
        if byte < 0x80:
            yield number
            number = shift = 0
    if shift:
        raise FormatError("the record of an order ends in the middle of a number")
