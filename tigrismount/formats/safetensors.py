"""The header of a safetensors file: eight bytes of length, then JSON, then the tensors without holes.

The rules are those of the format's specification and of the reference implementation, and all of them are checked:
a header that breaks one says nothing we could plan by. The reference is more patient than the specification in
places (white space before the brace, names given twice, other spellings of an entry); there we follow the
specification, because a wrong *no* costs a plan and a wrong *yes* costs fetches of the wrong bytes.

The header comes from whoever wrote the object and is hostile until proven otherwise; whatever goes wrong ends in
``FormatError``.

Source: https://github.com/huggingface/safetensors, ``README.md`` ("Format") and ``safetensors/src/tensor.rs``.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TypeGuard

from tigrismount.core.layout import Layout, TensorExtent
from tigrismount.core.types import Extent
from tigrismount.errors import FormatError
from tigrismount.formats.parsing import MAX_HEADER_BYTES, MAX_NUMBER, MAX_TENSORS, Parser, read_first
from tigrismount.formats.strictjson import check_text, parse_object

LENGTH_BYTES = 8
"""The file begins with the length of the JSON text, little endian."""
METADATA_KEY = "__metadata__"
_PLACE = attrgetter("start", "stop")

DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits per element of every dtype that the reference implementation (0.8) knows."""


def parse(size_bytes: int) -> Parser:
    """Return a parser of a file of *size_bytes*: one read for most files, a second for a long header."""
    head = yield from read_first(size_bytes)
    stop = header_length(head, size_bytes)
    if stop > len(head):
        head += yield Extent(len(head), stop)
    return parse_header(head, size_bytes)


def header_length(head: bytes, file_size_bytes: int) -> int:
    """Return how many bytes at the start of the file the header takes, its length field included.

    Args:
        head: The first bytes of the file, at least eight of them.
        file_size_bytes: Size of the whole file.

    Raises:
        FormatError: The file is too short for its header, or the header is longer than the format allows.
    """
    if len(head) < LENGTH_BYTES or file_size_bytes < LENGTH_BYTES:
        raise FormatError("too short for a safetensors header", offset=0)
    text_bytes = int.from_bytes(head[:LENGTH_BYTES], "little")
    if text_bytes > MAX_HEADER_BYTES:
        raise FormatError(f"header length {text_bytes} is above {MAX_HEADER_BYTES}", offset=0)
    if LENGTH_BYTES + text_bytes > file_size_bytes:
        raise FormatError(f"header length {text_bytes} does not fit the file's {file_size_bytes} bytes", offset=0)
    return LENGTH_BYTES + text_bytes


def parse_header(head: bytes, file_size_bytes: int) -> Layout:
    """Return where the tensors of a file lie, given its header.

    Args:
        head: The first bytes of the file, at least ``header_length`` of them; more is ignored.
        file_size_bytes: Size of the whole file, which the header must account for to the byte.

    Raises:
        FormatError: A rule of the format is broken.
    """
    data_start = header_length(head, file_size_bytes)
    if len(head) < data_start:
        raise FormatError(f"only {len(head)} of the header's {data_start} bytes are here", offset=len(head))
    text = head[LENGTH_BYTES:data_start]
    if not text.startswith(b"{"):
        raise FormatError("header does not begin with '{'", offset=LENGTH_BYTES)
    entries = parse_object(text)
    _check_metadata(entries.pop(METADATA_KEY, None))
    if len(entries) > MAX_TENSORS:
        raise FormatError(f"{len(entries)} tensors are above the {MAX_TENSORS} we plan for", offset=LENGTH_BYTES)
    tensors = sorted((_tensor(name, entry, data_start) for name, entry in entries.items()), key=_PLACE)
    _check_contiguous(tensors, data_start, file_size_bytes)
    return Layout(data_start, tuple(tensors))


def _check_metadata(metadata: object) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{METADATA_KEY} does not map strings to strings", offset=LENGTH_BYTES)
    for value in metadata.values():
        check_text(value)


def _tensor(name: str, entry: object, data_start: int) -> TensorExtent:
    """Return one entry of the header, checked by itself."""
    if not isinstance(entry, dict):
        raise FormatError(f"tensor {name!r:.80} is not an object", offset=LENGTH_BYTES)
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise FormatError(f"tensor {name!r:.80} has an unknown dtype", offset=LENGTH_BYTES)
    if not _are_numbers(shape) or not _are_numbers(offsets) or len(offsets) != 2:
        raise FormatError(f"tensor {name!r:.80} has no proper shape or data_offsets", offset=LENGTH_BYTES)
    start, stop = offsets
    if stop - start != _size_bytes(name, shape, DTYPE_BITS[dtype]):
        raise FormatError(f"tensor {name!r:.80}: shape and data_offsets do not agree", offset=LENGTH_BYTES)
    return TensorExtent(name, dtype, tuple(shape), data_start + start, data_start + stop)


def _are_numbers(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= MAX_NUMBER for value in values)


def _size_bytes(name: str, shape: list[int], bits: int) -> int:
    """Return what the shape takes; as in the reference, no product on the way may leave 64 bits."""
    total_bits = 1
    for factor in (*shape, bits):
        total_bits *= factor
        if total_bits > MAX_NUMBER:
            raise FormatError(f"tensor {name!r:.80} is too large for 64 bits", offset=LENGTH_BYTES)
    if total_bits % 8:
        raise FormatError(f"tensor {name!r:.80} does not end on a whole byte", offset=LENGTH_BYTES)
    return total_bits // 8


def _check_contiguous(tensors: list[TensorExtent], data_start: int, file_size_bytes: int) -> None:
    """Refuse holes, overlaps, and a file that is longer or shorter than its tensors."""
    position = data_start
    for tensor in tensors:
        if tensor.start != position:
            raise FormatError(f"tensor {tensor.name!r:.80} leaves a hole or overlaps another", offset=tensor.start)
        position = tensor.stop
    if position != file_size_bytes:
        raise FormatError(f"tensors end at byte {position}, the file at {file_size_bytes}", offset=position)
