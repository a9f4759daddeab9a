"""Writes GGUF files, well-formed or not, without the library: so that tests can lie in every field.

The library (``gguf.GGUFWriter``) is the oracle in the tests of the parser; it cannot write what it would not read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

STRING, ARRAY, UINT8, UINT32, FLOAT32 = 8, 9, 0, 4, 6
"""Types of values that tests use by name."""


@dataclass(frozen=True, slots=True)
class Info:
    """What the header says of one tensor."""

    name: bytes
    """Its name."""
    sizes: tuple[int, ...]
    """Elements along each dimension, fastest first."""
    kind: int
    """Number of its type."""
    start: int
    """First byte, counted from the start of the data."""

    def pack(self) -> bytes:
        """Return the bytes of the header for it."""
        count = len(self.sizes)
        return text(self.name) + struct.pack(f"<I{count}QIQ", count, *self.sizes, self.kind, self.start)


def text(value: bytes) -> bytes:
    """Return a string as the format writes it: its length, then its bytes."""
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    """Return a key and its value, whose bytes are given."""
    return text(key) + struct.pack("<I", kind) + value


def strings(values: Sequence[bytes]) -> bytes:
    """Return the bytes of an array of strings."""
    return struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))


def numbers(kind: int, count: int, raw: bytes) -> bytes:
    """Return the bytes of an array of *count* values of type *kind*."""
    return struct.pack("<IQ", kind, count) + raw


def header(
    pairs: Iterable[bytes] = (),
    infos: Iterable[Info] = (),
    *,
    version: int = 3,
    pair_count: int | None = None,
    info_count: int | None = None,
) -> bytes:
    """Return everything before the data; the counts are true unless given."""
    packed, described = list(pairs), [info.pack() for info in infos]
    counts = (
        len(described) if info_count is None else info_count,
        len(packed) if pair_count is None else pair_count,
    )
    return struct.pack("<4sIQQ", b"GGUF", version, *counts) + b"".join(packed + described)


def file_of(head: bytes, data_bytes: int = 0, *, alignment_bytes: int = 32) -> bytes:
    """Return a file: the header, padded, and as many zeros as data."""
    return head + bytes(-len(head) % alignment_bytes + data_bytes)
