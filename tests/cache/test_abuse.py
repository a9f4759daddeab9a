"""What people, disks and clocks do to a cache under a daemon that uses it: speed is all that it may cost.

Removed and replaced files are in ``test_disk_damage``, damage is in ``test_access`` and ``test_directory``.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import pytest
import trio

from tigrismount.cache import directory as directories
from tigrismount.cache import reclaim, room
from tigrismount.cache.directory import open_cache_directory
from tigrismount.cache.environment import Environment
from tigrismount.testing.cache_contract import BLOCK_BYTES, check, check_all, fill, object_id, write

from .conftest import Place

if TYPE_CHECKING:
    from collections.abc import Iterator

OBJ, OTHER = object_id("model"), object_id("other")
NOBODY = 65534


# --- directories that are changed


async def test_directory_that_is_moved_away_behind_a_link_is_used_on(place: Any, tmp_path: Path) -> None:
    """The same cache under the same name: as somebody does it who makes room on a drive."""
    async with place.open() as cache:
        await fill(cache, OBJ)
        place.path.rename(tmp_path / "moved")
        place.path.symlink_to(tmp_path / "moved")
        assert await check_all(cache, OBJ) == 4
        assert await fill(cache, OTHER) == 4
        await cache._attempt(cache._check_directory)
        assert cache.statistics().degraded == ""
    async with place.open() as cache:
        assert await check_all(cache, OBJ) == await check_all(cache, OTHER) == 4


@pytest.mark.parametrize("theirs", ["nothing", "a cache", "files"])
async def test_another_directory_in_its_place_is_not_written_to(
    place: Any, tmp_path: Path, autojump_clock: Any, theirs: str
) -> None:
    other = tmp_path / "another"
    if theirs == "a cache":
        async with Place(other).open() as cache:
            await fill(cache, object_id("theirs"))
    else:
        other.mkdir()
        if theirs == "files":
            (other / "thesis.txt").write_text("years of work")
    before = sorted(path for path in other.rglob("*") if path.is_file() and path.parent.name != "index")
    async with place.open() as cache:
        await fill(cache, OBJ)
        handle = await cache.open_object(OBJ)
        place.path.rename(tmp_path / "moved")
        place.path.symlink_to(other)
        await check(handle, OBJ, 0)  # its file is open
        await place.until(lambda: "was removed while in use; mount again" in cache.statistics().degraded)
        assert await fill(cache, OTHER) == 0
        assert await check_all(cache, OTHER) == 0
        handle.close()
    assert sorted(path for path in other.rglob("*") if path.is_file() and path.parent.name != "index") == before


async def test_nothing_is_evicted_from_another_cache_in_its_place(
    place: Any, tmp_path: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor holes punched into files of the same names, of which a daemon that uses it remembers what it found right.

    Mutation: the upkeep of who lost its cache, on a disk that fills up, makes zeros of what that one reads.
    """
    other = Place(tmp_path / "another")
    async with other.open() as cache:
        await fill(cache, OBJ)
    async with place.open() as cache:
        await fill(cache, OBJ)
        place.path.rename(tmp_path / "moved")
        place.path.symlink_to(other.path)
        monkeypatch.setattr(room, "disk_room_bytes", lambda *_: -BLOCK_BYTES)
        await trio.sleep(30)
        assert "was removed while in use" in cache.statistics().degraded
        assert [path.stat().st_blocks * 512 for path in other.data_files()] == [OBJ.size_bytes]


