"""How long a cache takes to open whose index holds the records of 1 TiB: ``python -m benchmarks.index DIRECTORY``.

No data is written: the records are made up and the data files are holes. Prints one line for each of two opens, the
second of a cache that was closed cleanly; the check of the whole index in a child is part of both.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import trio

from tigrismount.cache.directory import open_cache_directory
from tigrismount.cache.disk import DiskBlockCache
from tigrismount.cache.options import DiskCacheConfig
from tigrismount.cache.records import BlockRecord, ObjectRecord, block_key, boot_token, object_digest
from tigrismount.core.types import ObjectId

if TYPE_CHECKING:
    from tigrismount.cache.index import CacheIndex

TIB = 1 << 40
OBJECTS = 500
"""Shards of some 2 GiB."""
BLOCK_BYTES = 8 << 20


def fill(directory: str) -> None:
    """Make up a cache of 1 TiB; takes seconds.

    Args:
        directory: Empty or missing.
    """
    place, index = open_cache_directory(directory)
    size_bytes = TIB // OBJECTS // BLOCK_BYTES * BLOCK_BYTES
    for number in range(OBJECTS):
        obj = ObjectId("bucket", f"model/{number:05}.safetensors", f"{number:032x}", size_bytes)
        path = place.object_path(object_digest("tigris", obj))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.truncate(size_bytes)
        _record(index, obj)
    index.sync()
    index.close()
    place.leave()


def _record(index: CacheIndex, obj: ObjectId) -> None:
    """Record all blocks in one transaction: a daemon's, one for each, would take minutes."""
    record = ObjectRecord("tigris", obj.bucket, obj.key, obj.etag, obj.size_bytes, BLOCK_BYTES, 0, obj.size_bytes)
    block = BlockRecord(BLOCK_BYTES, 0, boot_token("made up"), 0, synced=True).pack()
    digest = object_digest("tigris", obj)

    def work(txn: Any) -> None:
        txn.put(digest, record.pack(), db=index._objects)
        for number in range(obj.size_bytes // BLOCK_BYTES):
            txn.put(block_key(digest, number), block, db=index._blocks)
        index._add_bytes(txn, obj.size_bytes)

    index.write(work)


async def measure(directory: str) -> dict[str, Any]:
    """Open and close the cache; return how long that took and what was there."""
    config = DiskCacheConfig(directory=directory, size_bytes=2 * TIB, free_floor_fraction=0.0)
    began_s = time.monotonic()
    cache = await DiskBlockCache.open(config, store_id="tigris")
    opened_s = time.monotonic() - began_s
    statistics = cache.statistics()
    await cache.aclose()
    return {"open_s": round(opened_s, 3), "bytes_cached": statistics.bytes_cached}


def flags() -> list[str]:
    """Return what ``mount`` needs to take such a cache for its own, and to throw nothing of it away."""
    return ["--store-id", "tigris", "--cache-size", "2TiB", "--cache-free", "0%"]


def main() -> None:
    """Fill, and measure twice."""
    directory = sys.argv[1]
    fill(directory)
    for _ in range(2):
        sys.stdout.write(f"{trio.run(measure, directory)}\n")


if __name__ == "__main__":
    main()
