"""The bytes of the journal of node ids: what each id that the kernel may hold stands for.

A record is one node, behind its length and a checksum. Records are appended and never changed; where an id comes twice,
the later record holds. Reading stops at the first record that is cut short or does not match its checksum: that is
where the process that wrote it died, and as an id is handed out only after its record is written, nobody has seen the
id that is lost there. Texts are kept as they came, with any lone surrogates.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from tigrismount.core.inodes import Node
from tigrismount.core.types import NodeId, ObjectId

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"tgmjrnl1"
"""First bytes of a journal: its format."""

RECORD_MAX_BYTES = 64 << 10
"""Largest record: a key is 1 KiB at most, and a store that sends headers beyond this is not believed."""

_FRAME = struct.Struct("<II")  # length of the record, CRC-32 of the record
_FIXED = struct.Struct("<BQqqd")  # is an object, node id, size, Last-Modified in seconds, modification time
_LENGTH = struct.Struct("<H")


def encode_record(node: Node) -> bytes:
    """Return the record of *node* as it is now.

    Raises:
        ValueError: Its texts are longer than any store's.
    """
    obj = node.obj
    size_bytes, modified_s, etag = (obj.size_bytes, obj.modified_s, obj.etag) if obj is not None else (0, 0, "")
    texts = [node.bucket, node.key, etag, node.storage_class, node.version_id, node.sha256]
    raws = [text.encode("utf-8", "surrogatepass") for text in texts] + [node.target]
    parts = [_FIXED.pack(obj is not None, node.id, size_bytes, modified_s, node.mtime_s)]
    parts += [_LENGTH.pack(min(len(raw), 0xFFFF)) + raw for raw in raws]
    record = b"".join(parts)
    if len(record) > RECORD_MAX_BYTES:
        raise ValueError(f"a record of {len(record)} bytes is longer than {RECORD_MAX_BYTES}")
    return _FRAME.pack(len(record), zlib.crc32(record)) + record


def decode_records(data: bytes) -> Iterator[tuple[Node, int]]:
    """Give each whole record's node, and where in *data* it stops; nothing where *data* is no journal of this format.

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
        yield _decode(record), start


def _decode(record: bytes) -> Node:
    is_object, node_id, size_bytes, modified_s, mtime_s = _FIXED.unpack_from(record)
    *texts, target = _texts(record)
    bucket, key, etag, storage_class, version_id, sha256 = (raw.decode("utf-8", "surrogatepass") for raw in texts)
    return Node(
        NodeId(node_id),
        bucket,
        key,
        ObjectId(bucket, key, etag, size_bytes, modified_s) if is_object else None,
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
