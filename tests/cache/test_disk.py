"""The disk cache over restarts, at its bounds, with its directory removed, and when it is closed."""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.cache.directory import open_cache_directory
from tigrismount.cache.options import DiskCacheConfig
from tigrismount.cache.storage import StoredVersion
from tigrismount.errors import CacheCorruptError, CacheError
from tigrismount.testing.cache_contract import (
    BLOCK_BYTES,
    aligned_buffer,
    block_content,
    check,
    check_all,
    fill,
    object_id,
    write,
)

if TYPE_CHECKING:
    from pathlib import Path

OBJ = object_id("model", blocks=4.5)


async def test_warm_after_a_restart(place: Any) -> None:
    async with place.open() as cache:
        assert await fill(cache, OBJ) == 5
    async with place.open() as cache:
        assert await check_all(cache, OBJ) == 5
        assert cache.statistics().bytes_cached == OBJ.size_bytes


async def test_blocks_keep_the_size_they_were_written_with(place: Any) -> None:
    async with place.open() as cache:
        await fill(cache, OBJ)
    async with place.open(block_bytes=4 * BLOCK_BYTES) as cache:
        handle = await cache.open_object(OBJ)
        assert (handle.block_bytes, handle.count()) == (BLOCK_BYTES, 5)
        handle.close()
        new = await cache.open_object(object_id("new"))
        assert new.block_bytes == 4 * BLOCK_BYTES
        new.close()


async def test_another_store_has_objects_of_its_own(place: Any) -> None:
    async with place.open(store_id="one") as cache:
        await fill(cache, OBJ)
    async with place.open(store_id="two") as cache:
        assert await check_all(cache, OBJ) == 0