@pytest.mark.parametrize("blocks", [1, 4])
async def test_nothing_of_another_cache_in_its_place_is_evicted_for_a_write(
    place: Any, tmp_path: Path, blocks: int
) -> None:
    """Not the whole version and not its end, before anybody has noticed that it is another cache.

    Mutation: the other's file is removed, or has holes where its records say that there is data.
    """
    oldest = object_id("oldest", blocks=blocks)
    async with place.open(size_bytes=8 * BLOCK_BYTES) as cache:
        await fill(cache, oldest)
        await fill(cache, object_id("filler", blocks=8 - blocks))
        place.path.rename(tmp_path / "moved")
        other = Place(place.path)
        async with other.open(verify="off") as theirs:
            await fill(theirs, oldest)
            await fill(cache, OTHER)
            assert [path.stat().st_blocks * 512 for path in other.data_files()] == [oldest.size_bytes]
            assert await check_all(theirs, oldest) == blocks


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("is_open", [False, True])
async def test_records_say_nothing_of_files_in_another_cache_in_its_place(
    place: Any, tmp_path: Path, is_open: bool, removed: bool
) -> None:
    """Before anybody has noticed that it is another one.

    Mutation: a file of the same name is opened by records that are not of it, and with "off" its holes are read.
    """
    async with place.open(verify="off") as cache:
        await fill(cache, OBJ)
        handle = await cache.open_object(OBJ)
        if not is_open:
            handle.close()
        place.path.rename(tmp_path / "moved")
        if removed:
            shutil.rmtree(tmp_path / "moved")
        async with Place(place.path).open() as other:
            theirs = await other.open_object(OBJ)
            assert await write(theirs, OBJ, 3)
            if is_open:
                await handle.refresh()
            await check_all(cache, OBJ)
            assert "was removed while in use" in cache.statistics().degraded or (is_open and not removed)
            theirs.close()
        handle.close()


