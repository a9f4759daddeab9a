"""The header of a GGUF file: counts, then key-value pairs, then where each tensor lies; nowhere its own length.

The pairs hold the tokenizer, megabytes of strings that say nothing about bytes, and each string can only be found
through the one before it. So the header is walked as it comes, in reads that grow with how much there was so far;
what is passed over is not kept, and what is long and of fixed size is not even read.

Checked as llama.cpp does, which refuses to load anything else: known types, whole blocks along the rows, tensors in
the order of the header and side by side but for their alignment, all of them within the file. Only little-endian
files of version 2 and 3 are planned by: version 1 had a few weeks in 2023.

Source: https://github.com/ggml-org/ggml, ``docs/gguf.md``, ``src/gguf.cpp`` and ``src/ggml.c`` (``type_traits``).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from tigrismount.core.layout import Layout, TensorExtent
from tigrismount.core.types import Extent
from tigrismount.errors import FormatError
from tigrismount.formats.parsing import FIRST_READ_BYTES, MAX_TENSORS, Parser

if TYPE_CHECKING:
    from collections.abc import Generator

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT_BYTES = 32
"""Alignment of the data where ``general.alignment`` does not say."""
ALIGNMENT_KEY = b"general.alignment"
MAX_NAME_BYTES = 65_535
"""The specification's limit on a key; tensor names are held to it as well."""
MAX_DIMENSIONS = 4
"""Dimensions of a ggml tensor."""
MAX_ELEMENTS = (1 << 63) - 1
"""ggml counts elements in signed 64-bit numbers."""
MAX_STEP_BYTES = 4 << 20
"""Longest read ahead of the walk: what is read too much at the end stays below this."""
STEP_GROWTH = 4
"""Each read is so many times the last: a header of 8 MiB takes six."""

_LENGTH = struct.Struct("<Q")
_WORD = struct.Struct("<I")
_PROLOGUE = struct.Struct("<4sIQQ")
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type: the integers, floats and the boolean."""
_MIN_PAIR_BYTES = 8 + 4 + 1
_MIN_INFO_BYTES = 8 + 4 + 4 + 8

TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""Name, elements per block and bytes per block of every type in use; the missing numbers were withdrawn."""


def parse(size_bytes: int) -> Parser:
    """Return a parser of a file of *size_bytes*."""
    walk = _Walk(size_bytes)
    magic, version, tensors, pairs = _PROLOGUE.unpack((yield from walk.take(_PROLOGUE.size)))
    _check_prologue(magic, version)
    for what, count, least_bytes in (("pairs", pairs, _MIN_PAIR_BYTES), ("tensors", tensors, _MIN_INFO_BYTES)):
        if count > MAX_TENSORS or count * least_bytes > size_bytes:
            raise FormatError(f"header names {count} {what}, more than can be", offset=8)
    alignment_bytes = yield from _pairs(walk, pairs)
    names: set[str] = set()
    found: list[TensorExtent] = []
    position = 0
    for _ in range(tensors):
        tensor = yield from _info(walk, position)
        if tensor.name in names:
            raise FormatError(f"tensor {tensor.name!r:.80} is given twice", offset=walk.position)
        names.add(tensor.name)
        found.append(tensor)
        position = _aligned(tensor.stop, alignment_bytes)
    return _layout(found, _aligned(walk.position, alignment_bytes), size_bytes)


class _Walk:
    """A place in the file that moves forward, and the bytes from there on that are here already."""

    def __init__(self, size_bytes: int) -> None:
        self.position = 0
        self.data = b""
        """Bytes of the file from ``base`` on."""
        self.base = 0
        self._size_bytes = size_bytes
        self._step_bytes = FIRST_READ_BYTES

    def reach(self, count: int) -> Generator[Extent, bytes, None]:
        """See that *count* bytes from ``position`` on are here; what lies behind is let go."""
        stop = self.position + count
        have = self.base + len(self.data)
        if stop <= have:
            return
        start = max(have, self.position)
        ahead = yield Extent(start, max(stop, min(start + self._step_bytes, self._size_bytes)))
        self.data = self.data[self.position - self.base :] + ahead
        self.base = self.position
        self._step_bytes = min(self._step_bytes * STEP_GROWTH, MAX_STEP_BYTES)

    def take(self, count: int) -> Generator[Extent, bytes, bytes]:
        """Return the next *count* bytes and move behind them."""
        yield from self.reach(count)
        start = self.position - self.base
        self.position += count
        return self.data[start : start + count]

    def name(self) -> Generator[Extent, bytes, bytes]:
        """Return the next string, which must be short enough for a name, and move behind it."""
        (length,) = _LENGTH.unpack((yield from self.take(_LENGTH.size)))
        if length > MAX_NAME_BYTES:
            raise FormatError(f"a name has {length} bytes, above {MAX_NAME_BYTES}", offset=self.position)
        return (yield from self.take(length))

    def word(self) -> Generator[Extent, bytes, int]:
        """Return the next 32-bit number and move behind it."""
        number: int = _WORD.unpack((yield from self.take(_WORD.size)))[0]
        return number

    def skip(self, count: int) -> None:
        """Move on by *count* bytes, whatever they are."""
        self.position += count
        if self.position > self._size_bytes:
            raise FormatError(f"a value ends beyond the file's {self._size_bytes} bytes", offset=self._size_bytes)

    def skip_strings(self, count: int) -> Generator[Extent, bytes, None]:
        """Move behind *count* strings; a tokenizer has half a million, so this is the one loop that must be tight."""
        unpack, field_bytes = _LENGTH.unpack_from, _LENGTH.size
        for _ in range(count):
            if self.position + field_bytes > self.base + len(self.data):
                yield from self.reach(field_bytes)
            self.position += field_bytes + unpack(self.data, self.position - self.base)[0]


