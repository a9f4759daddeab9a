"""Extended attributes: what the store said about a version, and how much of it is on disk here.

They show what is known already, so reading one makes no request. What no answer has named (a listing names neither
version ids nor checksums, a HEAD does) is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tigrismount.cache.base import BlockCache
    from tigrismount.core.inodes import Node
    from tigrismount.core.types import ObjectId

PREFIX = b"user.tigris."
"""In front of every name; ``user.`` is the namespace that anybody may read."""

SHA256 = PREFIX + b"sha256"
"""The attribute that verification may add."""

LISTED_SHA256_BYTES = 32 << 20
"""Smallest version that has it among its names where only verification can tell: one that is verified without being
asked for. ``ls -l`` (coreutils 9.6 and later) asks for the names of each file in a directory, and with a look at what
was found that takes several times as long."""

CACHED_BYTES = PREFIX + b"cached_bytes"
"""The attribute that changes while the version stays."""


def stored_attributes(node: Node) -> dict[bytes, bytes]:
    """Return what the store said about a file, by attribute name; nothing for directories and links."""
    if node.obj is None or node.target:
        return {}
    said = {
        b"etag": node.obj.etag,
        b"version_id": node.version_id,
        b"storage_class": node.storage_class,
        b"sha256": node.sha256,
    }
    return {PREFIX + name: value.encode("utf-8", "replace") for name, value in said.items() if value}


async def count_cached_bytes(cache: BlockCache, obj: ObjectId) -> int:
    """Return how many bytes of a version the disk cache holds.

    Args:
        cache: The disk cache.
        obj: The version.

    Raises:
        CacheError: The cache cannot say.
    """
    if not obj.size_bytes:
        return 0
    cached = await cache.open_object(obj)
    try:
        last = (obj.size_bytes - 1) // cached.block_bytes
        missing_bytes = (last + 1) * cached.block_bytes - obj.size_bytes if cached.has(last) else 0
        return cached.count() * cached.block_bytes - missing_bytes
    finally:
        cached.close()
