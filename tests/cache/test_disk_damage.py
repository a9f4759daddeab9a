"""The disk cache whose files are damaged, cut, removed or replaced: what is wrong is found, what is right is kept."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tigrismount.cache import versions
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


async def read_raw(cache: Any, index: int) -> bytes:
    """Read a block without comparing it."""
    handle = await cache.open_object(OBJ)
    buffer = aligned_buffer(BLOCK_BYTES)
    try:
        await handle.read_block(index, buffer)
    finally:
        handle.close()
    return bytes(buffer)


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


async def test_verify_off_trusts_no_copy(place: Any, tmp_path: Path) -> None:
    """Mutation: where a data file was copied before the daemon that goes on there had written it, zeros are read."""
    async with place.open() as cache:
        await fill(cache, OBJ)
        copy = type(place)(tmp_path / "copy")
        await cache._publisher.publish()
        shutil.copytree(place.path, copy.path)
    os.truncate(copy.data_files()[0], BLOCK_BYTES)
    os.truncate(copy.data_files()[0], OBJ.size_bytes)
    async with copy.open(verify="off") as cache:
        assert await read_raw(cache, 0) == block_content(OBJ, 0)
        for index in range(1, 5):
            with pytest.raises(CacheCorruptError):
                await read_raw(cache, index)
        assert await fill(cache, OBJ) == 5
    copy.path = copy.path.rename(tmp_path / "moved")
    copy.config = replace(copy.config, directory=str(copy.path))
    async with copy.open(verify="off") as cache:
        handle = await cache.open_object(OBJ)
        assert all(map(handle.proven, range(5))), "it is the same one, and was looked at once"
        handle.close()


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
