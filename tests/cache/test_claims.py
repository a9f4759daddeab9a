"""Claims across processes: one fetches, the others wait for it, and nobody waits for the dead, the hung or the full."""

from __future__ import annotations

import fcntl
import signal
import struct
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tigrismount.cache import claims
from tigrismount.cache.base import Claim
from tigrismount.cache.datafile import DataFile
from tigrismount.cache.reclaim import evict_version
from tigrismount.cache.storage import StoredVersion
from tigrismount.testing.cache_contract import BLOCK_BYTES, aligned_buffer, check, fill, object_id, write

if TYPE_CHECKING:
    from collections.abc import Iterator

OBJ = object_id("model")


def claimer(children: Any) -> Any:
    child = children("claim", "model")
    assert child.stdout.readline() == "OURS 2\n"
    return child


async def test_claimed_block_is_elsewhere_until_it_is_on_disk(place: Any, children: Any) -> None:
    """Whoever gets the lock sees the record. Mutation: when the child unclaims before it writes, it is OURS."""
    async with place.open() as cache:
        child = claimer(children)
        handle = await cache.open_object(OBJ)
        assert await handle.claim([0]) == (Claim.ELSEWHERE, 1)
        assert await handle.claim([1, 2]) == (Claim.ELSEWHERE, 1)
        assert await handle.claim([2, 3, 1, 0]) == (Claim.OURS, 2)
        child.stdin.write("\n")
        child.stdin.flush()
        assert await handle.wait_claim(0) is Claim.ON_DISK
        assert handle.has(0)
        await check(handle, OBJ, 0)
        assert await handle.wait_claim(1) is Claim.OURS
        assert await handle.claim([2, 3]) == (Claim.OURS, 2)  # ours already
        handle.close()