async def test_another_release_that_sets_the_cache_aside_takes_nothing_from_who_reads(
    place: Any, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions of the package on one directory: the one that does not know the other's schema begins anew."""
    async with place.open() as cache:
        await fill(cache, OBJ)
        handle = await cache.open_object(OBJ)
        with monkeypatch.context() as another_release:
            another_release.setattr(directories, "_VERSION_TEXT", "tigrismount cache 99\n")
            another_release.setattr(directories, "_READABLE_TEXTS", ("tigrismount cache 99\n",))
            directory, index = open_cache_directory(str(place.path))
        for number in range(4):
            await check(handle, OBJ, number)
        await place.until(lambda: "was removed while in use; mount again" in cache.statistics().degraded)
        assert not await write(handle, OBJ, 0) or handle.has(0)
        assert await fill(cache, OTHER) == 0
        assert index.objects() == {}
        index.check()
        handle.close()
        index.close()
        directory.leave()
    assert place.data_files() == []


@contextmanager
def plain_user() -> Iterator[Place]:
    """Do without root's privileges, in a directory that such a user can get at."""
    if os.geteuid():
        pytest.skip("only root can become somebody else and back")
    path = Path(tempfile.mkdtemp())
    try:
        os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield Place(path / "cache")
        finally:
            os.seteuid(0)
    finally:
        shutil.rmtree(path)


@pytest.mark.parametrize("what", ["objects", "objects/*", "objects/*/*", "index/data.mdb", "."])
async def test_permissions_that_are_taken_away_cost_the_cache_until_they_are_back(
    autojump_clock: Any, what: str
) -> None:
    with plain_user() as place:
        async with place.open() as cache:
            await fill(cache, OBJ)
            handle = await cache.open_object(OBJ)
            paths = [place.path] if what == "." else list(place.path.glob(what))
            modes = {path: path.stat().st_mode & 0o777 for path in paths}
            for path in paths:
                path.chmod(0)
            await check(handle, OBJ, 0)
            taken = await fill(cache, OTHER)
            assert taken in (0, 4)
            for path, mode in modes.items():
                path.chmod(mode)
            cache._health._next_try_s = 0.0
            await place.until(lambda: not cache.statistics().degraded)
            assert await fill(cache, OTHER) == 4
            assert await check_all(cache, OTHER) == 4
            handle.close()


# --- clocks


async def test_clock_that_jumps_back_a_year_keeps_bounds_and_what_is_open(place: Any) -> None:
    """Recency is then wrong for a while, and nothing else is."""
    now_s = [1_800_000_000.0]
    place.clock = lambda: now_s[0]
    async with place.open(size_bytes=8 * BLOCK_BYTES) as cache:
        await fill(cache, OBJ)
        await fill(cache, OTHER)
        now_s[0] -= 365 * 86400
        handle = await cache.open_object(OTHER)
        for name in "abc":
            await fill(cache, object_id(name))
            assert cache.statistics().bytes_cached <= 8 * BLOCK_BYTES
        assert await check_all(cache, OTHER) == 4, "open"
        assert cache._index.object(cache._versions._open[handle._version.digest].digest).last_used_ms >= now_s[0] * 1000
        handle.close()
    async with place.open(size_bytes=8 * BLOCK_BYTES) as cache:
        assert cache.statistics().bytes_cached <= 8 * BLOCK_BYTES
        await fill(cache, OBJ)
        assert await check_all(cache, OBJ) == 4


# --- a disk that is full at one moment


class FullOnce:
    """Makes the *n*-th thing that needs room on the disk fail, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
        self.seen = 0
        self._nth = nth
        self._lock = threading.Lock()
        for call in ("pwrite", "ftruncate", "mkdir", "fdatasync"):
            monkeypatch.setattr(os, call, self._hooked(getattr(os, call)))
        monkeypatch.setattr(Environment, "transact", self._transact(Environment.transact))

    def _is_it(self) -> bool:
        with self._lock:
            self.seen += 1
            return self.seen == self._nth

    def _hooked(self, call: Any) -> Any:
        def hooked(*arguments: Any, **named: Any) -> Any:
            if self._is_it():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **named)

        return hooked

    def _transact(self, transact: Any) -> Any:
        def hooked(environment: Environment, work: Any, *, write: bool) -> Any:
            def fails_at_its_end(txn: Any) -> Any:
                result = work(txn)
                if write and self._is_it():
                    raise lmdb.DiskError("mdb_txn_commit: No space left on device")
                return result

            return transact(environment, fails_at_its_end, write=write)

        return hooked


async def full_at(place: Place, monkeypatch: pytest.MonkeyPatch, nth: int) -> int:
    """Fill a cache on a disk that is full once; return how many times it could have been."""
    with monkeypatch.context() as hooks:
        cache = await place.start(size_bytes=8 * BLOCK_BYTES)  # without ``run``: it would count by the clock
        disk = FullOnce(hooks, nth)
        for obj in (OBJ, OTHER, object_id("third")):  # the third one evicts
            await fill(cache, obj)
            await cache._attempt(cache._publisher.publish)
            cache._health._next_try_s = 0.0
            await check_all(cache, obj)
            assert cache.statistics().bytes_cached <= 8 * BLOCK_BYTES
        seen = disk.seen
    cache._health._next_try_s = 0.0
    await cache._attempt(cache._health.recheck)
    assert cache.statistics().degraded == ""
    assert await fill(cache, OTHER) == 4
    assert await check_all(cache, OTHER) == 4
    assert cache._index.reserved_bytes() == 0
    cache._index.check()
    await cache.aclose()
    return seen


async def test_disk_that_is_full_at_any_one_moment_costs_what_was_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: where the index forgets what it could not take back, that room stays set aside."""
    moments = await full_at(Place(tmp_path / "never"), monkeypatch, 0)
    assert moments > 40
    for nth in range(3, moments + 1, 6):
        await full_at(Place(tmp_path / str(nth)), monkeypatch, nth)


@pytest.mark.slow
async def test_disk_that_is_full_at_every_single_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for nth in range(1, await full_at(Place(tmp_path / "never"), monkeypatch, 0) + 1):
        await full_at(Place(tmp_path / str(nth)), monkeypatch, nth)


# --- eviction that takes long


async def test_eviction_that_hangs_keeps_no_read(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing a file of a terabyte takes seconds; a block that is there is read meanwhile."""
    begun, goes_on = threading.Event(), threading.Event()
    remove_file = reclaim.remove_file

    def slow(*arguments: Any) -> bool:
        begun.set()
        goes_on.wait(30)
        return remove_file(*arguments)

    monkeypatch.setattr(reclaim, "remove_file", slow)
    async with place.open(size_bytes=8 * BLOCK_BYTES) as cache:
        await fill(cache, OBJ)
        await fill(cache, OTHER)
        handle = await cache.open_object(OTHER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill, cache, object_id("third"))
            assert await trio.to_thread.run_sync(begun.wait, 30)
            with trio.fail_after(20):
                for number in range(4):
                    await check(handle, OTHER, number)
            goes_on.set()
        handle.close()
        assert cache.statistics().evicted_objects == 1