def _check_prologue(magic: bytes, version: int) -> None:
    if magic != MAGIC:
        raise FormatError("does not begin with 'GGUF'", offset=0)
    if version not in VERSIONS:
        kind = "big-endian or damaged" if version & 0xFFFF == 0 else f"of version {version}"
        raise FormatError(f"is {kind}; versions {' and '.join(map(str, VERSIONS))} are known", offset=4)


def _pairs(walk: _Walk, count: int) -> Generator[Extent, bytes, int]:
    """Move behind the key-value pairs; return the alignment of the data in bytes."""
    keys: set[bytes] = set()
    alignment_bytes = DEFAULT_ALIGNMENT_BYTES
    for _ in range(count):
        key = yield from walk.name()
        if key in keys:
            raise FormatError(f"key {key!r:.80} is given twice", offset=walk.position)
        keys.add(key)
        kind = yield from walk.word()
        if key == ALIGNMENT_KEY:
            alignment_bytes = (yield from walk.word()) if kind == _UINT32 else 0
            if alignment_bytes.bit_count() != 1:
                raise FormatError("general.alignment is no power of two", offset=walk.position)
        else:
            yield from _skip_value(walk, kind)
    return alignment_bytes


def _skip_value(walk: _Walk, kind: int) -> Generator[Extent, bytes, None]:
    count = 1
    if kind == _ARRAY:
        kind = yield from walk.word()
        (count,) = _LENGTH.unpack((yield from walk.take(_LENGTH.size)))
    if kind == _STRING:
        yield from walk.skip_strings(count)
        walk.skip(0)  # the last one may end behind the file
    elif kind in _SCALAR_BYTES:
        walk.skip(count * _SCALAR_BYTES[kind])
    else:
        raise FormatError(f"a value has the unknown type {kind}", offset=walk.position)


def _info(walk: _Walk, expected: int) -> Generator[Extent, bytes, TensorExtent]:
    """Return the next tensor, its place counted from where the data will begin; it must begin at *expected*."""
    raw = yield from walk.name()
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise FormatError(f"tensor name {raw!r:.80} is not UTF-8", offset=walk.position) from exc
    dimensions = yield from walk.word()
    if dimensions > MAX_DIMENSIONS:
        raise FormatError(f"tensor {name!r:.80} has {dimensions} dimensions", offset=walk.position)
    sizes = struct.unpack(f"<{dimensions}Q", (yield from walk.take(8 * dimensions)))
    kind = yield from walk.word()
    (start,) = _LENGTH.unpack((yield from walk.take(_LENGTH.size)))
    if start != expected:
        raise FormatError(f"tensor {name!r:.80} leaves a hole or overlaps another", offset=walk.position)
    dtype, size_bytes = _size(name, kind, sizes)
    # ggml names the fastest dimension first; people, and every other format, name it last.
    return TensorExtent(name, dtype, sizes[::-1], start, start + size_bytes)


def _size(name: str, kind: int, sizes: tuple[int, ...]) -> tuple[str, int]:
    """Return the name of a tensor's type, and its size in bytes."""
    if kind not in TYPES:
        raise FormatError(f"tensor {name!r:.80} has the unknown type {kind}")
    dtype, block_elements, block_bytes = TYPES[kind]
    elements = 1
    for size in sizes:
        elements *= size
        if size > MAX_ELEMENTS or elements > MAX_ELEMENTS:
            raise FormatError(f"tensor {name!r:.80} is too large for 64 bits")
    if (sizes[0] if sizes else 1) % block_elements:
        raise FormatError(f"tensor {name!r:.80}: its rows are no whole blocks of {dtype}")
    return dtype, elements // block_elements * block_bytes


def _layout(found: list[TensorExtent], data_start: int, size_bytes: int) -> Layout:
    if found and data_start + found[-1].stop > size_bytes:
        raise FormatError(f"tensors end at byte {data_start + found[-1].stop}, the file at {size_bytes}")
    tensors = (TensorExtent(t.name, t.dtype, t.shape, data_start + t.start, data_start + t.stop) for t in found)
    return Layout(min(data_start, size_bytes), tuple(tensors))


def _aligned(position: int, alignment_bytes: int) -> int:
    return -(-position // alignment_bytes) * alignment_bytes
