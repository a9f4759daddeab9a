"""A cache of an older release is taken over in place: written here from its format page alone."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any

import lmdb
import pytest
import xxhash

from tigrismount.cache.inspect import read_cache_statistics
from tigrismount.testing.cache_contract import BLOCK_BYTES, block_content, check, check_all, fill, object_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tigrismount.core.types import ObjectId


def write_schema_1(path: Path, store_id: str, obj: ObjectId, block_bytes: int, blocks: Mapping[int, bytes]) -> None:
    """Make *path* a cache that holds some blocks of one version and was closed cleanly.

    Args:
        path: The directory to make.
        store_id: Store of the version.
        obj: The version.
        block_bytes: Its block size.
        blocks: Bytes of its blocks, by index.
    """
    path.mkdir(mode=0o700)
    (path / "VERSION").write_text("tigrismount-cache 1\n")
    (path / "lock").touch()
    (path / "index").mkdir()
    fields = [text.encode() for text in (store_id, obj.bucket, obj.key, obj.etag, str(obj.size_bytes))]
    named = b"tigrismount object v1" + b"".join(len(field).to_bytes(8, "little") + field for field in fields)
    digest = hashlib.sha256(named).digest()
    data_path = path / "objects" / digest.hex()[:2] / digest.hex()
    data_path.parent.mkdir(parents=True)
    with data_path.open("wb") as file:
        file.truncate(obj.size_bytes)
        for index, data in blocks.items():
            file.seek(index * block_bytes)
            file.write(data)
    total_bytes = sum(map(len, blocks.values()))
    env = lmdb.open(str(path / "index"), max_dbs=3)
    objects, records, meta = (env.open_db(name) for name in (b"objects", b"blocks", b"meta"))
    with env.begin(write=True) as txn:
        texts = b"".join(struct.pack("<H", len(field)) + field for field in fields[:4])
        txn.put(digest, struct.pack("<QIQQ", obj.size_bytes, block_bytes, 1000, total_bytes) + texts, db=objects)
        for index, data in blocks.items():
            record = struct.pack("<IQ16sIB", len(data), xxhash.xxh3_64_intdigest(data), bytes(16), 0, 1)
            txn.put(digest + struct.pack(">I", index), record, db=records)
        txn.put(b"schema", struct.pack("<Q", 1), db=meta)
        txn.put(b"bytes", struct.pack("<Q", total_bytes), db=meta)
    env.close()


@pytest.mark.parametrize("verify", ["once", "off"])
async def test_cache_of_schema_1_serves_what_it_has_and_gets_tables(
    place: Any, verify: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Mutation: with 1 taken out of ``READABLE_SCHEMAS`` it is set aside, and the first check fails."""
    obj = object_id("model", blocks=3.5)
    have = {index: block_content(obj, index) for index in (0, 1, 3)}
    write_schema_1(place.path, "test", obj, BLOCK_BYTES, have)
    assert read_cache_statistics(str(place.path)).blocks == 3
    async with place.open(verify=verify) as cache:
        handle = await cache.open_object(obj)
        assert [handle.has(index) for index in range(4)] == [True, True, False, True]
        for index in have:
            await check(handle, obj, index)
        assert await fill(cache, obj) == 4
        assert await cache.records.put("orders", b"a", b"1")
        handle.close()
    assert (place.path / "VERSION").read_text() == "tigrismount-cache 2\n"
    async with place.open(verify=verify) as cache:
        assert await check_all(cache, obj) == 4
        assert await cache.records.get("orders", b"a") == b"1"
    assert caplog.records == []


async def test_migration_that_was_killed_is_finished_by_the_next_start(place: Any) -> None:
    """Whether the index or VERSION was changed first does not matter."""
    obj = object_id("model", blocks=1)
    write_schema_1(place.path, "test", obj, BLOCK_BYTES, {0: block_content(obj, 0)})
    (place.path / "VERSION").write_text("tigrismount-cache 2\n")
    async with place.open() as cache:
        assert await check_all(cache, obj) == 1
    (place.path / "VERSION").write_text("tigrismount-cache 1\n")
    async with place.open() as cache:
        assert await check_all(cache, obj) == 1


async def test_old_cache_that_does_not_add_up_is_set_aside(place: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Migration proves nothing: an old index is checked like any other before."""
    obj = object_id("model", blocks=1)
    write_schema_1(place.path, "test", obj, BLOCK_BYTES, {0: block_content(obj, 0)})
    with lmdb.open(str(place.path / "index"), max_dbs=3) as env:
        meta = env.open_db(b"meta")
        with env.begin(write=True) as txn:
            txn.put(b"bytes", struct.pack("<Q", 1), db=meta)
    async with place.open() as cache:
        assert await check_all(cache, obj) == 0
    assert [record.getMessage().count("does not add up") for record in caplog.records] == [1]