async def test_layout_is_private_and_sparse_files_have_the_objects_size(place: Any) -> None:
    async with place.open() as cache:
        handle = await cache.open_object(OBJ)
        assert await write(handle, OBJ, 1)
        (path,) = place.data_files()
        assert path.stat().st_size == OBJ.size_bytes
        assert await write(handle, OBJ, 4)
        assert (path.stat().st_size, path.parent.name) == (OBJ.size_bytes, path.name[:2])
        assert path.stat().st_blocks * 512 < OBJ.size_bytes
        assert path.read_bytes()[4 * BLOCK_BYTES :] == block_content(OBJ, 4)
        handle.close()
    for path in [place.path, *place.path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_a_process_opens_a_directory_once(place: Any) -> None:
    async with place.open() as cache:
        with pytest.raises(CacheError, match="already open"):
            await place.start()
        assert await fill(cache, OBJ) == 5


async def test_a_closed_cache_does_nothing_and_says_nothing(place: Any) -> None:
    cache = await place.start()
    handle = await cache.open_object(OBJ)
    assert await write(handle, OBJ, 0)
    await cache.aclose()
    await cache.aclose()
    assert not await write(handle, OBJ, 1)
    handle.close()
    assert (await cache.open_object(OBJ)).count() == 0
    assert cache.statistics().degraded == ""


async def test_a_lowered_bound_is_enforced_by_run(place: Any, autojump_clock: Any) -> None:
    objects = [object_id(name) for name in "abc"]
    async with place.open() as cache:
        for obj in objects:
            await fill(cache, obj)
    async with place.open(size_bytes=8 * BLOCK_BYTES) as cache:
        await place.until(lambda: cache.statistics().bytes_cached <= 8 * BLOCK_BYTES)
        assert [await check_all(cache, obj) for obj in objects] == [0, 4, 4]
        assert len(place.data_files()) == 2


async def test_recency_outlives_the_process(place: Any) -> None:
    first, second, third = (object_id(name) for name in "abc")
    async with place.open() as cache:
        await fill(cache, first)
        await fill(cache, second)
    async with place.open() as cache:
        assert await check_all(cache, first) == 4
    async with place.open(size_bytes=8 * BLOCK_BYTES) as cache:
        assert await fill(cache, third) == 4
        assert [await check_all(cache, obj) for obj in (first, second, third)] == [4, 0, 4]


async def test_floor_of_free_space_is_kept(place: Any, autojump_clock: Any) -> None:
    """With more than all of the disk to leave free nothing is cached, what was is given back, and status says why."""
    async with place.open() as cache:
        await fill(cache, OBJ)
    async with place.open(free_floor_fraction=1.0) as cache:
        await place.until(lambda: not cache.statistics().objects_cached)
        assert await fill(cache, OBJ) == 0
        assert cache.statistics().degraded == "the cache's disk is full (100 % of it stay free)"
        assert cache.statistics().writes_skipped == 5
    assert place.data_files() == []


async def test_beyond_the_queue_nobody_waits(place: Any) -> None:
    """What the disk has no time for is not cached; the first block is always taken."""
    taken: list[bool] = []

    async def one(handle: Any, index: int) -> None:
        taken.append(await write(handle, OBJ, index))

    async with place.open(write_queue_bytes=2 * BLOCK_BYTES) as cache:
        handle = await cache.open_object(OBJ)
        async with trio.open_nursery() as nursery:
            for index in range(4):
                nursery.start_soon(one, handle, index)
        assert sorted(taken) == [False, False, True, True]
        assert cache.statistics().degraded == "the cache's disk is slower than the network; not everything is cached"
        assert handle.count() == 2
        handle.close()
    async with place.open(write_queue_bytes=1) as cache:
        assert await fill(cache, object_id("other")) == 4


async def test_write_that_waits_for_the_disk_can_be_taken_back(place: Any) -> None:
    """Its buffer is the caller's again at once; one that has begun is finished first."""
    async with place.open() as cache:
        handle = await cache.open_object(OBJ)
        async with trio.open_nursery() as nursery:
            for turn in (0, 1):
                cache._write_turns.acquire_on_behalf_of_nowait(turn)
            nursery.start_soon(write, handle, OBJ, 0)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        for turn in (0, 1):
            cache._write_turns.release_on_behalf_of(turn)
        assert (handle.count(), cache.statistics().writes_skipped) == (0, 1)
        assert "slower than the network" in cache.statistics().degraded
        assert await write(handle, OBJ, 0)
        assert cache._index.reserved_bytes() == cache._queued_bytes == 0
        handle.close()


async def test_wrong_block_size_is_refused(tmp_path: Path) -> None:
    from tigrismount.cache.disk import DiskBlockCache
    from tigrismount.errors import ConfigError

    config = DiskCacheConfig(directory=str(tmp_path / "c"), size_bytes=1, block_bytes=5000)
    with pytest.raises(ConfigError, match="5000"):
        await DiskBlockCache.open(config, store_id="test")


async def test_files_are_closed_with_the_last_handle(place: Any) -> None:
    """Also those that were removed and replaced while open."""

    def open_data_files() -> list[str]:
        links = [os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
        return [target for target in map(read_link, links) if "/objects/" in target]

    async with place.open() as cache:
        handles = [await cache.open_object(OBJ) for _ in range(3)]
        assert await write(handles[0], OBJ, 0)
        assert len(open_data_files()) == 1
        place.data_files()[0].unlink()
        assert await write(handles[1], OBJ, 1)
        assert [target.endswith(" (deleted)") for target in open_data_files()] == [False]
        for handle in handles:
            handle.close()
        await place.until(lambda: not open_data_files())  # the sweep of the start may be at it


def read_link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("begun_anew", [False, True])
async def test_cache_removed_under_a_daemon_is_not_written_to_and_can_be_begun_anew(
    place: Any, autojump_clock: Any, begun_anew: bool
) -> None:
    """Mutation: where data files are made with all their parents, the next mount refuses what lies there; without
    ``_check_directory`` the old daemon writes among the files of the new one."""
    async with place.open() as cache:
        await fill(cache, OBJ)
        shutil.rmtree(place.path)
        place.path.mkdir()
        assert await fill(cache, object_id("other")) == 0
        if begun_anew:  # by another daemon, whose index knows nothing of what this one would write
            directory, index = open_cache_directory(str(place.path))
            index.close()
            directory.leave()
        await place.until(lambda: "was removed while in use; mount again" in cache.statistics().degraded)
        assert await fill(cache, object_id("other")) == 0
        assert place.data_files() == []
    async with place.open() as cache:
        assert await fill(cache, OBJ) == 5


async def test_what_was_found_right_is_not_believed_of_what_another_daemon_wrote_since(place: Any) -> None:
    """Into the same file, or into a new one that got its number: its bytes have not been looked at here.

    Mutation: by the number alone the damage is read.
    """
    async with place.open() as cache:
        await fill(cache, OBJ)
        await check_all(cache, OBJ)
        handle = await cache.open_object(OBJ)
        ((digest, version),) = cache._versions._open.items()
        theirs = StoredVersion(cache._directory, cache._index, digest, version.storage.record, version.storage._trust)
        assert handle.unproven() == []
        handle.close()
        handle = await cache.open_object(OBJ)
        assert handle.unproven() == [], "nobody has written to it"
        handle.close()
        cache._index.drop_blocks(digest, [1])
        content = aligned_buffer(BLOCK_BYTES)
        content[:] = block_content(OBJ, 1)
        await trio.to_thread.run_sync(theirs.write, 1, content, BLOCK_BYTES, 1)
        theirs.file.close()
        place.flip(BLOCK_BYTES)
        handle = await cache.open_object(OBJ)
        with pytest.raises(CacheCorruptError):
            await check(handle, OBJ, 1)
        handle.close()
