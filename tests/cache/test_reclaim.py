"""Space that is given back: really on the disk, and also when a process was killed on the way."""

from __future__ import annotations

import ctypes
import errno
import os
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tigrismount.cache import datafile, reclaim
from tigrismount.core.types import ObjectId
from tigrismount.testing.cache_contract import BLOCK_BYTES, aligned_buffer, check_all, fill, object_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tigrismount.cache.index import CacheIndex

OLD, NEW = object_id("old", blocks=8), object_id("new", blocks=3)


def taken_bytes(place: Any) -> int:
    return sum(path.stat().st_blocks * 512 for path in place.data_files())


async def test_evicted_parts_are_holes_and_the_bound_holds_on_the_disk(place: Any) -> None:
    """Mutation: without ``_punch`` the files take eleven blocks."""
    place.config = replace(place.config, size_bytes=8 * BLOCK_BYTES)
    async with place.open() as cache:
        await fill(cache, OLD)
        assert taken_bytes(place) == 8 * BLOCK_BYTES
        assert await fill(cache, NEW) == 3
        assert taken_bytes(place) == cache.statistics().bytes_cached == 8 * BLOCK_BYTES
        assert [await check_all(cache, obj) for obj in (OLD, NEW)] == [5, 3]
        assert (cache.statistics().trimmed_objects, cache.statistics().corrupt_blocks) == (3, 0)
    async with place.open(verify="always") as cache:
        assert [await check_all(cache, obj) for obj in (OLD, NEW)] == [5, 3]
        cache._index.check()


async def test_whole_versions_go_before_a_part_of_the_next_one_does(place: Any) -> None:
    """Mutation: where each victim is trimmed like the last, too little goes, and of what was used last as well."""
    async with place.open() as cache:
        assert [await fill(cache, obj) for obj in (OLD, NEW)] == [8, 3]
    cache = await place.start(size_bytes=2 * BLOCK_BYTES)  # without ``run``, which would try again
    await cache._room.enforce()
    assert [await check_all(cache, obj) for obj in (OLD, NEW)] == [0, 2]
    await cache.aclose()


async def test_what_a_killed_process_forgot_and_did_not_punch_is_given_back(place: Any) -> None:
    """Data that no record counts would break the bound; the next start punches it."""
    async with place.open() as cache:
        await fill(cache, OLD)
        digest = next(iter(cache._index.objects()))
        cache._index.drop_blocks(digest, [2, 3, 7])
    assert taken_bytes(place) == 8 * BLOCK_BYTES
    async with place.open() as cache:
        await place.until(lambda: taken_bytes(place) == 5 * BLOCK_BYTES)
        assert await check_all(cache, OLD) == 5
        assert await fill(cache, OLD) == 8


async def test_giving_back_what_lies_between_blocks_takes_no_memory_for_those_that_there_are_not(place: Any) -> None:
    """A killed process has written one block of an object of a million. Mutation: a set of all takes 60 MiB, and of
    one that a store calls large enough, all there is."""
    obj = ObjectId("bucket", "large", "e1", BLOCK_BYTES << 20)
    async with place.open() as cache:
        handle = await cache.open_object(obj)
        for index in (0, 7, 8, 99):
            buffer = aligned_buffer(BLOCK_BYTES)
            assert await handle.write_block(index, buffer, BLOCK_BYTES)
        handle.close()
    cache = await place.start()
    index, (digest,) = cache._index, cache._index.objects()
    index.drop_blocks(digest, [7, 99])
    assert taken_bytes(place) == 4 * BLOCK_BYTES
    tracemalloc.start()
    try:
        reclaim.sweep(cache._directory, index)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken_bytes(place) == 2 * BLOCK_BYTES
    assert index.blocks(digest).keys() == {0, 8}
    assert peak_bytes < 1 << 20
    await cache.aclose()


