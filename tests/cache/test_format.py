"""A reader of cache directories made from ``docs/reference/cache-format.md`` alone: no line of ours is imported for it.

What it gets out of a directory is compared with what the cache was given. A change of the format that the page does
not tell fails here.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Any

import lmdb
import xxhash

from tigrismount.cache.pins import Pins
from tigrismount.testing.cache_contract import BLOCK_BYTES, block_content, fill, object_id, write

WHOLE, PART = object_id("whole", blocks=2.5), object_id("häl/f")


class Reader:
    """Reads a directory of schema 2."""

    def __init__(self, path: Path) -> None:
        assert (path / "VERSION").read_text() == "tigrismount-cache 2\n"
        self._path = path
        self._env = lmdb.open(str(path / "index"), readonly=True, max_dbs=5)
        with self._env.begin() as txn:
            self.objects = self._all(txn, b"objects")
            self.blocks = self._all(txn, b"blocks")
            self.meta = self._all(txn, b"meta")
            self.records = self._all(txn, b"records")
            self.order = self._all(txn, b"record_order")
        self._env.close()

    def _all(self, txn: Any, name: bytes) -> dict[bytes, bytes]:
        return dict(txn.cursor(db=self._env.open_db(name, txn, create=False)))

    def versions(self) -> dict[bytes, tuple[int, int, int, list[str]]]:
        """Return size, block size, cached bytes and texts by digest."""
        found = {}
        for digest, data in self.objects.items():
            size, block_size, _used_ms, cached = struct.unpack_from("<QIQQ", data)
            texts, at = [], 28
            for _ in range(4):
                (length,) = struct.unpack_from("<H", data, at)
                texts.append(data[at + 2 : at + 2 + length].decode())
                at += 2 + length
            assert at == len(data)
            found[digest] = size, block_size, cached, texts
        return found

    def digest(self, *fields: str) -> bytes:
        framed = [struct.pack("<Q", len(field.encode())) + field.encode() for field in fields]
        return hashlib.sha256(b"tigrismount object v1" + b"".join(framed)).digest()

    def content(self, digest: bytes) -> dict[int, bytes]:
        """Return the bytes of each block that is there, compared with its checksum."""
        _, block_size, _, _ = self.versions()[digest]
        data = (self._path / "objects" / digest.hex()[:2] / digest.hex()).read_bytes()
        found = {}
        for key, value in self.blocks.items():
            if key[:32] == digest:
                (index,) = struct.unpack(">I", key[32:])
                length, checksum, boot, _epoch, flags = struct.unpack("<IQ16sIB", value)
                block = data[index * block_size : index * block_size + length]
                assert xxhash.xxh3_64_intdigest(block) == checksum
                assert boot == hashlib.blake2b(b"boot", digest_size=16).digest()
                assert flags == 1, "closed cleanly: all is synced"
                found[index] = block
        return found

    def record(self, table: str, key: bytes) -> bytes:
        """Return the value of a small record."""
        name = table.encode() + b"\0"
        value = self.records[name + key[:400] + (hashlib.sha256(key).digest() if len(key) > 400 else b"")]
        sequence, checksum, length = struct.unpack_from("<QQH", value)
        whole_key, rest = value[18 : 18 + length], value[18 + length :]
        assert whole_key == key
        summed = name + struct.pack(">Q", sequence) + key + b"\0" + rest
        assert xxhash.xxh3_64_intdigest(summed) == checksum
        assert name + struct.pack(">Q", sequence) in self.order
        return rest


async def test_what_the_page_says_is_enough_to_read_a_cache(place: Any) -> None:
    long_key = b"k" * 500
    async with place.open() as cache:
        await fill(cache, WHOLE)
        handle = await cache.open_object(PART)
        for index in (1, 3):
            assert await write(handle, PART, index)
        handle.close()
        for key in (b"short", long_key):
            assert await cache.records.put("loads", key, b"value of " + key[:5])
        Pins(cache._index).add(["bucket/whole"])
    reader = Reader(place.path)
    for obj, indexes in ((WHOLE, (0, 1, 2)), (PART, (1, 3))):
        digest = reader.digest("test", obj.bucket, obj.key, obj.etag, str(obj.size_bytes))
        contents = {index: block_content(obj, index) for index in indexes}
        assert reader.content(digest) == contents
        cached_bytes = sum(map(len, contents.values()))
        texts = ["test", obj.bucket, obj.key, obj.etag]
        assert reader.versions()[digest] == (obj.size_bytes, BLOCK_BYTES, cached_bytes, texts)
    assert len(reader.versions()) == 2
    sums = {key: struct.unpack("<Q", reader.meta[key])[0] for key in (b"schema", b"bytes", b"capacity", b"epoch")}
    total_bytes = sum(cached for _, _, cached, _ in reader.versions().values())
    assert sums == {b"schema": 2, b"bytes": total_bytes, b"capacity": 1 << 30, b"epoch": 0}
    assert not [key for key in reader.meta if key.startswith((b"session:", b"reserved:"))], "closed cleanly"
    assert reader.record("loads", b"short") == b"value of short"
    assert reader.record("loads", long_key) == b"value of kkkkk"
    assert reader.record("pins", b"bucket/whole") == b""
    modes = {path: path.stat().st_mode & 0o777 for path in [place.path, *place.path.rglob("*")]}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())
    assert all(path.stat().st_uid == os.geteuid() for path in modes)
