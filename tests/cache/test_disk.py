"""The disk cache over restarts, damage, full disks, hands in its directory and unclean ends."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import subprocess
import threading
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.cache import datafile, disk, versions
from tigrismount.cache.directory import open_cache_directory
from tigrismount.cache.options import DiskCacheConfig
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
    from collections.abc import Iterator
    from pathlib import Path

OBJ = object_id("model", blocks=4.5)


async def read_raw(cache: Any, index: int) -> bytes:
    """Read a block without comparing it."""
    handle = await cache.open_object(OBJ)
    buffer = aligned_buffer(BLOCK_BYTES)
    try:
        await handle.read_block(index, buffer)
    finally:
        handle.close()
    return bytes(buffer)


# --- restarts


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


# --- damage


@pytest.mark.parametrize("offset", [2 * BLOCK_BYTES, 3 * BLOCK_BYTES - 1])
async def test_flipped_bit_is_found_at_first_use_after_a_start(place: Any, offset: int) -> None:
    async with place.open() as cache:
        await fill(cache, OBJ)
    place.flip(offset)
    async with place.open() as cache:
        with pytest.raises(CacheCorruptError):
            await read_raw(cache, 2)
        assert cache.statistics().corrupt_blocks == 1
        assert await check_all(cache, OBJ) == 4
    async with place.open() as cache:
        assert await check_all(cache, OBJ) == 4


async def test_verify_once_checks_once_also_over_several_opens(place: Any) -> None:
    """Damage after the first use goes unseen by choice; ``always`` sees it."""
    async with place.open(verify="once") as cache:
        await fill(cache, OBJ)
        assert await check_all(cache, OBJ) == 5
        place.flip(100)
        assert await read_raw(cache, 0) != block_content(OBJ, 0)
    async with place.open(verify="always") as cache:
        with pytest.raises(CacheCorruptError):
            await read_raw(cache, 0)
        assert await check_all(cache, OBJ) == 4
        place.flip(BLOCK_BYTES)
        with pytest.raises(CacheCorruptError):
            await read_raw(cache, 1)


async def test_pieces_are_of_blocks_that_need_no_check_and_no_others(place: Any) -> None:
    """Mutation: without the second look at what is known of a block, one that was dropped meanwhile is read."""
    async with place.open(verify="always") as cache:
        await fill(cache, OBJ)
        handle = await cache.open_object(OBJ)
        await check(handle, OBJ, 0)
        assert not handle.proven(0)
        handle.close()
    async with place.open(verify="off") as cache:
        handle = await cache.open_object(OBJ)
        assert handle.proven(0)
        assert await handle.read_piece(0, 100, 200) == block_content(OBJ, 0)[100:200]
        os.truncate(place.data_files()[0], BLOCK_BYTES)
        with pytest.raises(CacheCorruptError):
            await handle.read_piece(1, 100, 200)
        assert handle.has(1), "what a piece says of a block is not enough to drop it"
        with pytest.raises(CacheCorruptError):
            await handle.read_block(1, aligned_buffer(BLOCK_BYTES))
        with pytest.raises(CacheError, match="not proven"):
            await handle.read_piece(1, 100, 200)
        handle.close()


async def test_what_was_found_right_is_remembered_of_so_many_versions(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who evict are other processes too, and say nothing: eviction alone would not bound it."""
    monkeypatch.setattr(versions, "VERIFIED_MAX", 2)
    objects = [object_id(f"model-{number}") for number in range(4)]
    async with place.open() as cache:
        for obj in objects:
            await fill(cache, obj)
    async with place.open(verify="once") as cache:
        for obj in objects:
            assert await check_all(cache, obj)
        assert cache.tables() == {"cache_open": 0, "cache_verified": 2}


async def test_verify_off_trusts_what_was_closed_cleanly(place: Any) -> None:
    async with place.open() as cache:
        await fill(cache, OBJ)
    place.flip(100)
    async with place.open(verify="off", boot_id="next boot") as cache:
        assert await read_raw(cache, 0) != block_content(OBJ, 0)


async def test_verify_off_checks_after_the_machine_went_down(place: Any) -> None:
    """Once per block and for good: what was found right is trusted by later starts."""
    cache = await place.start()
    await fill(cache, OBJ)
    await cache._publisher.publish()
    cache._index.close()  # no clean end
    place.flip(100)
    async with place.open(verify="off", boot_id="next boot") as cache:
        with pytest.raises(CacheCorruptError):
            await read_raw(cache, 0)
        assert await check_all(cache, OBJ) == 4
    place.flip(BLOCK_BYTES)
    async with place.open(verify="off", boot_id="next boot") as cache:
        assert await read_raw(cache, 1) != block_content(OBJ, 1)


