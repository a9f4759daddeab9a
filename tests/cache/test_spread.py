"""Several directories: the contract holds, drives share the load, and a lost one loses only its blocks."""

from __future__ import annotations

import itertools
import shutil
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tigrismount.cache import datafile, kept
from tigrismount.cache.base import BlockCache
from tigrismount.cache.disk import DiskBlockCache
from tigrismount.cache.options import DiskCacheConfig
from tigrismount.cache.spread import SpreadBlockCache
from tigrismount.errors import CacheError, ConfigError
from tigrismount.integrity.verdicts import Compared, Verdicts
from tigrismount.testing.cache_contract import BLOCK_BYTES, BlockCacheContract, check_all, fill, object_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tigrismount.core.types import ObjectId

OBJECTS = [object_id(f"model-{number}") for number in range(24)]


class Drives:
    """Some directories that stand for drives."""

    def __init__(self, path: Path, count: int = 3) -> None:
        ticks = itertools.count(1)  # so that recency has an order
        self.open_one = partial(DiskBlockCache.open, clock=lambda: float(next(ticks)))
        self.paths = [path / f"drive-{number}" for number in range(count)]
        self.configs = [
            DiskCacheConfig(
                directory=str(path), size_bytes=1 << 30, free_floor_fraction=0.0, block_bytes=BLOCK_BYTES, weight=1
            )
            for path in self.paths
        ]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[SpreadBlockCache]:
        cache = await SpreadBlockCache.open(self.configs, self.open_one, store_id="test")
        async with trio.open_nursery() as nursery:
            await nursery.start(cache.run)
            yield cache
            nursery.cancel_scope.cancel()
        await cache.aclose()

    def files(self) -> list[int]:
        return [len(list(path.glob("objects/*/*"))) for path in self.paths]


@pytest.fixture
def drives(tmp_path: Path) -> Drives:
    return Drives(tmp_path)


class TestSpreadBlockCache(BlockCacheContract):
    """All blocks of one version are in one directory, so with the other one tiny the bound is the large one's."""

    @pytest.fixture(autouse=True)
    def _drives(self, tmp_path: Path) -> None:
        self.drives = Drives(tmp_path, 2)
        self.drives.configs[0] = replace(self.drives.configs[0], weight=1 << 60)

    @asynccontextmanager
    async def open_cache(self, *, capacity_bytes: int = 1 << 30) -> AsyncIterator[BlockCache]:
        first, second = self.drives.configs
        self.drives.configs = [replace(first, size_bytes=capacity_bytes), replace(second, size_bytes=0)]
        async with self.drives.open() as cache:
            yield cache

    def damage(self, cache: BlockCache, obj: ObjectId, index: int) -> None:
        (path,) = self.drives.paths[0].glob("objects/*/*")
        with path.open("r+b") as file:
            file.seek(index * BLOCK_BYTES + 4711)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1]))


async def test_every_drive_gets_its_share_and_is_found_again(drives: Drives) -> None:
    async with drives.open() as cache:
        for obj in OBJECTS:
            assert await fill(cache, obj) == 4
        statistics = cache.statistics()
        assert (statistics.objects_cached, statistics.blocks_written) == (24, 96)
    assert all(drives.files())
    assert sum(drives.files()) == 24
    drives.configs.reverse()  # the order of flags does not matter
    async with drives.open() as cache:
        assert [await check_all(cache, obj) for obj in OBJECTS] == [4] * 24


async def test_lost_drive_loses_only_its_blocks(drives: Drives, caplog: pytest.LogCaptureFixture) -> None:
    """Gone at a start: its versions are cached elsewhere; back again: it has what it had."""
    async with drives.open() as cache:
        for obj in OBJECTS:
            await fill(cache, obj)
    lost = drives.paths[1]
    had = drives.files()
    lost.rename(lost.with_name("away"))
    lost.touch()  # no directory
    async with drives.open() as cache:
        found = [await check_all(cache, obj) for obj in OBJECTS]
        assert sorted(found) == [0] * had[1] + [4] * (24 - had[1])
        assert f"{lost}: " in cache.statistics().degraded
        for obj in OBJECTS:
            assert await fill(cache, obj) == 4
    assert sum(drives.files()) == 24
    assert "going on without a part of the disk cache" in caplog.text
    lost.unlink()
    lost.with_name("away").rename(lost)
    async with drives.open() as cache:
        assert cache.statistics().degraded == ""
        assert [await check_all(cache, obj) for obj in OBJECTS] == [4] * 24