async def test_nobody_waits_for_the_dead(place: Any, children: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_WAIT_S", 1000.0)
    async with place.open() as cache:
        child = claimer(children)
        handle = await cache.open_object(OBJ)
        assert await handle.claim([0]) == (Claim.ELSEWHERE, 1)
        child.kill()
        child.wait()
        with trio.fail_after(30):
            assert await handle.wait_claim(0) is Claim.OURS
        assert not handle.has(0)
        handle.close()


async def test_hung_holder_is_waited_for_once_and_not_long(
    place: Any, children: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_WAIT_S", 0.2)
    async with place.open() as cache:
        child = claimer(children)
        child.send_signal(signal.SIGSTOP)
        handle = await cache.open_object(OBJ)
        assert await handle.wait_claim(0) is Claim.OURS
        monkeypatch.setattr(claims, "_WAIT_S", 1000.0)
        with trio.fail_after(30):
            assert await handle.wait_claim(1) is Claim.OURS
        handle.close()


async def test_cache_that_takes_nothing_claims_nothing(place: Any, children: Any) -> None:
    """What will never be on the disk is not worth waiting for: everybody fetches it at once."""
    held = object_id("held")
    async with place.open(size_bytes=4 * BLOCK_BYTES) as cache:
        await fill(cache, held)
        its = await cache.open_object(held)
        handle = await cache.open_object(OBJ)
        claimer(children)
        assert await handle.claim([0]) == (Claim.ELSEWHERE, 1)
        assert not await write(handle, OBJ, 3)  # full of what is open
        assert await handle.claim([0]) == (Claim.OURS, 1)
        its.close()
        handle.close()


@pytest.fixture
def locks() -> Iterator[list[int]]:
    """Return the first bytes of the ranges that this process locks from now on."""
    seen: list[int] = []
    watching = True

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "fcntl.fcntl" and arguments[1] == fcntl.F_OFD_SETLK:
            kind, _, start, *_ = struct.unpack("hhqqi4x", arguments[2])
            if kind == fcntl.F_WRLCK:
                seen.append(start)

    sys.addaudithook(note)  # for good: Python has no way to take one back
    yield seen
    watching = False


async def test_the_parts_of_a_block_claim_it_once(place: Any, locks: list[int]) -> None:
    """Also at the same time. Mutations: without the wait five are locked, without what is known one for each call."""
    async with place.open() as cache:
        handle = await cache.open_object(OBJ)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(handle.claim, [0])
        assert locks == [0]
        assert await handle.claim([0]) == (Claim.OURS, 1)
        assert locks == [0]
        assert await handle.claim([0, 1]) == (Claim.OURS, 2)
        assert sorted(locks) == [0, 0, BLOCK_BYTES]
        handle.unclaim(0)
        assert await handle.claim([0]) == (Claim.OURS, 1)
        assert sorted(locks) == [0, 0, 0, BLOCK_BYTES]
        handle.close()


async def test_the_parts_of_a_block_that_is_fetched_elsewhere_all_hear_so(place: Any, children: Any) -> None:
    async with place.open() as cache:
        claimer(children)
        handle = await cache.open_object(OBJ)
        answers: list[tuple[Claim, int]] = []

        async def ask() -> None:
            answers.append(await handle.claim([0]))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert answers == [(Claim.ELSEWHERE, 1)] * 5
        handle.close()


@pytest.mark.parametrize("verify", ["once", "off"])
async def test_a_block_of_another_size_is_not_taken_for_ours(place: Any, verify: str) -> None:
    """A daemon with larger blocks was faster; its last block is as long as ours with the same number, which is a hole.

    Mutation: taken for ours it fails its checksum and theirs is dropped; and with "off" the hole is read.
    """
    obj = object_id("model", blocks=3)
    async with place.open(verify=verify) as cache:
        handle = await cache.open_object(obj)
        ((digest, version),) = cache._versions._open.items()
        record = replace(version.storage.record, block_bytes=2 * BLOCK_BYTES)
        theirs = StoredVersion(cache._directory, cache._index, digest, record, cache._versions._trust)
        await trio.to_thread.run_sync(theirs.write, 1, aligned_buffer(BLOCK_BYTES), BLOCK_BYTES, 1)
        assert await handle.claim([1]) == (Claim.OURS, 1)
        assert not handle.has(1)
        theirs.file.close()
        handle.close()


async def test_a_disk_that_hung_at_a_claim_keeps_nothing_from_eviction(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what was being claimed nor what waited for its turn. Mutation: their files stay open for good."""
    names = [object_id(f"model-{number}") for number in range(12)]
    async with place.open() as cache:
        hung = threading.Event()
        try_claim = DataFile.try_claim

        def hangs(file: DataFile, start: int, length_bytes: int) -> bool:
            hung.wait(60)
            return try_claim(file, start, length_bytes)

        handles = [await cache.open_object(obj) for obj in names]
        with monkeypatch.context() as while_it_hangs:
            while_it_hangs.setattr(claims, "_ANSWER_S", 0.1)
            while_it_hangs.setattr(DataFile, "try_claim", hangs)
            async with trio.open_nursery() as nursery:
                for handle in handles:
                    nursery.start_soon(handle.claim, [0])
        cache._health.succeed()
        assert all([await write(handle, obj, 0) for handle, obj in zip(handles, names, strict=True)])
        storages = [version.storage for version in cache._versions._open.values()]
        for handle in handles:
            handle.close()
        assert any(storage.file.inode for storage in storages), "a thread may still use it"
        hung.set()
        with trio.fail_after(30):
            await place.until(lambda: not any(storage.file.inode for storage in storages))


async def test_a_version_kept_in_blocks_of_another_size_is_not_written_to(place: Any) -> None:
    """What we fetch of it is not recorded. Mutation: it is written all the same, and lies there uncounted.

    Nor is anything claimed: mutation: their claim is waited for, of a block that will not be one of ours.
    """
    obj = object_id("model", blocks=4)
    async with place.open() as cache:
        handle = await cache.open_object(obj)
        ((digest, version),) = cache._versions._open.items()
        record = replace(version.storage.record, block_bytes=2 * BLOCK_BYTES)
        theirs = StoredVersion(cache._directory, cache._index, digest, record, cache._versions._trust)
        await trio.to_thread.run_sync(theirs.write, 0, aligned_buffer(2 * BLOCK_BYTES), 2 * BLOCK_BYTES, 1)
        assert not handle.kept_otherwise
        assert [await write(handle, obj, index) for index in range(4)] == [False] * 4
        assert handle.kept_otherwise
        (path,) = place.data_files()
        assert path.stat().st_blocks * 512 == cache._index.count().bytes_cached == 2 * BLOCK_BYTES
        assert await trio.to_thread.run_sync(theirs.claim, [1]) == (Claim.OURS, {}, 1)
        assert await handle.claim([2, 3]) == (Claim.OURS, 2)
        assert cache._index.reserved_bytes() == 0
        theirs.file.close()
        handle.close()


@pytest.mark.parametrize("verify", ["once", "off"])
async def test_a_version_made_anew_in_another_size_while_it_is_opened_has_that_size(
    place: Any, monkeypatch: pytest.MonkeyPatch, verify: str
) -> None:
    """Its last block was as long as the new one with the same number, and begins where there is a hole now.

    Mutation: with the size that was read before the file was open, a good block of theirs is dropped; and with "off"
    the hole is read.
    """
    obj = object_id("model", blocks=3)
    async with place.open(verify=verify) as cache:
        index = cache._index
        closed = await cache.open_object(obj)
        ((digest, version),) = cache._versions._open.items()
        small, trust = version.storage.record, cache._versions._trust
        closed.close()

        def make(block_bytes: int) -> None:
            record = replace(small, block_bytes=block_bytes)
            theirs = StoredVersion(cache._directory, index, digest, record, trust)
            buffer = aligned_buffer(BLOCK_BYTES)
            buffer[:] = b"x" * BLOCK_BYTES
            assert theirs.write(1, buffer, BLOCK_BYTES, 1) is not None
            theirs.file.close()

        await trio.to_thread.run_sync(make, 2 * BLOCK_BYTES)
        look = index.object

        def look_and_make_anew(digest: bytes) -> Any:
            found = look(digest)
            monkeypatch.setattr(index, "object", look)
            assert evict_version(cache._directory, index, digest)
            make(BLOCK_BYTES)
            return found

        monkeypatch.setattr(index, "object", look_and_make_anew)
        handle = await cache.open_object(obj)
        assert (handle.block_bytes, handle.count()) == (BLOCK_BYTES, 1)
        buffer = aligned_buffer(BLOCK_BYTES)
        await handle.read_block(1, buffer)
        assert bytes(buffer) == b"x" * BLOCK_BYTES
        handle.close()


async def test_claims_end_with_the_last_handle(place: Any, children: Any) -> None:
    async with place.open() as cache:
        handle = await cache.open_object(OBJ)
        assert await handle.claim([0, 1, 2, 3]) == (Claim.OURS, 4)
        handle.close()
        claimer(children)


async def test_claimed_version_that_was_never_written_leaves_no_record(place: Any) -> None:
    async with place.open() as cache:
        handle = await cache.open_object(OBJ)
        await handle.claim([0])
        handle.close()
        assert cache.statistics().objects_cached == 0
    async with place.open() as cache:
        await place.until(lambda: not place.data_files())
        assert cache.statistics().objects_cached == 0