async def test_verify_off_trusts_the_same_boot_after_a_kill(place: Any) -> None:
    """The kernel has what a killed process wrote."""
    cache = await place.start()
    await fill(cache, OBJ)
    cache._index.close()
    place.flip(100)
    async with place.open(verify="off") as cache:
        assert await read_raw(cache, 0) != block_content(OBJ, 0)


async def test_truncated_file_costs_its_missing_blocks(place: Any) -> None:
    async with place.open() as cache:
        await fill(cache, OBJ)
    os.truncate(place.data_files()[0], 2 * BLOCK_BYTES + 17)
    async with place.open() as cache:
        for index in (2, 3, 4):
            with pytest.raises(CacheError, match="ends at"):
                await read_raw(cache, index)
        assert await check_all(cache, OBJ) == 2
        assert cache.statistics().bytes_cached == 2 * BLOCK_BYTES
        assert await fill(cache, OBJ) == 5
        assert await check_all(cache, OBJ) == 5


async def test_missing_file_is_an_empty_version(place: Any) -> None:
    async with place.open() as cache:
        await fill(cache, OBJ)
    place.data_files()[0].unlink()
    async with place.open() as cache:
        assert await check_all(cache, OBJ) == 0
        assert cache.statistics().bytes_cached == 0
        assert await fill(cache, OBJ) == 5
    async with place.open() as cache:
        assert await check_all(cache, OBJ) == 5


async def test_file_removed_while_open_is_read_on_and_written_anew(place: Any) -> None:
    """Never into the file that has lost its name; never a block vouched for that is not in the new one."""
    async with place.open() as cache:
        handle = await cache.open_object(OBJ)
        for index in (0, 1):
            assert await write(handle, OBJ, index)
        place.data_files()[0].unlink()
        await check(handle, OBJ, 0)
        assert await write(handle, OBJ, 2)
        assert [handle.has(index) for index in range(5)] == [False, False, True, False, False]
        await check(handle, OBJ, 2)
        assert cache.statistics().bytes_cached == BLOCK_BYTES
        handle.close()
    async with place.open() as cache:
        assert await check_all(cache, OBJ) == 1


async def test_file_removed_and_replaced_by_another_daemon_is_taken_up(place: Any, children: Any) -> None:
    """What the index says of the new file is never read from the old one."""
    obj = object_id("model")
    async with place.open(verify="off") as cache:
        handle = await cache.open_object(obj)
        assert await write(handle, obj, 0)
        place.data_files()[0].unlink()
        child = children("fill", "model")
        assert await trio.to_thread.run_sync(child.stdout.readline) == "4\n"
        child.wait()
        await handle.refresh()
        assert handle.count() == 4
        for index in range(4):
            await check(handle, obj, index)
        handle.close()


async def test_records_of_a_removed_file_do_not_vouch_for_the_next_one(place: Any, children: Any) -> None:
    obj = object_id("model")
    async with place.open() as cache:
        handle = await cache.open_object(obj)
        child = children("fill", "model")
        assert await trio.to_thread.run_sync(child.stdout.readline) == "4\n"
        child.wait()
        place.data_files()[0].unlink()
        assert await write(handle, obj, 0)
        assert cache.statistics().bytes_cached == BLOCK_BYTES
        handle.close()
        assert await check_all(cache, obj) == 1


async def test_blocks_that_another_daemon_dropped_are_forgotten(place: Any) -> None:
    async with place.open() as cache:
        await fill(cache, OBJ)
        handle = await cache.open_object(OBJ)
        (digest,) = cache._index.objects()
        cache._index.drop_block(digest, 2, cache._index.blocks(digest)[2])
        assert handle.has(2)
        await handle.refresh()
        assert [handle.has(index) for index in range(5)] == [True, True, False, True, True]
        handle.close()


async def test_whole_directory_removed_while_open(place: Any) -> None:
    """A cleared cache is filled again by whoever is at work."""
    async with place.open() as cache:
        await fill(cache, OBJ)
        handle = await cache.open_object(OBJ)
        shutil.rmtree(place.path / "objects")
        await check(handle, OBJ, 0)
        await handle.refresh()
        other = object_id("other")
        assert await fill(cache, other) == 4
        assert await check_all(cache, other) == 4
        handle.close()


