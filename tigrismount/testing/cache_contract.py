"""What every ``BlockCache`` must do, as tests: subclass, say how to open one, and inherit them.

The cache in memory, which other layers test with, and the one on disk pass the same suite; so what is learned on the
fake holds on the disk.
"""

from __future__ import annotations

import mmap
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from tigrismount.cache.base import block_length_bytes
from tigrismount.core.types import ObjectId
from tigrismount.errors import CacheCorruptError, CacheError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tigrismount.cache.base import BlockCache, CachedObject

BLOCK_BYTES = 64 << 10
"""Small enough for a quick suite, large enough for several pages."""


def aligned_buffer(length_bytes: int) -> memoryview:
    """Return anonymous memory for *length_bytes*, page-aligned and rounded up to whole pages.

    Args:
        length_bytes: Bytes that must fit.
    """
    return memoryview(mmap.mmap(-1, -(-length_bytes // mmap.PAGESIZE) * mmap.PAGESIZE))


def object_id(name: str, *, blocks: float = 4, etag: str = "e1") -> ObjectId:
    """Return a version of some *blocks* blocks; a fraction makes the last one short, by an odd number of bytes.

    Args:
        name: Its key.
        blocks: Its size in blocks.
        etag: Its entity tag.
    """
    size_bytes = int(blocks * BLOCK_BYTES)
    return ObjectId("bucket", name, etag, size_bytes if blocks == int(blocks) else size_bytes + 1)


def block_content(obj: ObjectId, index: int, block_bytes: int = BLOCK_BYTES) -> bytes:
    """Return the bytes of a block of *obj*; any two blocks of any two versions differ.

    Args:
        obj: The version.
        index: The block.
        block_bytes: Its block size.
    """
    length_bytes = block_length_bytes(obj.size_bytes, block_bytes, index)
    return random.Random(f"{obj} {index}").randbytes(length_bytes)  # noqa: S311 - content, not a secret


async def write(handle: CachedObject, obj: ObjectId, index: int) -> bool:
    """Write the content of a block; return what ``write_block`` said."""
    content = block_content(obj, index, handle.block_bytes)
    buffer = aligned_buffer(len(content))
    buffer[: len(content)] = content
    return await handle.write_block(index, buffer, len(content))


async def check(handle: CachedObject, obj: ObjectId, index: int) -> None:
    """Read a block and compare every byte."""
    content = block_content(obj, index, handle.block_bytes)
    buffer = aligned_buffer(len(content))
    await handle.read_block(index, buffer)
    assert bytes(buffer[: len(content)]) == content


def block_count(obj: ObjectId) -> int:
    """Return how many blocks of ``BLOCK_BYTES`` *obj* has."""
    return -(-obj.size_bytes // BLOCK_BYTES)


async def fill(cache: BlockCache, obj: ObjectId) -> int:
    """Write every block of *obj*; return how many the cache took."""
    handle = await cache.open_object(obj)
    taken = sum([await write(handle, obj, index) for index in range(block_count(obj))])
    handle.close()
    return taken


async def check_all(cache: BlockCache, obj: ObjectId) -> int:
    """Compare every block of *obj* that the cache has; return how many that were."""
    handle = await cache.open_object(obj)
    indices = [index for index in range(block_count(obj)) if handle.has(index)]
    for index in indices:
        await check(handle, obj, index)
    handle.close()
    return len(indices)


class BlockCacheContract:
    """The suite. Subclasses override ``open_cache`` and ``damage``."""

    @asynccontextmanager
    async def open_cache(self, *, capacity_bytes: int = 1 << 30) -> AsyncIterator[BlockCache]:
        """Open a new, empty cache whose block size is ``BLOCK_BYTES``.

        Args:
            capacity_bytes: Its bound.
        """
        raise NotImplementedError
        yield

    def damage(self, cache: BlockCache, obj: ObjectId, index: int) -> None:
        """Change a byte of a cached block behind the cache's back."""
        raise NotImplementedError

    async def test_new_version_is_empty(self) -> None:
        """A version never seen has no blocks, the configured block size, and nothing to read."""
        async with self.open_cache() as cache:
            handle = await cache.open_object(object_id("a"))
            assert (handle.block_bytes, handle.count()) == (BLOCK_BYTES, 0)
            assert not any(handle.has(index) for index in range(4))
            with pytest.raises(CacheError):
                await handle.read_block(0, aligned_buffer(BLOCK_BYTES))
            handle.close()

    async def test_written_blocks_read_back_in_any_order(self) -> None:
        """What was written is what is read, the short last block included."""
        obj = object_id("a", blocks=3.3)
        async with self.open_cache() as cache:
            handle = await cache.open_object(obj)
            for index in (3, 0, 2):
                assert await write(handle, obj, index)
            assert [handle.has(index) for index in range(4)] == [True, False, True, True]
            for index in (0, 3, 2):
                await check(handle, obj, index)
            assert handle.count() == 3
            handle.close()

    async def test_cached_block_is_left_alone(self) -> None:
        """Writing a block again is a success that writes nothing."""
        obj = object_id("a")
        async with self.open_cache() as cache:
            handle = await cache.open_object(obj)
            assert await write(handle, obj, 1)
            assert await handle.write_block(1, aligned_buffer(BLOCK_BYTES), BLOCK_BYTES)
            await check(handle, obj, 1)
            assert (cache.statistics().blocks_written, cache.statistics().bytes_cached) == (1, BLOCK_BYTES)
            handle.close()

    async def test_handles_share_one_version(self) -> None:
        """A block written through one handle is there for the other, also after the first has closed."""
        obj = object_id("a")
        async with self.open_cache() as cache:
            first, second = await cache.open_object(obj), await cache.open_object(obj)
            assert await write(first, obj, 0)
            first.close()
            first.close()
            assert second.has(0)
            await check(second, obj, 0)
            assert await write(second, obj, 1)
            second.close()

    async def test_blocks_outlive_their_handles(self) -> None:
        """A version opened again has its blocks."""
        obj = object_id("a", blocks=2.5)
        async with self.open_cache() as cache:
            handle = await cache.open_object(obj)
            for index in range(3):
                assert await write(handle, obj, index)
            handle.close()
            again = await cache.open_object(obj)
            assert again.count() == 3
            for index in range(3):
                await check(again, obj, index)
            again.close()

    async def test_versions_never_mix(self) -> None:
        """Another ETag, size, key or bucket is another version with blocks of its own."""
        base = object_id("a", blocks=2)
        others = [
            object_id("a", blocks=2, etag="e2"),
            object_id("a", blocks=2.5),
            object_id("b", blocks=2),
            ObjectId("other", base.key, base.etag, base.size_bytes),
        ]
        async with self.open_cache() as cache:
            handle = await cache.open_object(base)
            assert await write(handle, base, 0)
            for other in others:
                its = await cache.open_object(other)
                assert not its.has(0)
                assert await write(its, other, 0)
                await check(its, other, 0)
                its.close()
            await check(handle, base, 0)
            handle.close()

    @pytest.mark.parametrize("etag", ["", 'W/"weak"'])
    async def test_versions_without_strong_etag_are_not_kept(self, etag: str) -> None:
        """Bytes that the next version could also be taken for are not cached at all."""
        obj = object_id("a", etag=etag)
        async with self.open_cache() as cache:
            handle = await cache.open_object(obj)
            assert not await write(handle, obj, 0)
            assert not handle.has(0)
            handle.close()
            assert cache.statistics().objects_cached == 0

    async def test_bound_holds_and_least_recently_used_goes(self) -> None:
        """A full cache evicts whole versions, those first that were used least recently."""
        first, second, third = (object_id(name) for name in "abc")
        async with self.open_cache(capacity_bytes=8 * BLOCK_BYTES) as cache:
            for obj in (first, second):
                assert await fill(cache, obj) == block_count(obj)
            (await cache.open_object(first)).close()
            assert await fill(cache, third) == 4
            assert [await check_all(cache, obj) for obj in (first, second, third)] == [4, 0, 4]
            assert cache.statistics().evicted_objects == 1

    async def test_open_versions_are_not_evicted(self) -> None:
        """What is open stays, even when something new cannot be cached then; once closed it may go."""
        pinned, new = object_id("a"), object_id("b")
        async with self.open_cache(capacity_bytes=4 * BLOCK_BYTES) as cache:
            handle = await cache.open_object(pinned)
            for index in range(4):
                assert await write(handle, pinned, index)
            its = await cache.open_object(new)
            assert not await write(its, new, 0)
            assert cache.statistics().writes_skipped == 1
            for index in range(4):
                await check(handle, pinned, index)
            handle.close()
            assert await write(its, new, 0)
            assert cache.statistics().bytes_cached == 4 * BLOCK_BYTES
            its.close()

    async def test_part_of_a_version_goes_where_that_is_enough(self) -> None:
        """Of the last victim only the tail goes, so what is left begins at its head."""
        old, new = object_id("old"), object_id("new", blocks=2)
        async with self.open_cache(capacity_bytes=4 * BLOCK_BYTES) as cache:
            assert await fill(cache, old) == 4
            assert await fill(cache, new) == 2
            handle = await cache.open_object(old)
            assert [handle.has(index) for index in range(4)] == [True, True, False, False]
            for index in (0, 1):
                await check(handle, old, index)
            handle.close()
            statistics = cache.statistics()
            assert (statistics.evicted_objects, statistics.trimmed_objects) == (0, 2)
            assert statistics.bytes_cached == 4 * BLOCK_BYTES
            assert await check_all(cache, new) == 2

    async def test_object_larger_than_the_cache_is_cached_in_part(self) -> None:
        """What fits is kept; the rest is refused, and nothing that is open suffers for it."""
        obj = object_id("a", blocks=10)
        async with self.open_cache(capacity_bytes=3 * BLOCK_BYTES + 5) as cache:
            handle = await cache.open_object(obj)
            assert [await write(handle, obj, index) for index in range(10)] == [True] * 3 + [False] * 7
            for index in range(3):
                await check(handle, obj, index)
            assert cache.statistics().bytes_cached == 3 * BLOCK_BYTES
            handle.close()

    async def test_many_writers_and_readers_at_once(self) -> None:
        """Blocks written and read concurrently are right, and the bound holds at every moment."""
        objects = [object_id(name, blocks=4.5) for name in "abcdef"]
        capacity_bytes = 12 * BLOCK_BYTES

        async def use(cache: BlockCache, obj: ObjectId) -> None:
            handle = await cache.open_object(obj)
            for index in range(5):
                if await write(handle, obj, index):
                    await check(handle, obj, index)
                assert cache.statistics().bytes_cached <= capacity_bytes
            handle.close()

        async with self.open_cache(capacity_bytes=capacity_bytes) as cache:
            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    for obj in objects:
                        nursery.start_soon(use, cache, obj)

    async def test_corrupt_block_is_dropped_counted_and_never_served(self) -> None:
        """A block that fails its checksum raises, is gone, and can be written anew."""
        obj = object_id("a")
        async with self.open_cache() as cache:
            assert await fill(cache, obj) == block_count(obj)
            self.damage(cache, obj, 2)
            handle = await cache.open_object(obj)
            with pytest.raises(CacheCorruptError):
                await handle.read_block(2, aligned_buffer(BLOCK_BYTES))
            assert [handle.has(index) for index in range(4)] == [True, True, False, True]
            assert (cache.statistics().corrupt_blocks, cache.statistics().bytes_cached) == (1, 3 * BLOCK_BYTES)
            assert await write(handle, obj, 2)
            await check(handle, obj, 2)
            handle.close()

    async def test_cancelled_calls_leave_the_cache_usable(self) -> None:
        """A caller that goes away costs nothing but its own call."""
        obj = object_id("a")
        async with self.open_cache() as cache:
            handle = await cache.open_object(obj)
            for index in range(4):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await write(handle, obj, index)
            with trio.CancelScope() as scope:
                scope.cancel()
                await cache.open_object(obj)
            for index in range(4):
                assert await write(handle, obj, index)
                await check(handle, obj, index)
            handle.close()

    async def test_closed_handle_does_nothing(self) -> None:
        """A handle used after its end neither reads nor writes."""
        obj = object_id("a")
        async with self.open_cache() as cache:
            handle = await cache.open_object(obj)
            assert await write(handle, obj, 0)
            handle.close()
            assert not await write(handle, obj, 1)
            with pytest.raises(CacheError):
                await handle.read_block(0, aligned_buffer(BLOCK_BYTES))

    async def test_wrong_lengths_are_the_callers_mistake(self) -> None:
        """A block that does not exist, a length it cannot have and a buffer too small are refused loudly."""
        obj = object_id("a", blocks=1.5)
        async with self.open_cache() as cache:
            handle = await cache.open_object(obj)
            buffer = aligned_buffer(BLOCK_BYTES)
            for index, length_bytes in [(2, BLOCK_BYTES), (-1, BLOCK_BYTES), (1, BLOCK_BYTES), (0, BLOCK_BYTES - 1)]:
                with pytest.raises(ValueError, match="block"):
                    await handle.write_block(index, buffer, length_bytes)
            assert await write(handle, obj, 0)
            with pytest.raises(ValueError, match="block"):
                await handle.read_block(0, buffer[:4096])
            handle.close()

    async def test_pieces_of_a_block_that_was_verified(self) -> None:
        """Any bytes of it, and only of it."""
        obj = object_id("a", blocks=1.3)
        async with self.open_cache() as cache:
            assert await fill(cache, obj) == 2
            handle = await cache.open_object(obj)
            assert not handle.proven(1)
            with pytest.raises(CacheError):
                await handle.read_piece(1, 0, 10)
            await check(handle, obj, 1)
            assert (handle.proven(0), handle.proven(1), handle.proven(2)) == (False, True, False)
            content = block_content(obj, 1, handle.block_bytes)
            size = len(content)
            before_bytes = cache.statistics().bytes_read
            for start, stop in [(0, 1), (0, size), (4095, 4097), (5000, 9192), (size - 1, size), (size // 2, size)]:
                assert await handle.read_piece(1, start, stop) == content[start:stop]
            for start, stop in [(0, 0), (-1, 1), (5, 4), (0, size + 1), (size, size + 1)]:
                with pytest.raises(ValueError, match="no piece"):
                    await handle.read_piece(1, start, stop)
            assert cache.statistics().pieces_read == 6
            assert cache.statistics().bytes_read - before_bytes == 1 + size + 2 + 4192 + 1 + size - size // 2
            handle.close()
            with pytest.raises(CacheError):
                await handle.read_piece(1, 0, 10)

    async def test_statistics_count_what_was_done(self) -> None:
        """Counters and gauges add up."""
        obj = object_id("a", blocks=1.5)
        async with self.open_cache(capacity_bytes=10 * BLOCK_BYTES) as cache:
            assert await fill(cache, obj) == block_count(obj)
            handle = await cache.open_object(obj)
            await check(handle, obj, 1)
            statistics = cache.statistics()
            assert (statistics.capacity_bytes, statistics.bytes_cached) == (10 * BLOCK_BYTES, obj.size_bytes)
            assert (statistics.objects_cached, statistics.degraded) == (1, "")
            assert (statistics.blocks_written, statistics.bytes_written) == (2, obj.size_bytes)
            assert (statistics.blocks_read, statistics.bytes_read) == (1, obj.size_bytes - BLOCK_BYTES)
            handle.close()
