"""Room for a block: set aside before its bytes are written, and free again whatever becomes of them."""

from __future__ import annotations

import errno
import os
import threading
from typing import Any

import pytest
import trio

from tigrismount import threads
from tigrismount.cache import room
from tigrismount.cache.records import BlockRecord, ObjectRecord, object_digest
from tigrismount.cache.storage import FileGoneError
from tigrismount.core.eviction import Occupancy
from tigrismount.errors import CacheError
from tigrismount.testing.cache_contract import BLOCK_BYTES, check_all, fill, object_id, write
from tigrismount.testing.waiting import no_threads, until

OBJ = object_id("model")
SIZE_BYTES = 4 * BLOCK_BYTES


async def assert_all_free(cache: Any) -> None:
    """Nothing is set aside, for this process or for others, and as much as ever can be written."""
    assert cache._index.reserved_bytes() == 0
    assert await fill(cache, object_id("whole")) == SIZE_BYTES // BLOCK_BYTES


@pytest.mark.parametrize(
    "error", [FileGoneError(), CacheError("index"), OSError(errno.EIO, os.strerror(errno.EIO)), ZeroDivisionError()]
)
async def test_room_is_free_again_after_a_write_that_failed(place: Any, error: Exception) -> None:
    """Mutation: without the release in ``_fill`` it stays set aside."""
    seen = []

    def failing() -> None:
        seen.append(cache._index.reserved_bytes())
        raise error

    async with place.open(size_bytes=SIZE_BYTES) as cache:
        with pytest.raises(type(error)):
            await cache._room.fill(BLOCK_BYTES, failing)
        assert seen == [BLOCK_BYTES]
        await assert_all_free(cache)


async def test_room_is_free_again_where_the_system_has_no_thread(place: Any) -> None:
    cache = await place.start(size_bytes=SIZE_BYTES)  # without upkeep: it would find no thread either
    with no_threads(), pytest.raises(threads.NoThreadError):
        await cache._room.fill(BLOCK_BYTES, lambda: None)
    await assert_all_free(cache)
    await cache.aclose()


async def test_room_of_a_block_that_means_nothing_in_the_version_is_free_again(place: Any) -> None:
    """Another process has begun to keep the version in blocks of its own; the index takes the room back with its No."""
    async with place.open(size_bytes=SIZE_BYTES) as cache:
        handle = await cache.open_object(OBJ)
        await handle.claim([3])  # which makes the file
        theirs = ObjectRecord("test", OBJ.bucket, OBJ.key, OBJ.etag, OBJ.size_bytes, 2 * BLOCK_BYTES)
        digest = object_digest("test", OBJ)
        assert cache._index.put_block(digest, theirs, 0, BlockRecord(2 * BLOCK_BYTES, 7, b"", 0, synced=False))
        assert not await write(handle, OBJ, 3)
        handle.close()
        await assert_all_free(cache)


async def test_each_write_gives_back_its_own_room_alone(place: Any) -> None:
    """Mutation: one that gives its room back after the index took it gives back that of the other one, too."""
    begun, goes_on, failed = threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        assert goes_on.wait(30)
        raise FileGoneError

    async def first() -> None:
        try:
            await cache._room.fill(2 * BLOCK_BYTES, slow)
        except FileGoneError:
            failed.append(cache._index.reserved_bytes())

    async with place.open(size_bytes=SIZE_BYTES) as cache, trio.open_nursery() as nursery:
        nursery.start_soon(first)
        assert await trio.to_thread.run_sync(begun.wait, 30)
        assert await fill(cache, object_id("small", blocks=1)) == 1
        assert cache._index.reserved_bytes() == 2 * BLOCK_BYTES
        assert await cache._room.fill(3 * BLOCK_BYTES, pytest.fail) is None, "no room beside the first"
        goes_on.set()
        await until(lambda: failed)
        assert failed == [0]


async def test_index_that_is_busy_is_not_taken_for_a_cache_without_room(place: Any) -> None:
    """Two writes of which one has to evict, while somebody's commit takes long: both wait for it.

    Mutation: where what is not set aside yet counts against the other write, that one finds nothing to evict, and gives
    up for five seconds.
    """
    busy, goes_on, taken = threading.Event(), threading.Event(), []
    cache = await place.start(size_bytes=SIZE_BYTES)
    assert await fill(cache, object_id("old", blocks=3)) == 3
    handle = await cache.open_object(OBJ)

    def commit(_txn: object) -> None:
        busy.set()
        goes_on.wait(30)

    async def one(index: int) -> None:
        taken.append(await write(handle, OBJ, index))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, cache._index.write, commit)
        assert await trio.to_thread.run_sync(busy.wait, 30)
        for index in (0, 1):
            nursery.start_soon(one, index)
        await until(lambda: taken or cache._room._limiter.borrowed_tokens == 2)
        goes_on.set()
    assert taken == [True, True]
    handle.close()
    await cache.aclose()


async def test_write_that_begins_in_a_removed_file_takes_room_once(place: Any) -> None:
    async with place.open(size_bytes=SIZE_BYTES) as cache:
        handle = await cache.open_object(OBJ)
        assert await write(handle, OBJ, 0)
        place.data_files()[0].unlink()
        assert await write(handle, OBJ, 1)
        handle.close()
        assert await check_all(cache, OBJ) == 1
        await assert_all_free(cache)


