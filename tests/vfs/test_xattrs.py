"""Extended attributes show what is known, and ask nobody."""

from __future__ import annotations

import pytest

from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.core.types import ROOT_NODE_ID
from tigrismount.errors import CacheError, UnknownNodeError
from tigrismount.vfs.xattrs import LISTED_SHA256_BYTES, count_cached_bytes

SHA = "ab" * 32


async def xattrs(world, node_id):
    names = await world.fs.listxattr(node_id)
    return {name.decode(): (await world.fs.getxattr(node_id, name)).decode() for name in names}


async def test_a_looked_up_file_has_all_that_a_head_says(new_world):
    world = new_world()
    obj = world.put("a", b"data", version_id="v7", sha256=SHA, storage_class="STANDARD_IA")
    node_id = await world.walk("a")
    world.client.requests.clear()
    assert await xattrs(world, node_id) == {
        "user.tigris.etag": obj.etag,
        "user.tigris.version_id": "v7",
        "user.tigris.storage_class": "STANDARD_IA",
        "user.tigris.sha256": SHA,
        "user.tigris.cached_bytes": "0",
    }
    assert world.requests == []


async def test_a_listed_file_lacks_what_a_listing_does_not_say_until_it_is_looked_up(new_world):
    world = new_world(metadata_ttl_s=0.0)
    world.put("a", b"data", version_id="v7", sha256=SHA)
    node_id = (await world.ls())[0][1].attributes.node_id
    assert sorted(await xattrs(world, node_id)) == [
        "user.tigris.cached_bytes",
        "user.tigris.etag",
        "user.tigris.storage_class",
    ]
    assert await world.walk("a") == node_id
    await world.ls()
    assert (await xattrs(world, node_id))["user.tigris.version_id"] == "v7", "once known, it stays so"
    assert (await xattrs(world, node_id))["user.tigris.sha256"] == SHA


async def test_a_version_id_that_came_with_bytes_is_shown_and_journaled_for_the_next_process(new_world):
    journal = []
    world = new_world(on_new=lambda node: journal.append((node.key, node.version_id)))
    world.client.versioned = True
    obj = world.put("a", b"data")
    ((_, entry),) = await world.ls()
    node_id = entry.attributes.node_id
    world.client.know_version(obj, "v1")  # as a GET does
    assert (await xattrs(world, node_id))["user.tigris.version_id"] == "v1"
    await world.fs.open(node_id)
    await world.read_all(node_id)
    assert journal == [("a", ""), ("a", "v1")]


async def test_directories_and_links_have_none_and_unknown_names_are_not_there(new_world):
    world = new_world("d/a")
    world.put("link", b"", symlink_target=b"d")
    for path in ("d", "link"):
        node_id = await world.walk(path)
        assert await world.fs.listxattr(node_id) == []
        assert await world.fs.getxattr(node_id, b"user.tigris.etag") is None
        assert await world.fs.getxattr(node_id, b"user.tigris.cached_bytes") is None
    assert await world.fs.listxattr(ROOT_NODE_ID) == []
    file = await world.walk("d/a")
    for name in (b"user.tigris.version_id", b"user.mime_type", b"security.capability", b""):
        assert await world.fs.getxattr(file, name) is None
    with pytest.raises(UnknownNodeError):
        await world.fs.getxattr(12345, b"user.tigris.etag")
    with pytest.raises(UnknownNodeError):
        await world.fs.listxattr(12345)


async def test_the_names_of_a_small_file_cost_no_look_at_what_verification_found(new_world):
    """Mutation: ``ls -l`` of coreutils 9.6 looks into the index on the disk for each file of a directory."""
    looked = []

    async def verified(obj):
        looked.append(obj.key)
        return SHA

    world = new_world(verified_sha256=verified)
    world.put("small", b"data")
    world.put("large", bytes(LISTED_SHA256_BYTES))
    small, large = await world.walk("small"), await world.walk("large")
    assert b"user.tigris.sha256" not in await world.fs.listxattr(small)
    assert looked == []
    assert b"user.tigris.sha256" in await world.fs.listxattr(large)
    assert await world.fs.getxattr(small, b"user.tigris.sha256") == SHA.encode(), "who asks for it is told"


@pytest.mark.parametrize(
    ("size_bytes", "blocks", "expected"),
    [(0, [], 0), (10, [], 0), (10, [0], 4), (10, [2], 2), (10, [0, 1, 2], 10), (8, [1], 4)],
)
async def test_cached_bytes_count_a_short_last_block_as_what_it_is(new_world, size_bytes, blocks, expected):
    cache = MemoryBlockCache(block_bytes=4)
    world = new_world(cache=cache)
    obj = world.put("a", bytes(size_bytes))
    cached = await cache.open_object(obj)
    for index in blocks:
        await cached.write_block(index, memoryview(bytearray(4096)), min(4, size_bytes - 4 * index))
    assert await count_cached_bytes(cache, obj) == expected
    node_id = await world.walk("a")
    assert await world.fs.getxattr(node_id, b"user.tigris.cached_bytes") == str(expected).encode()


class Broken(MemoryBlockCache):
    async def open_object(self, obj):
        raise CacheError("the disk is gone")


async def test_a_cache_in_trouble_holds_nothing(new_world):
    world = new_world("a", cache=Broken(block_bytes=4))
    assert await world.fs.getxattr(await world.walk("a"), b"user.tigris.cached_bytes") == b"0"
