"""Work from outside, beside daemons: every planted fault is found, what is in use stays, pins hold."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tigrismount.cache import datafile
from tigrismount.cache.access import open_cache_access
from tigrismount.cache.index import CacheIndex
from tigrismount.cache.records import object_digest
from tigrismount.cache.storage import StoredVersion
from tigrismount.cache.verify import verify_object
from tigrismount.errors import CacheCorruptError, CacheError
from tigrismount.testing.cache_contract import BLOCK_BYTES, check_all, fill, object_id, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.cache.records import BlockRecord
    from tigrismount.cache.verify import ObjectVerified

OBJECTS = [object_id(f"dir/model-{number}", blocks=3.5) for number in range(6)]
VICTIM = OBJECTS[2]
BYTES = VICTIM.size_bytes


def data_path(place: Any, obj: Any) -> Path:
    name = object_digest("test", obj).hex()
    return place.path / "objects" / name[:2] / name


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def swap(place: Any) -> None:
    one, other = data_path(place, VICTIM), data_path(place, OBJECTS[3])
    one.rename(place.path / "spare")
    other.rename(one)
    (place.path / "spare").rename(other)


def change_index(place: Any, work: Callable[[CacheIndex, Any], None]) -> None:
    index = CacheIndex(str(place.path / "index"))
    index.write(lambda txn: work(index, txn))
    index.sync()
    index.close()


def swap_records(index: CacheIndex, txn: Any) -> None:
    one, other = object_digest("test", VICTIM), object_digest("test", OBJECTS[3])
    objects = index._objects
    first, second = bytes(txn.get(one, db=objects)), bytes(txn.get(other, db=objects))
    txn.put(one, second, db=objects)
    txn.put(other, first, db=objects)


FAULTS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "nothing": (lambda _: None, 0),
    "a bit in the first block": (lambda place: flip(data_path(place, VICTIM), 0), 1),
    "a bit in the last byte": (lambda place: flip(data_path(place, VICTIM), BYTES - 1), 1),
    "a bit in every block": (
        lambda place: [flip(data_path(place, VICTIM), index * BLOCK_BYTES + 99) for index in range(4)],
        4,
    ),
    "cut in the middle": (lambda place: os.truncate(data_path(place, VICTIM), BLOCK_BYTES * 3 // 2), 3),
    "cut to nothing": (lambda place: os.truncate(data_path(place, VICTIM), 0), 4),
    "zeros": (
        lambda place: (os.truncate(data_path(place, VICTIM), 0), os.truncate(data_path(place, VICTIM), BYTES)),
        4,
    ),
    "removed": (lambda place: data_path(place, VICTIM).unlink(), 1),
    "a directory": (lambda place: (data_path(place, VICTIM).unlink(), data_path(place, VICTIM).mkdir()), 1),
    "two files swapped": (swap, 8),
    "two records swapped": (lambda place: change_index(place, swap_records), 2),
}


def verify(place: Any) -> list[ObjectVerified]:
    with open_cache_access(str(place.path), write=True) as access:
        return list(access.verify())


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_planted_fault_is_found_and_the_rest_is_right(place: Any, fault: str) -> None:
    """Mutation: with the checksum compared in ``read`` only (not in ``compare``) all but the missing files pass."""
    async with place.open() as cache:
        for obj in OBJECTS:
            await fill(cache, obj)
    plant, count = FAULTS[fault]
    plant(place)
    results = verify(place)
    assert len(results) == 6
    assert sum(len(result.faults) for result in results) == count
    assert all(not result.faults for result in results if result.report.key[-1] not in "23")
    assert not any(result.faults for result in verify(place))
    async with place.open(verify="off") as cache:  # what it left is right without another look
        for obj in OBJECTS:
            assert await check_all(cache, obj) >= 0
            assert await fill(cache, obj) == 4 or fault == "a directory"


async def test_random_faults_are_all_found(place: Any) -> None:
    """Any set of blocks damaged anywhere: exactly those are reported."""
    async with place.open() as cache:
        for obj in OBJECTS:
            await fill(cache, obj)
    draw = random.Random(7)
    for _ in range(2):
        damaged = {(draw.randrange(6), draw.randrange(4)) for _ in range(5)}
        for number, index in damaged:
            obj = OBJECTS[number]
            flip(
                data_path(place, obj),
                draw.randrange(index * BLOCK_BYTES, min(obj.size_bytes, (index + 1) * BLOCK_BYTES)),
            )
        found = {(int(r.report.key[-1]), fault.index) for r in verify(place) for fault in r.faults}
        assert found == damaged
        async with place.open() as cache:
            for obj in OBJECTS:
                assert await fill(cache, obj) == 4


async def test_verify_tells_its_progress_and_sees_strays(place: Any) -> None:
    async with place.open() as cache:
        for obj in OBJECTS:
            await fill(cache, obj)
    stray = place.path / "objects" / "ab" / ("ab" * 32)
    stray.parent.mkdir(exist_ok=True)
    stray.touch()
    steps: list[int] = []
    with open_cache_access(str(place.path), write=True) as access:
        ahead = sum(report.cached_bytes for report in access.objects("bucket/dir/model-1"))
        assert ahead == BYTES
        (result,) = access.verify("bucket/dir/model-1", on_progress=steps.append)
        assert (result.checked_bytes, sum(steps), len(steps)) == (BYTES, BYTES, 4)
        assert access.strays() == [str(stray)]


async def test_block_that_is_recorded_while_its_version_is_verified_is_no_fault(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: records that are read after it was looked which of them fit are told as damage, and forgotten."""
    async with place.open() as cache:
        handle = await cache.open_object(VICTIM)
        assert await write(handle, VICTIM, 0)
        load = StoredVersion.load

        def load_and_write(storage: StoredVersion) -> dict[int, BlockRecord]:
            found = load(storage)
            assert trio.from_thread.run(write, handle, VICTIM, 1)
            return found

        monkeypatch.setattr(StoredVersion, "load", load_and_write)
        index, trust = cache._index, cache._versions._trust
        ((digest, record),) = index.objects().items()
        verify = partial(verify_object, cache._directory, index, digest, record, trust, lambda _: None)
        found = await trio.to_thread.run_sync(verify)
        assert (found.checked_bytes, found.faults) == (BLOCK_BYTES, ())
        assert index.block(digest, 1, BLOCK_BYTES) is not None
        handle.close()


