"""What a mount knows about some of its files, for ``tigrismount inspect``: which version each is, and what is on disk.

A file is named by its inode number, which is its node id: who asks has looked it up through the mount, so that links
and names are nobody's business here. No request is made.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from tigrismount.core.loadpreview import extents_of
from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tigrismount.cache.base import BlockCache
    from tigrismount.core.types import Extent, ObjectId
    from tigrismount.vfs.filesystem import FileSystem

MAX_FILES = 1000
"""Files asked about at once; a request of that many is below a third of what the control socket takes."""


async def describe_nodes(filesystem: FileSystem, cache: BlockCache, node_ids: Iterable[object]) -> dict[str, Any]:
    """Return what is known of each node that is a file, by its id.

    Args:
        filesystem: The mount.
        cache: Its disk cache.
        node_ids: As they came over the control socket; what is no id is left out.
    """
    described = {}
    for node_id in list(node_ids)[:MAX_FILES]:
        obj = filesystem.version_of(node_id) if isinstance(node_id, int) else None
        if obj is not None:
            block_bytes, cached = await _cached(cache, obj)
            described[str(node_id)] = {
                "bucket": obj.bucket,
                "key": obj.key,
                "etag": obj.etag,
                "size": obj.size_bytes,
                "block_bytes": block_bytes,
                "cached": [[extent.start, extent.stop] for extent in cached],
            }
    return described


async def _cached(cache: BlockCache, obj: ObjectId) -> tuple[int, tuple[Extent, ...]]:
    """Return the size of a block and what is on disk; nothing where the cache is in trouble."""
    try:
        held = await cache.open_object(obj)
    except CacheError:
        return 0, ()
    try:
        size = held.block_bytes
        blocks = (index for index in range(-(-obj.size_bytes // size)) if held.has(index))
        # No further than there are any: a store may say a size whose blocks nobody can count.
        return size, extents_of(islice(blocks, held.count()), size, obj.size_bytes)
    finally:
        held.close()
