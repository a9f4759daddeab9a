"""``inspect`` asks a mount about files by their inode numbers."""

from __future__ import annotations

from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.core.types import ROOT_NODE_ID
from tigrismount.errors import CacheError
from tigrismount.vfs.holdings import describe_nodes

BLOCK = 4096


async def test_files_are_described_with_their_version_and_what_is_on_disk(new_world):
    cache = MemoryBlockCache(block_bytes=BLOCK)
    world = new_world(cache=cache)
    obj = world.put("a", bytes(3 * BLOCK + 1))
    node_id = await world.walk("a")
    held = await cache.open_object(obj)
    for index in (0, 1, 3):
        await held.write_block(index, memoryview(bytearray(BLOCK)), BLOCK if index < 3 else 1)
    world.client.requests.clear()
    found = await describe_nodes(world.fs, cache, [node_id])
    assert found == {
        str(node_id): {
            "bucket": obj.bucket,
            "key": "a",
            "etag": obj.etag,
            "size": 3 * BLOCK + 1,
            "block_bytes": BLOCK,
            "cached": [[0, 2 * BLOCK], [3 * BLOCK, 3 * BLOCK + 1]],
        }
    }
    assert world.requests == []


async def test_what_is_no_file_is_left_out(new_world):
    world = new_world()
    assert await describe_nodes(world.fs, MemoryBlockCache(), [ROOT_NODE_ID, 12345, "x", None, {}]) == {}


async def test_blocks_are_looked_for_no_further_than_there_are_any(new_world, monkeypatch):
    """A store may say any size: to look for 2**50 blocks would stop the mount."""
    cache = MemoryBlockCache(block_bytes=BLOCK)
    world = new_world(cache=cache)
    world.put("a", bytes(1 << 24))
    node_id = await world.walk("a")
    held = await cache.open_object(world.fs.version_of(node_id))
    await held.write_block(1, memoryview(bytearray(BLOCK)), BLOCK)
    asked, has = [], type(held).has
    monkeypatch.setattr(type(held), "has", lambda held, index: asked.append(index) or has(held, index))
    (found,) = (await describe_nodes(world.fs, cache, [node_id])).values()
    assert (found["cached"], asked) == ([[BLOCK, 2 * BLOCK]], [0, 1])


async def test_a_cache_in_trouble_holds_nothing(new_world):
    class Broken(MemoryBlockCache):
        async def open_object(self, obj):
            raise CacheError("damaged")

    world = new_world()
    world.put("a", b"data")
    node_id = await world.walk("a")
    (found,) = (await describe_nodes(world.fs, Broken(), [node_id])).values()
    assert (found["block_bytes"], found["cached"]) == (0, [])