async def test_a_version_that_is_locked_for_long_is_left_out(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon evicts it, or punches holes, on a slow disk. Mutation: that counts as damage, and all is forgotten."""
    monkeypatch.setattr(datafile, "_OPEN_ATTEMPTS", 2)
    async with place.open() as cache:
        await fill(cache, VICTIM)
    evicting = os.open(data_path(place, VICTIM), os.O_RDONLY)
    fcntl.flock(evicting, fcntl.LOCK_EX)
    with open_cache_access(str(place.path), write=True) as access:
        assert list(access.verify()) == []
    os.close(evicting)
    async with place.open() as cache:
        assert await check_all(cache, VICTIM) == 4


async def test_nothing_is_done_to_a_cache_that_took_the_place_of_the_one_that_was_opened(place: Any) -> None:
    """A daemon has set it aside, or somebody has removed it.

    Mutation: what the other cache holds is evicted by the records of the old one; and is told as damage.
    """
    async with place.open() as cache:
        await fill(cache, VICTIM)
    with open_cache_access(str(place.path), write=True) as access:
        place.path.rename(place.path.with_name("old"))
        shutil.copytree(place.path.with_name("old"), place.path)
        with pytest.raises(CacheError, match="was removed while in use"):
            access.evict("bucket/")
        with pytest.raises(CacheError, match="was removed while in use"):
            list(access.verify())
    async with place.open() as cache:
        assert await check_all(cache, VICTIM) == 4


async def test_what_a_daemon_has_open_is_verified_and_not_evicted(place: Any, children: Any) -> None:
    async with place.open() as cache:
        for obj in OBJECTS[:2]:
            await fill(cache, obj)
        await fill(cache, object_id("held"))
    child = children("hold", "held")
    assert child.stdout.readline() == "4\n"
    with open_cache_access(str(place.path), write=True) as access:
        assert [r.checked_bytes for r in access.verify("bucket/held")] == [4 * BLOCK_BYTES]
        access.pin("bucket/dir/model-0")
        evicted = access.evict("bucket/")
        assert (evicted.objects, evicted.freed_bytes) == (1, BYTES)
        assert [report.key for report in evicted.in_use] == ["held"]
        assert [report.key for report in evicted.pinned] == ["dir/model-0"]
        assert [(report.key, report.is_pinned) for report in access.objects()] == [
            ("dir/model-0", True),
            ("held", False),
        ]
        assert access.clear().objects == 1
        assert access.pinned() == ["bucket/dir/model-0"]
        assert access.unpin("bucket/dir/model-0", "never") == 1
        assert access.pinned() == []


async def test_a_file_that_cannot_be_opened_keeps_no_other_from_being_cleared(place: Any, tmp_path: Path) -> None:
    """Mutation: what comes behind it, in the order of digests, cannot be cleared."""
    async with place.open() as cache:
        for name in ("one", "two", "three"):
            await fill(cache, object_id(name))
    first, *others = place.data_files()
    first.rename(tmp_path / "moved")
    first.symlink_to(tmp_path / "moved")
    with (
        pytest.raises(CacheError, match="Too many levels"),
        open_cache_access(str(place.path), write=True) as access,
    ):
        access.clear()
    assert len(others) == 2
    assert place.data_files() == [first]


async def test_pinned_prefixes_survive_a_full_cache_and_go_once_unpinned(place: Any) -> None:
    """Pins are in the index, so each eviction sees them. Mutation: without ``busy |= pinned`` it goes."""
    pinned, others = object_id("keep/a", blocks=2), [object_id(f"other-{n}", blocks=2) for n in range(6)]
    place.config = replace(place.config, size_bytes=6 * BLOCK_BYTES)
    async with place.open() as cache:
        await fill(cache, pinned)
    with open_cache_access(str(place.path), write=True) as access:
        assert access.pin("bucket/keep/")
    async with place.open() as cache:
        for obj in others:
            assert await fill(cache, obj) == 2
        assert await check_all(cache, pinned) == 2
        assert cache.statistics().bytes_cached <= 6 * BLOCK_BYTES
    with open_cache_access(str(place.path), write=True) as access:
        assert access.unpin("bucket/keep/") == 1
    async with place.open() as cache:
        for obj in others:
            await fill(cache, obj)
        assert await check_all(cache, pinned) == 0


async def test_cleared_cache_keeps_pins_and_no_other_record(place: Any) -> None:
    async with place.open() as cache:
        await fill(cache, VICTIM)
        await cache.records.put("orders", b"a", b"1")
        await cache.records.put("pins", b"bucket/x", b"")
    with open_cache_access(str(place.path), write=True) as access:
        assert access.clear().freed_bytes == BYTES
        assert access.objects() == []
    async with place.open() as cache:
        assert await cache.records.get("orders", b"a") is None
        assert await cache.records.get("pins", b"bucket/x") == b""
        assert await cache.records.put("orders", b"b", b"1")
        assert cache.statistics().bytes_cached == 0


@pytest.mark.parametrize("write", [False, True])
async def test_what_is_no_cache_is_refused(place: Any, tmp_path: Path, write: bool) -> None:
    with pytest.raises(CacheError, match="not a tigrismount cache"), open_cache_access(str(tmp_path), write=write):
        pass
    async with place.open() as cache:
        await fill(cache, VICTIM)
    shutil.copy("/bin/true", place.path / "index/data.mdb")
    with pytest.raises(CacheCorruptError, match="is damaged"), open_cache_access(str(place.path), write=write):
        pass