async def test_all_drives_lost_is_the_first_ones_fault(drives: Drives) -> None:
    for path in drives.paths:
        path.touch()
    with pytest.raises(ConfigError, match="drive-0 is not a directory"):
        await SpreadBlockCache.open(drives.configs, store_id="test")


async def test_drive_that_fails_later_is_passed_over(drives: Drives) -> None:
    """What is opened from then on goes to the next in order; what others hold stays readable."""
    async with drives.open() as cache:
        for obj in OBJECTS[:12]:
            await fill(cache, obj)
        shutil.rmtree(drives.paths[0] / "objects")
        (drives.paths[0] / "objects").touch()
        for obj in OBJECTS[12:]:
            await fill(cache, obj)
        assert "drive-0: " in cache.statistics().degraded
        health = cache._caches[str(drives.paths[0])]._health
        health._next_try_s = 0  # as after its pause
        with pytest.raises(FileExistsError):  # the trial is made where the blocks would go
            await health.recheck()
        assert [await fill(cache, obj) for obj in OBJECTS] == [4] * 24
        assert await cache.records.put("orders", b"a", b"1")
        assert await cache.records.items("orders") == [(b"a", b"1")]


async def test_small_records_are_in_the_first_drive(drives: Drives) -> None:
    async with drives.open() as cache:
        await cache.records.put("orders", b"a", b"1")
    drives.configs = drives.configs[:1]
    async with drives.open() as cache:
        assert await cache.records.get("orders", b"a") == b"1"