async def test_a_damaged_record_ends_no_sweep(place: Any) -> None:
    """Whoever opens the version takes it for not cached. Mutation: blocks of no bytes cannot be counted, and the worker
    ends, as does each one after it."""
    async with place.open() as cache:
        await fill(cache, OLD)
        ((digest, record),), index = cache._index.objects().items(), cache._index
        block = index.blocks(digest)[0]
        index.drop_object(digest)
        index.put_block(digest, replace(record, block_bytes=0, cached_bytes=0), 0, block)
    cache = await place.start()
    reclaim.sweep(cache._directory, cache._index)
    assert await check_all(cache, OLD) == 0
    await cache.aclose()


async def test_a_file_that_cannot_be_opened_ends_no_sweep(place: Any, tmp_path: Path) -> None:
    """It was moved behind a link, and its record is gone since. Mutation: what a killed process left, and every cache
    that was set aside, stays on the disk at each start from then on."""
    async with place.open() as cache:
        for name in ("one", "two", "three"):
            await fill(cache, object_id(name))
        for digest in cache._index.objects():
            cache._index.drop_object(digest)
    paths = place.data_files()
    for path in paths[:-1]:  # whichever comes first, one is behind it
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    (place.path / "set-aside-1").mkdir()
    async with place.open() as cache:
        await place.until(lambda: cache.statistics().degraded == os.strerror(errno.ELOOP))
        assert place.data_files() == paths[:-1]
        assert not list(place.path.glob("set-aside-*"))


