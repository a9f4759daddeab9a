"""What the index stores, byte by byte: digests, block records, object records.

Everything is packed with ``struct``, little-endian, without padding; keys are big-endian so that LMDB keeps the blocks
of a version together and in order. A record that does not unpack is damage, never a guess. The format is described
for readers in ``docs/reference/cache-format.md``; any change there or here takes a new ``SCHEMA``.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tigrismount.errors import CacheCorruptError

if TYPE_CHECKING:
    from tigrismount.core.types import ObjectId

SCHEMA = 2
"""Version of the directory's layout and of every record. 2 added the tables of small records."""
READABLE_SCHEMAS = (1, 2)
"""What is migrated in place when it is opened; another one is set aside unread."""

ALIGNMENT_BYTES = 4096
"""What O_DIRECT asks of buffers, offsets and lengths on every disk we know."""

DIGEST_BYTES = 32
_DIGEST_LABEL = b"tigrismount object v1"
_BLOCK_KEY = struct.Struct(">32sI")
MAX_BLOCKS = 1 << 32
"""Most blocks of one version: their numbers have 32 bits. 4 PiB of the smallest; a store may say more."""
_BLOCK = struct.Struct("<IQ16sIB")
_OBJECT = struct.Struct("<QIQQ")
_TEXT_LENGTH = struct.Struct("<H")
_SYNCED = 1

_ENCODING_ERRORS = "surrogatepass"
"""Keys are text to us; whatever text a store sent must be named, and told apart, without failing."""


class BlockRecord(NamedTuple):
    """One block as the index vouches for it."""

    length_bytes: int
    """Bytes of the block."""
    checksum: int
    """xxh3_64 of those bytes."""
    boot: bytes
    """Boot (see ``boot_token``) in which the record was made or last confirmed."""
    epoch: int
    """Epoch of the index (unclean ends so far) in which the record was made or last confirmed."""
    synced: bool
    """Whether the data was synced to the disk before the record said so."""

    def pack(self) -> bytes:
        """Return the stored form."""
        return _BLOCK.pack(self.length_bytes, self.checksum, self.boot, self.epoch, _SYNCED if self.synced else 0)

    @classmethod
    def unpack(cls, data: bytes) -> BlockRecord:
        """Return the record stored as *data*.

        Raises:
            CacheCorruptError: It is not a block record.
        """
        if len(data) != _BLOCK.size:
            raise CacheCorruptError(f"a block record has {len(data)} bytes, not {_BLOCK.size}")
        length_bytes, checksum, boot, epoch, flags = _BLOCK.unpack(data)
        return cls(length_bytes, checksum, boot, epoch, bool(flags & _SYNCED))


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """One object version as the index knows it."""

    store_id: str
    """Store the version came from."""
    bucket: str
    """Bucket name."""
    key: str
    """Whole key."""
    etag: str
    """Entity tag without quotes."""
    size_bytes: int
    """Size of the object."""
    block_bytes: int
    """Size of its blocks; fixed when the first one is recorded."""
    last_used_ms: int = 0
    """When it was last opened, closed or written: milliseconds since 1970."""
    cached_bytes: int = 0
    """Sum of the lengths of its blocks."""

    def pack(self) -> bytes:
        """Return the stored form."""
        head = _OBJECT.pack(self.size_bytes, self.block_bytes, self.last_used_ms, self.cached_bytes)
        texts = (encode_text(text) for text in (self.store_id, self.bucket, self.key, self.etag))
        return head + b"".join(_TEXT_LENGTH.pack(len(text)) + text for text in texts)

    @classmethod
    def unpack(cls, data: bytes) -> ObjectRecord:
        """Return the record stored as *data*.

        Raises:
            CacheCorruptError: It is not an object record.
        """
        try:
            size_bytes, block_bytes, last_used_ms, cached_bytes = _OBJECT.unpack_from(data)
            store_id, bucket, key, etag = _unpack_texts(data, _OBJECT.size, count=4)
        except (struct.error, UnicodeDecodeError) as error:
            raise CacheCorruptError(f"an object record is damaged: {error}") from error
        return cls(store_id, bucket, key, etag, size_bytes, block_bytes, last_used_ms, cached_bytes)


def _unpack_texts(data: bytes, offset: int, *, count: int) -> list[str]:
    texts = []
    for _ in range(count):
        (length,) = _TEXT_LENGTH.unpack_from(data, offset)
        offset += _TEXT_LENGTH.size
        texts.append(data[offset : offset + length].decode("utf-8", _ENCODING_ERRORS))
        offset += length
    if offset != len(data):
        raise struct.error(f"{len(data)} bytes where the texts end at {offset}")
    return texts


def encode_text(text: str) -> bytes:
    """Return *text* as bytes, lone surrogates included."""
    return text.encode("utf-8", _ENCODING_ERRORS)


def object_digest(store_id: str, obj: ObjectId) -> bytes:
    """Return the name of an object version in the cache: who holds the bytes does not matter, what they are does.

    Every field is preceded by its length, so that no two versions can be spelled alike.

    Args:
        store_id: Store the version is from; nobody's endpoint can plant bytes for another's.
        obj: The version.
    """
    return _digest(store_id, obj.bucket, obj.key, obj.etag, obj.size_bytes)


def digest_of(record: ObjectRecord) -> bytes:
    """Return the name under which a record belongs."""
    return _digest(record.store_id, record.bucket, record.key, record.etag, record.size_bytes)


def _digest(store_id: str, bucket: str, key: str, etag: str, size_bytes: int) -> bytes:
    digest = hashlib.sha256(_DIGEST_LABEL)
    for text in (store_id, bucket, key, etag, str(size_bytes)):
        field = encode_text(text)
        digest.update(len(field).to_bytes(8, "little") + field)
    return digest.digest()


def block_key(digest: bytes, index: int) -> bytes:
    """Return the index's key of a block."""
    return _BLOCK_KEY.pack(digest, index)


def split_block_key(key: bytes) -> tuple[bytes, int]:
    """Return digest and block index of a key.

    Raises:
        CacheCorruptError: It is not a block key.
    """
    if len(key) != _BLOCK_KEY.size:
        raise CacheCorruptError(f"a block key has {len(key)} bytes, not {_BLOCK_KEY.size}")
    digest, index = _BLOCK_KEY.unpack(key)
    return digest, index


def boot_token(boot_id: str) -> bytes:
    """Return the 16 bytes that stand for a boot of the machine in records."""
    return hashlib.blake2b(boot_id.encode(), digest_size=16).digest()


def valid_block_bytes(block_bytes: int) -> bool:
    """Tell whether blocks can have this size: a power of two that O_DIRECT accepts."""
    return block_bytes >= ALIGNMENT_BYTES and block_bytes & (block_bytes - 1) == 0