@pytest.mark.parametrize(("spare_bytes", "begins"), [(0, True), (-1, False)])
async def test_disk_is_measured_again_for_each_block(
    place: Any, monkeypatch: pytest.MonkeyPatch, spare_bytes: int, begins: bool
) -> None:
    """Somebody else has filled it since. Mutation: without room kept for the index, the disk is full to the last."""
    begun = []
    async with place.open(size_bytes=SIZE_BYTES) as cache:
        left_bytes = BLOCK_BYTES + room._INDEX_GROWTH_BYTES + spare_bytes
        monkeypatch.setattr(room, "disk_room_bytes", lambda *_: left_bytes)
        assert await cache._room.fill(BLOCK_BYTES, lambda: begun.append(1)) is None
        cache._index.release(BLOCK_BYTES * len(begun))
    assert begun == [1] * begins


@pytest.mark.parametrize(("spare_bytes", "is_full"), [(0, False), (-1, True)])
async def test_a_disk_that_has_no_room_for_a_block_is_said_to_be_full(
    place: Any, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any, spare_bytes: int, is_full: bool
) -> None:
    """Others have filled it, and all that was cached had to go. Mutation: nothing is cached, and nobody says why."""
    async with place.open(size_bytes=SIZE_BYTES) as cache:
        assert await fill(cache, OBJ)
        left_bytes = -SIZE_BYTES
        monkeypatch.setattr(room, "disk_room_bytes", lambda *_: left_bytes)
        await until(lambda: not cache.statistics().objects_cached)
        left_bytes = BLOCK_BYTES + room._INDEX_GROWTH_BYTES + spare_bytes
        await trio.sleep(2)
        statistics = cache.statistics()
        assert statistics.degraded.startswith("the cache's disk is full") == is_full
        assert statistics.room_bytes == BLOCK_BYTES + spare_bytes


async def test_what_is_written_counts_against_the_disk_until_it_is_measured(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: without the subtraction the third block is begun in room that two others have taken."""
    free_bytes = room._INDEX_GROWTH_BYTES + 2 * BLOCK_BYTES
    monkeypatch.setattr(room, "disk_room_bytes", lambda *_: free_bytes)
    cache = await place.start(size_bytes=SIZE_BYTES)  # without ``run``, which measures
    assert [cache._room._fits(number * BLOCK_BYTES) for number in (1, 2, 3)] == [True, True, False]
    handle = await cache.open_object(OBJ)
    assert await write(handle, OBJ, 0)
    assert [cache._room._fits(number * BLOCK_BYTES) for number in (1, 2)] == [True, False]
    handle.close()
    await cache.aclose()


async def test_what_to_evict_is_decided_in_a_thread(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It walks over every version of the cache: with a million the event loop would answer nobody for a second."""
    deciding = []
    for name in ("replace", "plan"):
        method = getattr(Occupancy, name)

        def noted(*args: Any, method: Any = method, **kwargs: Any) -> Any:
            deciding.append(threading.current_thread())
            return method(*args, **kwargs)

        monkeypatch.setattr(Occupancy, name, noted)
    async with place.open(size_bytes=SIZE_BYTES) as cache:
        assert await fill(cache, object_id("old", blocks=3)) == 3
        assert await fill(cache, OBJ) == 4
    assert deciding
    assert threading.current_thread() not in deciding


async def test_quota_that_is_spent_makes_room_as_a_full_disk_does(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a user's quota the filesystem tells nothing: it has room, and refuses what is written.

    Mutation: no model is cached any more until somebody evicts one by hand.
    """
    pwrite = os.pwrite

    def within_quota(fd: int, data: Any, offset: int) -> int:
        if cache._index.bytes_cached + len(data) > 10 * BLOCK_BYTES:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return pwrite(fd, data, offset)

    async with place.open() as cache:
        monkeypatch.setattr(os, "pwrite", within_quota)
        for name in "abcdef":
            assert await fill(cache, object_id(name)) == 4
        assert cache.statistics().degraded == ""
        assert await check_all(cache, object_id("f")) == 4
        assert cache.statistics().bytes_cached > 8 * BLOCK_BYTES


async def test_quota_that_others_have_spent_empties_no_cache(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes in vain goes once. Mutation: a block each time that one is refused, until nothing is left."""

    def refuse(*_: Any) -> int:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    async with place.open() as cache:
        assert await fill(cache, object_id("old")) == 4
        handle = await cache.open_object(OBJ)
        monkeypatch.setattr(os, "pwrite", refuse)
        for index in range(4):
            cache._health._next_try_s = 0.0
            assert not await write(handle, OBJ, index)
        assert cache.statistics().degraded == os.strerror(errno.EDQUOT)
        assert await check_all(cache, object_id("old")) == 3
        handle.close()


async def test_quota_that_has_no_room_for_a_look_makes_some(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may refuse a directory, or a page of the index, first: then nothing is written until the disk was looked at.

    Mutation: it is looked at again and again, and each time as full as before.
    """
    fallocate = os.posix_fallocate

    def within_quota(fd: int, offset: int, length: int) -> None:
        if cache._index.bytes_cached + length > 4 * BLOCK_BYTES:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        fallocate(fd, offset, length)

    def has_recovered() -> bool:
        cache._health._next_try_s = 0.0
        return not cache.statistics().degraded

    async with place.open() as cache:
        assert await fill(cache, object_id("old")) == 4
        monkeypatch.setattr(os, "posix_fallocate", within_quota)
        cache._health.fail(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)))
        await until(has_recovered)
        assert await check_all(cache, object_id("old")) == 3
