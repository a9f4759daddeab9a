"""The bytes of the journal: what each node id, and each place in a directory, that the kernel may hold stands for.

A record is one node, one bookmark, or how one node is open, behind its length and a checksum. Records are appended and
never changed; where an id or a place comes twice, the later record holds. Reading stops at the first record that is cut
short or does not match its checksum: that is where the process that wrote it died, and as an id is handed out only
after its record is written, nobody has seen the id that is lost there. Texts are kept as they came, with any lone
surrogates.
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING

from tigrismount.core.bookmarks import Bookmark
from tigrismount.core.inodes import Node
from tigrismount.core.names import DirectoryKey
from tigrismount.core.openmodes import OpenState
from tigrismount.core.types import NodeId, ObjectId

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"tgmjrnl1"
"""First bytes of a journal: its format."""

RECORD_MAX_BYTES = 64 << 10
"""Largest record: a key is 1 KiB at most, and a store that sends headers beyond this is not believed."""

_FRAME = struct.Struct("<II")  # length of the record, CRC-32 of the record
_FIXED = struct.Struct("<BQqqd")  # kind, node id or cursor, size, Last-Modified in seconds, modification time
_DIRECTORY, _OBJECT, _BOOKMARK, _OPEN = range(4)  # kinds
_UNPROVEN = "unproven"
"""Behind how a node is open where its backing file may not be what was proven."""
_LENGTH = struct.Struct("<H")
_FILE = struct.Struct("<QQ")  # device and inode number


Record = Node | Bookmark | OpenState
"""What a record holds."""

_OFTEN_CHARACTERS = 16
"""Texts below this are worth remembering; keys and entity tags are longer, and each is another."""


def encode_record(item: Record) -> bytes:
    """Return the record of a node, as it is now, of a bookmark, or of how a node is open.

    Raises:
        ValueError: Its texts are longer than any store's.
    """
    if isinstance(item, Bookmark):
        texts = [item.where.bucket, item.where.prefix, item.start_after]
        return _encode((_BOOKMARK, item.cursor, 0, 0, 0.0), texts, item.name)
    if isinstance(item, OpenState):
        fixed = (_OPEN, item.node_id, item.opens, item.backing_id, float(item.is_through))
        # What follows is passed over by older releases.
        file = _FILE.pack(*item.file) if any(item.file) else b""
        return _encode(fixed, [] if item.is_proven else [_UNPROVEN], file)
    obj = item.obj
    size_bytes, modified_s, etag = (obj.size_bytes, obj.modified_s, obj.etag) if obj is not None else (0, 0, "")
    kind = _DIRECTORY if obj is None else _OBJECT
    texts = [item.bucket, item.key, etag, item.storage_class, item.version_id, item.sha256]
    return _encode((kind, item.id, size_bytes, modified_s, item.mtime_s), texts, item.target)


def _encode(fixed: tuple[int, int, int, int, float], texts: list[str], last: bytes) -> bytes:
    record = _FIXED.pack(*fixed) + b"".join([_framed(text) for text in texts]) + _frame(last)
    if len(record) > RECORD_MAX_BYTES:
        raise ValueError(f"a record of {len(record)} bytes is longer than {RECORD_MAX_BYTES}")
    return _FRAME.pack(len(record), zlib.crc32(record)) + record


def _frame(raw: bytes) -> bytes:
    return _LENGTH.pack(min(len(raw), 0xFFFF)) + raw


@lru_cache(maxsize=512)
def _framed_often(text: str) -> bytes:
    return _frame(text.encode("utf-8", "surrogatepass"))


def _framed(text: str) -> bytes:
    """Return a text behind its length; buckets, storage classes and what is empty are the same for a million nodes."""
    return _framed_often(text) if len(text) < _OFTEN_CHARACTERS else _frame(text.encode("utf-8", "surrogatepass"))


def decode_records(data: bytes) -> Iterator[tuple[Record | None, int]]:
    """Give what each whole record holds, and where in *data* it stops; nothing where it is no journal of this format.

    None stands for a record that another version has added: what it says is lost, and nothing else.

    Args:
        data: A journal from its first byte on.
    """
    start = len(MAGIC)
    if data[:start] != MAGIC:
        return
    while start + _FRAME.size <= len(data):
        size_bytes, checksum = _FRAME.unpack_from(data, start)
        start += _FRAME.size
        record = data[start : start + size_bytes]
        if not _FIXED.size <= size_bytes == len(record) or zlib.crc32(record) != checksum:
            return
        start += size_bytes
        try:
            item = _decode(record)
        except (ValueError, struct.error):
            item = None
        yield item, start


def _decode(record: bytes) -> Record | None:
    kind, number, size_bytes, modified_s, mtime_s = _FIXED.unpack_from(record)
    if kind > _OPEN:
        return None
    if kind == _OPEN:
        *words, file = _texts(record)
        device, inode = _FILE.unpack(file) if len(file) == _FILE.size else (0, 0)
        is_proven = _UNPROVEN.encode() not in words
        return OpenState(number, size_bytes, bool(mtime_s), modified_s, (device, inode), is_proven)
    *raws, target = _texts(record)
    texts = [raw.decode("utf-8", "surrogatepass") for raw in raws]
    if kind == _BOOKMARK:
        bucket, prefix, start_after = texts
        return Bookmark(DirectoryKey(bucket, prefix), number, start_after, target)
    bucket, key, etag, storage_class, version_id, sha256 = texts
    return Node(
        NodeId(number),
        bucket,
        key,
        ObjectId(bucket, key, etag, size_bytes, modified_s) if kind == _OBJECT else None,
        mtime_s,
        storage_class,
        target,
        version_id,
        sha256,
    )


def _texts(record: bytes) -> Iterator[bytes]:
    start = _FIXED.size
    while start < len(record):
        (size_bytes,) = _LENGTH.unpack_from(record, start)
        start += _LENGTH.size
        yield record[start : start + size_bytes]
        start += size_bytes