async def test_version_that_is_made_anew_while_it_is_swept_keeps_its_bytes(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By daemons with other blocks, before its file is locked. Mutation: holes are punched where theirs have data."""
    async with place.open() as cache:
        await fill(cache, OLD)
        digest = next(iter(cache._index.objects()))
        cache._index.drop_blocks(digest, [6, 7])
    larger = 2 * BLOCK_BYTES
    (path,) = place.data_files()

    def made_anew(index: CacheIndex) -> None:
        (record,), blocks = index.objects().values(), index.blocks(digest)
        index.drop_object(digest)
        for number in range(4):
            block = blocks[0]._replace(length_bytes=larger)
            index.put_block(digest, replace(record, block_bytes=larger, cached_bytes=0), number, block)

    punch_holes = reclaim.punch_holes

    def late(path: str, choose: Callable[[], list[tuple[int, int]]]) -> bool:
        made_anew(cache._index)
        return punch_holes(path, choose)

    monkeypatch.setattr(reclaim, "punch_holes", late)
    cache = await place.start()
    reclaim.sweep(cache._directory, cache._index)
    assert path.stat().st_blocks * 512 == 8 * BLOCK_BYTES
    await cache.aclose()


async def test_evicted_bytes_count_until_they_are_off_the_disk(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others see them as set aside. Mutation: without ``hold`` in ``evict_version`` they write too early."""
    set_aside = []
    async with place.open() as cache:
        await fill(cache, OLD)
        (digest,), (path,) = cache._index.objects(), place.data_files()
        unlink = os.unlink

        def watched(name: str, **how: Any) -> None:
            if name == str(path):
                set_aside.append(cache._index.reserved_bytes())
            unlink(name, **how)

        monkeypatch.setattr(os, "unlink", watched)
        assert reclaim.evict_version(cache._directory, cache._index, digest)
        assert (set_aside, cache._index.reserved_bytes()) == ([8 * BLOCK_BYTES], 0)


@pytest.mark.parametrize("why", [errno.ENOSPC, errno.EDQUOT])
async def test_a_disk_too_full_for_a_hole_loses_whole_versions(
    place: Any, monkeypatch: pytest.MonkeyPatch, why: int
) -> None:
    """Mutation: the records go, the data stays and is counted by nobody, and the disk is left alone for a while."""

    def punch(fd: int, start: int, stop: int) -> None:
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(datafile, "_punch", punch)
    old, new = object_id("old"), object_id("new")
    async with place.open(size_bytes=6 * BLOCK_BYTES) as cache:
        await fill(cache, old)
        assert await fill(cache, new) == 4
        assert [await check_all(cache, obj) for obj in (old, new)] == [0, 4]
        assert cache.statistics().degraded == ""
        (path,) = place.data_files()
        assert path.stat().st_blocks * 512 == 4 * BLOCK_BYTES


async def test_a_signal_while_a_hole_is_punched_costs_no_whole_version(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: all of the version goes, where a quarter of it had to."""

    class Interrupted:
        calls = 0

        def fallocate(self, *how: Any) -> int:
            self.calls += 1
            if self.calls == 1:
                ctypes.set_errno(errno.EINTR)
                return -1
            return libc.fallocate(*how)

    libc = datafile._libc
    monkeypatch.setattr(datafile, "_libc", Interrupted())
    old, new = object_id("old"), object_id("new", blocks=1)
    async with place.open(size_bytes=4 * BLOCK_BYTES) as cache:
        await fill(cache, old)
        assert await fill(cache, new) == 1
        assert [await check_all(cache, obj) for obj in (old, new)] == [3, 1]
        assert taken_bytes(place) == 4 * BLOCK_BYTES


async def test_a_file_that_cannot_be_opened_keeps_no_other_from_its_eviction(place: Any, tmp_path: Path) -> None:
    """Somebody has moved the one used least recently to another disk and left a link.

    Mutation: every eviction ends at it, and the cache takes nothing any more.
    """
    moved, old, new = (object_id(name) for name in ("moved", "old", "new"))
    async with place.open(size_bytes=8 * BLOCK_BYTES) as cache:
        await fill(cache, moved)
        (path,) = place.data_files()
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
        await fill(cache, old)
        assert await fill(cache, new) == 4
        assert [await check_all(cache, obj) for obj in (old, new)] == [0, 4]
        assert cache.statistics().degraded == ""
        assert (tmp_path / "moved").exists()


async def test_what_has_to_go_and_cannot_be_opened_is_told(place: Any, tmp_path: Path) -> None:
    async with place.open(size_bytes=4 * BLOCK_BYTES) as cache:
        await fill(cache, object_id("moved"))
        (path,) = place.data_files()
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
        assert await fill(cache, object_id("new")) == 0
        assert cache.statistics().degraded == os.strerror(errno.ELOOP)


async def test_a_bound_is_kept_as_far_as_others_go_where_one_cannot_be_opened(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is larger than all the others, so these are not enough.

    Mutation: all of them stay, and the disk below its floor; every second all that there are are tried again.
    """
    async with place.open() as cache:
        await fill(cache, OLD)
    (path,) = place.data_files()
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    async with place.open() as cache:
        await fill(cache, NEW)
    cache = await place.start(size_bytes=4 * BLOCK_BYTES)  # without ``run``, which would try again
    with pytest.raises(OSError, match="Too many levels"):
        await cache._room.enforce()
    assert place.data_files() == [path]
    monkeypatch.setattr(cache._room, "_evict", None)
    await cache._room.enforce()
    await cache.aclose()


async def test_no_more_is_forgotten_than_the_first_that_cannot_be_removed(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: where nothing can be removed the whole cache is forgotten at one look."""

    def unlink(path: str) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    async with place.open(size_bytes=12 * BLOCK_BYTES) as cache:
        for name in ("one", "two", "three"):
            await fill(cache, object_id(name))
        monkeypatch.setattr(os, "unlink", unlink)
        monkeypatch.setattr(reclaim, "trim_version", lambda *_, **__: 0)
        with pytest.raises(PermissionError):
            await cache._room._evict(12 * BLOCK_BYTES, only_if_enough=False)
        assert cache._index.count().objects == 2
        monkeypatch.undo()


async def test_filesystem_that_cannot_punch_loses_whole_versions(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reclaim, "punch_holes", cannot_punch)
    place.config = replace(place.config, size_bytes=8 * BLOCK_BYTES)
    async with place.open() as cache:
        await fill(cache, OLD)
        assert await fill(cache, NEW) == 3
        assert cache.statistics().bytes_cached == 3 * BLOCK_BYTES
        assert await check_all(cache, OLD) == 0


def cannot_punch(path: str, choose: Any) -> bool:
    choose()
    raise OSError(95, "Operation not supported")