async def test_a_read_that_hangs_on_one_drive_keeps_none_on_another(
    drives: Drives, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has threads of its own, and a handle names its drive, by which the block store keeps them apart."""
    async with drives.open() as cache:
        handles = {}
        for obj in OBJECTS:
            await fill(cache, obj)
            handle = await cache.open_object(obj)
            if handles.setdefault(handle.drive, (obj, handle))[0] is not obj:
                handle.close()
        assert sorted(handles) == sorted(map(str, drives.paths))
        hung, read = threading.Event(), datafile.DataFile.read

        def read_hangs(file: datafile.DataFile, offset: int, buffer: memoryview, length_bytes: int) -> None:
            if file._path.startswith(f"{drives.paths[0]}/"):
                hung.wait(30)
            read(file, offset, buffer, length_bytes)

        monkeypatch.setattr(datafile.DataFile, "read", read_hangs)
        async with trio.open_nursery() as nursery:
            for _ in range(40):  # more than there are threads for one
                nursery.start_soon(check_all, cache, handles[str(drives.paths[0])][0])
            with trio.fail_after(20):
                for path in drives.paths[1:]:
                    await check_all(cache, handles[str(path)][0])
            hung.set()
        for _, handle in handles.values():
            handle.close()


async def test_no_version_may_have_more_than_one_directory_holds(drives: Drives) -> None:
    """Mutation: filling the cache with a larger one throws out all that its drive has, and fails in the end."""
    drives.configs = [
        replace(config, size_bytes=(2 + number) * BLOCK_BYTES) for number, config in enumerate(drives.configs)
    ]
    async with drives.open() as cache:
        statistics = cache.statistics()
        assert (statistics.capacity_bytes, statistics.largest_bytes) == (9 * BLOCK_BYTES, 4 * BLOCK_BYTES)


@pytest.mark.parametrize("trouble", ["another order", "a drive is lost"])
async def test_what_was_found_wrong_is_refused_whatever_drive_is_the_first(drives: Drives, trouble: str) -> None:
    """Mutation: its blocks lie on a drive that is there, and nobody compares them again: wrong bytes are served."""
    obj, compared = OBJECTS[0], [Compared("sha256", "00", "11", "its name")]
    async with drives.open() as cache:
        await Verdicts(cache.records, "test").keep(obj, compared)
    if trouble == "another order":
        drives.configs.reverse()
    else:
        shutil.rmtree(drives.paths[0])
        drives.paths[0].touch()  # no directory
    async with drives.open() as cache:
        verdicts = Verdicts(cache.records, "test")
        await verdicts.load()
        assert list(verdicts.refused) == [obj]
        assert await verdicts.find(obj) == compared
        await verdicts.forget(obj)
        await verdicts.load()
        assert not verdicts.refused


async def test_what_was_found_wrong_is_refused_where_a_drive_fails_at_the_first_look(
    drives: Drives, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it was looked again, a minute later, wrong bytes would be served that another drive's records name."""
    obj, compared = OBJECTS[0], [Compared("sha256", "00", "11", "its name")]
    async with drives.open() as cache:
        await Verdicts(cache.records, "test").keep(obj, compared)
    async with drives.open() as cache:
        last = cache._caches[str(drives.paths[-1])]

        def fail(*_: object) -> None:
            raise CacheError("input/output error")

        monkeypatch.setattr(last.records._tables, "items", fail)
        verdicts = Verdicts(cache.records, "test")
        await verdicts.load()
        assert list(verdicts.refused) == [obj]
        for one in cache._caches.values():
            monkeypatch.setattr(one.records._tables, "items", fail)
        await verdicts.load()
        assert list(verdicts.refused) == [obj], "and a disk that fails takes nothing back"


@pytest.mark.parametrize("found_first", ["wrong", "right"])
async def test_of_two_verdicts_the_later_one_counts_where_a_drive_was_away(drives: Drives, found_first: str) -> None:
    """Mutation: what was corrected, looked at again and read since is an EIO once a drive is back."""
    obj = OBJECTS[0]
    found = {"wrong": "11", "right": "00"}
    sums = {name: [Compared("sha256", "00", value, "its name")] for name, value in found.items()}
    async with drives.open() as cache:
        await Verdicts(cache.records, "test", clock=lambda: 1.0).keep(obj, sums.pop(found_first))
    away = drives.paths[0].rename(drives.paths[0].with_name("away"))
    drives.paths[0].touch()  # no directory
    async with drives.open() as cache:
        await Verdicts(cache.records, "test", clock=lambda: 2.0).keep(obj, *sums.values())
    drives.paths[0].unlink()
    away.rename(drives.paths[0])
    async with drives.open() as cache:
        verdicts = Verdicts(cache.records, "test")
        await verdicts.load()
        assert (obj in verdicts.refused) == (found_first == "right")


async def test_what_was_found_wrong_is_refused_while_the_one_drive_that_knows_it_takes_nothing(drives: Drives) -> None:
    """It was the only drive then, and is full now: what it has is read, and so must be refused.

    Mutation: verdicts are asked of drives that work alone, and at the next look wrong bytes are served.
    """
    obj, configs = OBJECTS[0], drives.configs
    drives.configs = configs[:1]
    async with drives.open() as cache:
        await Verdicts(cache.records, "test").keep(obj, [Compared("sha256", "00", "11", "its name")])
    drives.configs = configs
    async with drives.open() as cache:
        verdicts = Verdicts(cache.records, "test")
        await verdicts.load()
        cache._caches[str(drives.paths[0])]._health.fail(CacheError("No space left on device"))
        await verdicts.load()
        assert list(verdicts.refused) == [obj]


async def test_what_is_found_wrong_while_a_drive_takes_nothing_is_refused_where_others_are_lost(drives: Drives) -> None:
    """Mutation: only drives that worked then know of it."""
    obj = OBJECTS[0]
    async with drives.open() as cache:
        cache._caches[str(drives.paths[0])]._health.fail(CacheError("No space left on device"))
        await Verdicts(cache.records, "test").keep(obj, [Compared("sha256", "00", "11", "its name")])
    drives.configs = drives.configs[:1]
    async with drives.open() as cache:
        verdicts = Verdicts(cache.records, "test")
        await verdicts.load()
        assert list(verdicts.refused) == [obj]


@pytest.mark.parametrize("found_right", [True, False])
async def test_what_is_taken_back_while_a_drive_takes_nothing_does_not_come_back(
    drives: Drives, found_right: bool
) -> None:
    """Mutation: once the drive works again the file is an EIO again, for as long as nobody looks once more."""
    obj = OBJECTS[0]
    async with drives.open() as cache:
        verdicts = Verdicts(cache.records, "test")
        await verdicts.keep(obj, [Compared("sha256", "00", "11", "its name")])
        health = cache._caches[str(drives.paths[0])]._health
        health.fail(CacheError("No space left on device"))
        if found_right:
            await verdicts.keep(obj, [Compared("sha256", "11", "11", "its name")])
        else:
            await verdicts.forget(obj)
        health.succeed()
        await verdicts.load()
        assert not verdicts.refused


async def test_a_version_goes_to_a_drive_that_can_hold_it(drives: Drives) -> None:
    """Mutation: where its name says, it throws out all that is there, is never whole, and 'warm' fails for it."""
    drives.configs = [
        replace(config, size_bytes=(2 + number) * BLOCK_BYTES) for number, config in enumerate(drives.configs)
    ]
    async with drives.open() as cache:
        assert [await fill(cache, obj) for obj in OBJECTS] == [4] * 24
    assert drives.files() == [0, 0, 1]


RIGHT, WRONG = [Compared("sha256", "11", "11", "its name")], [Compared("sha256", "00", "11", "its name")]


async def test_a_drive_that_hangs_is_asked_for_verdicts_once_in_a_while(
    drives: Drives, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: who asks for a checksum waits ten seconds for it each time, and who verifies a file twenty."""
    hung, asked = threading.Event(), list[str]()

    def hangs(table: str, *_: object) -> None:
        asked.append(table)
        hung.wait(5)
        raise CacheError("input/output error")

    async with drives.open() as cache:
        first = cache._caches[str(drives.paths[0])]
        verdicts = Verdicts(cache.records, "test")
        with monkeypatch.context() as hanging:
            hanging.setattr(kept, "_PATIENCE_S", 0.2)
            for call in ("items", "put", "delete"):
                hanging.setattr(first.records._tables, call, hangs)
            await verdicts.load()
            for obj in OBJECTS[:4]:
                await verdicts.keep(obj, RIGHT)
                assert await verdicts.find(obj) == RIGHT
            assert len(asked) == 1
            first.records._silent_until_s = 0.0  # as after a while
            await verdicts.load()
            assert len(asked) == 2
        hung.set()


async def keep_while_one_is_away(drives: Drives, obj: ObjectId, first: list[Compared], then: list[Compared]) -> None:
    """Keep one verdict in all drives, and another one in all but the first, which is back afterwards."""
    async with drives.open() as cache:
        await Verdicts(cache.records, "test", clock=lambda: 1000.0).keep(obj, first)
    lost = drives.paths[0]
    lost.rename(lost.with_name("away"))
    lost.touch()  # no directory
    async with drives.open() as cache:
        verdicts = Verdicts(cache.records, "test", clock=lambda: 2000.0)
        await verdicts.load()
        await (verdicts.keep(obj, then) if then else verdicts.forget(obj))
    lost.unlink()
    lost.with_name("away").rename(lost)


@pytest.mark.parametrize("then", [RIGHT, []])
async def test_a_drive_that_was_away_brings_no_refusal_back(drives: Drives, then: list[Compared]) -> None:
    """Mutation: what was checked meanwhile is an EIO again, until somebody checks it once more."""
    await keep_while_one_is_away(drives, OBJECTS[0], WRONG, then)
    async with drives.open() as cache:
        verdicts = Verdicts(cache.records, "test", clock=lambda: 3000.0)
        await verdicts.load()
        assert not verdicts.refused
        assert await verdicts.find(OBJECTS[0]) == (then or None)
        await verdicts.keep(OBJECTS[0], WRONG)
        other = Verdicts(cache.records, "test")
        await other.load()
        assert list(other.refused) == [OBJECTS[0]]


async def test_a_drive_that_was_away_takes_no_refusal_back(drives: Drives) -> None:
    await keep_while_one_is_away(drives, OBJECTS[0], RIGHT, WRONG)
    async with drives.open() as cache:
        verdicts = Verdicts(cache.records, "test")
        await verdicts.load()
        assert list(verdicts.refused) == [OBJECTS[0]]
        assert await verdicts.find(OBJECTS[0]) == WRONG


async def test_a_refusal_that_one_drive_did_not_take_is_taken_back_by_another_daemon(
    drives: Drives, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: this daemon alone goes on with its EIO, whoever has checked the model since."""

    def fail(*_: object) -> None:
        raise CacheError("input/output error")

    async with drives.open() as cache:
        last = cache._caches[str(drives.paths[-1])]
        verdicts = Verdicts(cache.records, "test", clock=lambda: 1000.0)
        with monkeypatch.context() as failing:
            failing.setattr(last.records._tables, "put", fail)
            await verdicts.keep(OBJECTS[0], WRONG)
        await verdicts.load()
        assert list(verdicts.refused) == [OBJECTS[0]]
        await Verdicts(cache.records, "test", clock=lambda: 2000.0).keep(OBJECTS[0], RIGHT)
        await verdicts.load()
        assert not verdicts.refused