async def test_something_else_in_place_of_a_data_file_is_not_touched(place: Any, tmp_path: Path) -> None:
    """No link is followed out of the cache."""
    async with place.open() as cache:
        await fill(cache, OBJ)
    (path,) = place.data_files()
    precious = tmp_path / "precious"
    precious.write_bytes(b"x" * OBJ.size_bytes)
    path.unlink()
    path.symlink_to(precious)
    async with place.open() as cache:
        handle = await cache.open_object(OBJ)
        assert not await write(handle, OBJ, 0)
        handle.close()
    assert precious.read_bytes() == b"x" * OBJ.size_bytes


# --- bounds


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


async def test_hung_disk_is_waited_for_briefly_and_once(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first look hangs, the next ones do not look. Mutations: without the bound each takes a minute; without the
    silence after it each looks."""
    async with place.open() as cache:
        await fill(cache, OBJ)
        monkeypatch.setattr(disk, "_PATIENCE_S", 0.1)
        hung = threading.Event()
        opened = datafile.DataFile._open_direct

        looks: list[int] = []

        def open_hangs(self: datafile.DataFile, flags: int) -> int:
            looks.append(flags)
            hung.wait(60)
            return opened(self, flags)

        monkeypatch.setattr(datafile.DataFile, "_open_direct", open_hangs)
        with trio.fail_after(30):
            for _ in range(3):
                handle = await cache.open_object(OBJ)
                assert not handle.has(0)
                assert not await write(handle, OBJ, 0)
                handle.close()
        assert cache.statistics().degraded == "the disk has not answered for 0.1 s"
        assert len(looks) == 1
        hung.set()
        monkeypatch.undo()
        cache._silent_until_s = 0.0
        cache._health._next_try_s = 0.0
        await place.until(lambda: not cache.statistics().degraded)  # it comes back by itself
        assert await fill(cache, OBJ) == 5


async def test_read_that_hangs_is_told_of(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it has come back."""
    hung = threading.Event()
    read = datafile.DataFile.read

    def read_hangs(*arguments: Any) -> None:
        hung.wait(60)
        read(*arguments)

    async with place.open() as cache:
        await fill(cache, OBJ)
        monkeypatch.setattr(datafile.DataFile, "read", read_hangs)
        handle = await cache.open_object(OBJ)
        monkeypatch.setattr(disk, "_PATIENCE_S", 0.1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check, handle, OBJ, 0)
            assert cache.statistics().degraded == ""
            await place.until(lambda: cache.statistics().degraded == "the disk has not answered for 0.1 s")
            hung.set()
        assert cache.statistics().degraded == ""
        handle.close()


@contextmanager
def small_tmpfs(path: Path, size_bytes: int) -> Iterator[None]:
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", path], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a full disk needs a small tmpfs, and mounting one failed: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill_disk(hog: Path) -> None:
    with hog.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


async def test_full_disk_costs_the_cache_only_and_only_for_a_while(place: Any) -> None:
    with small_tmpfs(place.path, 4 << 20):
        cache = await place.start()  # without ``run``, so that nothing looks at the disk but the write
        handle = await cache.open_object(OBJ)
        assert await write(handle, OBJ, 0)
        fill_disk(place.path / "hog")
        assert not await write(handle, OBJ, 1)
        assert "the cache's disk is full" in cache.statistics().degraded
        assert not await write(handle, OBJ, 2)
        await check(handle, OBJ, 0)
        (place.path / "hog").unlink()
        assert not await write(handle, OBJ, 1)  # not at once
        cache._room._no_room_until_s = 0.0
        assert await write(handle, OBJ, 1)
        assert cache.statistics().degraded == ""
        handle.close()
        await cache.aclose()
        async with place.open() as cache:
            assert await check_all(cache, OBJ) == 2


async def test_disk_that_is_full_at_the_first_write_is_no_failure(place: Any, caplog: pytest.LogCaptureFixture) -> None:
    """To see that there is no room takes none. Mutation: where the index is asked, it notes its session first."""
    with small_tmpfs(place.path, 4 << 20):
        cache = await place.start()
        handle = await cache.open_object(OBJ)
        fill_disk(place.path / "hog")
        assert not await write(handle, OBJ, 0)
        assert cache.statistics().degraded.startswith("the cache's disk is full")
        (place.path / "hog").unlink()
        handle.close()
        await cache.aclose()
    assert caplog.records == []


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("call", ["pwrite", "preadv", "fdatasync", "ftruncate"])
async def test_disk_that_fails_costs_blocks_and_nothing_else(
    place: Any, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """A failing, read-only or full disk, in any call: nothing but a ``CacheError`` of a read, and it comes back."""
    async with place.open() as cache:
        await fill(cache, OBJ)
        handle, other = await cache.open_object(OBJ), await cache.open_object(object_id("other"))
        with monkeypatch.context() as hooks:
            hooks.setattr(os, call, partial(fails, number))
            if call == "preadv":
                with pytest.raises(CacheError, match=f"cannot be read back: {os.strerror(number)}"):
                    await check(handle, OBJ, 0)
            elif call == "fdatasync":
                assert await write(other, object_id("other"), 0)
                await place.until(lambda: cache.statistics().degraded == os.strerror(number))
            else:
                assert not await write(other, object_id("other"), 0)
                assert cache.statistics().degraded == os.strerror(number)
            if call != "preadv":
                await check(handle, OBJ, 1)
        cache._health._next_try_s = 0.0
        await place.until(lambda: not cache.statistics().degraded)
        assert await fill(cache, OBJ) == 5
        assert await fill(cache, object_id("other")) == 4
        handle.close()
        other.close()


def fails(number: int, *_: Any) -> int:
    raise OSError(number, os.strerror(number))


async def test_full_disk_at_the_start_leaves_what_is_cached(place: Any) -> None:
    with small_tmpfs(place.path, 4 << 20):
        async with place.open() as cache:
            await fill(cache, OBJ)
        fill_disk(place.path / "hog")
        cache = await place.start()
        assert await check_all(cache, OBJ) == 5
        assert await fill(cache, object_id("other")) == 0
        assert cache.statistics().degraded
        await cache.aclose()
        (place.path / "hog").unlink()
        async with place.open() as cache:
            assert await check_all(cache, OBJ) == 5
            assert await fill(cache, object_id("other")) == 4


async def test_recovery_is_noticed_without_a_write(
    place: Any, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A mount that only reads does not stay degraded; one line begins the trouble and one ends it."""
    with small_tmpfs(place.path, 4 << 20), caplog.at_level(logging.INFO):
        async with place.open() as cache:
            await fill(cache, OBJ)
            fill_disk(place.path / "hog")
            cache._health.fail(OSError(28, "No space left on device"))
            await trio.sleep(100)
            assert await check_all(cache, OBJ) == 5
            assert cache.statistics().degraded
            (place.path / "hog").unlink()
            await place.until(lambda: not cache.statistics().degraded)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_disk_smaller_than_the_bound_evicts_instead_of_filling_up(place: Any) -> None:
    with small_tmpfs(place.path, 4 << 20):
        async with place.open() as cache:
            for name in "abcdefghijklmnop":
                assert await fill(cache, object_id(name)) == 4
            assert cache.statistics().evicted_objects > 8
            assert await check_all(cache, object_id("p")) == 4


# --- what a crash leaves behind


async def test_files_without_records_and_records_without_files_are_swept_up(place: Any) -> None:
    kept, lost = object_id("kept"), object_id("lost")
    async with place.open() as cache:
        await fill(cache, lost)
        (path,) = place.data_files()
        await fill(cache, kept)
    path.unlink()
    orphan = place.path / "objects" / "ab" / ("ab" * 32)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"?")
    async with place.open() as cache:
        await place.until(lambda: not orphan.exists() and cache.statistics().objects_cached == 1)
        assert cache.statistics().bytes_cached == kept.size_bytes
        assert await check_all(cache, kept) == 4


@pytest.mark.parametrize("alignment", [0, 1])
async def test_memory_that_is_not_aligned_goes_through_the_page_cache(place: Any, alignment: int) -> None:
    async with place.open() as cache:
        handle = await cache.open_object(OBJ)
        for index in range(5):
            content = block_content(OBJ, index)
            padded = aligned_buffer(2 * BLOCK_BYTES)[alignment:]
            padded[: len(content)] = content
            assert await handle.write_block(index, padded, len(content))
            exact = memoryview(bytearray(len(content)))
            await handle.read_block(index, exact)
            assert exact == content
        handle.close()
        assert place.data_files()[0].stat().st_size == OBJ.size_bytes


async def test_wrong_block_size_is_refused(tmp_path: Path) -> None:
    from tigrismount.cache.disk import DiskBlockCache
    from tigrismount.errors import ConfigError

    config = DiskCacheConfig(directory=str(tmp_path / "c"), size_bytes=1, block_bytes=5000)
    with pytest.raises(ConfigError, match="5000"):
        await DiskBlockCache.open(config, store_id="test")


async def test_broken_index_costs_the_cache_only_and_is_logged_once(
    place: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.open() as cache:
        handle = await cache.open_object(OBJ)
        cache._index.close()
        for index in range(3):
            cache._health._next_try_s = 0.0
            assert not await write(handle, OBJ, index)
        assert (await cache.open_object(object_id("other"))).count() == 0
        await handle.refresh()
        handle.close()
        assert cache.statistics().degraded
    assert [record.levelname for record in caplog.records] == ["WARNING"]


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
