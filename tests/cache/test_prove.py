"""Blocks that are compared with their checksums where they are: in the page cache of the data file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.cache.none import UncachedObject
from tigrismount.cache.storage import PIECE_BYTES, StoredVersion
from tigrismount.errors import CacheCorruptError, CacheError
from tigrismount.testing.cache_contract import (
    BLOCK_BYTES,
    check,
    check_all,
    fill,
    object_id,
    write,
)
from tigrismount.testing.waiting import no_threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OBJ = object_id("model", blocks=4.5)
LONG_BYTES = 4 * PIECE_BYTES
LONG = object_id("long", blocks=1.5 * LONG_BYTES // BLOCK_BYTES + 0.5)


class Opened:
    """A version and its file, as who proves it has them."""

    def __init__(self, cache: Any, handle: Any, fd: int) -> None:
        self.cache, self.handle, self.fd = cache, handle, fd

    async def prove(self, *indexes: int) -> None:
        for index in indexes:
            await self.handle.prove_block(index, self.fd)


@pytest.fixture
async def opened(place: Any) -> AsyncIterator[Opened]:
    """A version of which a new daemon knows no more than that it is there."""
    async with place.open() as cache:
        await fill(cache, OBJ)
    async with place.open() as cache:
        handle = await cache.open_object(OBJ)
        fd = await handle.open_file()
        yield Opened(cache, handle, fd)
        os.close(fd)
        handle.close()


async def test_what_was_compared_needs_no_other_look(opened: Opened) -> None:
    """Mutation: without ``note_verified`` nothing is ever proven."""
    assert opened.handle.unproven() == [0, 1, 2, 3, 4]
    await opened.prove(1, 4)
    assert opened.handle.unproven() == [0, 2, 3]
    assert (opened.handle.proven(4), opened.handle.proven(0)) == (True, False)
    await opened.prove(0, 2, 3)
    assert opened.handle.unproven() == []
    seen = opened.cache.statistics()
    assert (seen.blocks_read, seen.bytes_read, seen.corrupt_blocks) == (5, OBJ.size_bytes, 0)


async def test_who_opens_a_proven_file_looks_at_no_block_of_it(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: each open of a file of fifty thousand blocks keeps everybody else waiting for 11 ms."""
    await opened.prove(0, 1, 2, 3, 4)

    def look(*_: Any) -> bool:
        raise AssertionError("a block was looked at")

    monkeypatch.setattr(StoredVersion, "needs_check", look)
    assert opened.handle.unproven() == []
    assert opened.handle._version.storage.unproven("off") == []


async def test_what_needs_a_look_is_known_whatever_happens_to_blocks(place: Any, opened: Opened) -> None:
    cache, version = opened.cache, opened.handle._version

    def agree() -> None:
        storage = version.storage
        for verify in ("always", "once", "off"):
            walked = [index for index, block in storage.blocks.items() if storage.needs_check(index, block, verify)]
            assert storage.unproven(verify) == sorted(walked)
        assert storage.unsynced == {index for index, block in storage.blocks.items() if not block.synced}

    agree()
    await opened.prove(0, 2)
    agree()
    place.flip(BLOCK_BYTES)
    with pytest.raises(CacheCorruptError):
        await opened.prove(1)
    agree()
    assert await write(opened.handle, OBJ, 1)
    agree()
    cache._versions.note_lost(version.digest, 2, version.storage.blocks[2])
    agree()
    block = version.storage.blocks[3]
    cache._index.replace_blocks([(version.digest, 3, block, block._replace(epoch=block.epoch + 1, synced=False))])
    cache._index.drop_blocks(version.digest, [0])
    await opened.handle.refresh()
    agree()
    opened.handle.close()
    again = await cache.open_object(OBJ)
    version = again._version
    agree()
    assert version.storage.unproven("off") == [2, 3]
    await check(again, OBJ, 3)
    agree()
    again.close()


async def test_what_was_compared_stays_so_for_who_opens_the_version_next(opened: Opened) -> None:
    await opened.prove(0, 1, 2, 3, 4)
    opened.handle.close()
    again = await opened.cache.open_object(OBJ)
    assert again.unproven() == []
    again.close()


@pytest.mark.parametrize("index", [0, 2, 4])
@pytest.mark.parametrize("at", ["its first byte", "its last byte"])
async def test_a_flipped_bit_is_found_and_the_block_dropped(place: Any, opened: Opened, index: int, at: str) -> None:
    """Mutations: a digest of all pieces but the last; of the block's length from the start of the file."""
    last = min((index + 1) * BLOCK_BYTES, OBJ.size_bytes) - 1
    place.flip(index * BLOCK_BYTES if at == "its first byte" else last)
    with pytest.raises(CacheCorruptError):
        await opened.prove(index)
    assert opened.cache.statistics().corrupt_blocks == 1
    assert not opened.handle.has(index)
    assert opened.handle.unproven() is None
    with pytest.raises(CacheError, match="is not cached"):
        await opened.prove(index)
    others = [other for other in range(5) if other != index]
    await opened.prove(*others)
    assert all(map(opened.handle.proven, others))
    assert await write(opened.handle, OBJ, index)
    await opened.prove(index)
    assert opened.handle.unproven() == []


async def test_a_dropped_block_is_dropped_for_the_next_daemon_too(place: Any, opened: Opened) -> None:
    place.flip(BLOCK_BYTES)
    with pytest.raises(CacheCorruptError):
        await opened.prove(1)
    opened.handle.close()
    await opened.cache.aclose()
    async with place.open() as cache:
        assert await check_all(cache, OBJ) == 4
        assert cache.statistics().corrupt_blocks == 0, "it is not found a second time"


@pytest.mark.parametrize("offset", [0, PIECE_BYTES, LONG_BYTES - 1, LONG_BYTES, LONG.size_bytes - 1])
async def test_every_piece_of_a_long_block_counts(place: Any, offset: int) -> None:
    """Mutations: a ``_digest`` that stops after the first piece, one that reads each from the start of the block."""
    assert LONG_BYTES < LONG.size_bytes < 2 * LONG_BYTES
    assert LONG.size_bytes % PIECE_BYTES, "the last piece of the last block is a short one"
    async with place.open(block_bytes=LONG_BYTES) as cache:
        handle = await cache.open_object(LONG)
        for index in (0, 1):
            assert await write(handle, LONG, index)
        fd = await handle.open_file()
        for index in (0, 1):
            await handle.prove_block(index, fd)
        assert handle.unproven() == []
        place.flip(offset)
        with pytest.raises(CacheCorruptError):
            await handle.prove_block(offset // LONG_BYTES, fd)
        os.close(fd)
        handle.close()


@pytest.mark.parametrize("left_bytes", [0, 3 * BLOCK_BYTES, 3 * BLOCK_BYTES + 1, 4 * BLOCK_BYTES - 1])
async def test_a_file_cut_short_costs_the_blocks_that_are_not_whole(
    place: Any, opened: Opened, left_bytes: int
) -> None:
    """Mutation: without the end at a read of nothing the thread reads for ever."""
    (path,) = place.data_files()
    os.truncate(path, left_bytes)
    whole = left_bytes // BLOCK_BYTES
    await opened.prove(*range(whole))
    for index in range(whole, 5):
        with pytest.raises(CacheCorruptError):
            await opened.prove(index)
    assert opened.cache.statistics().corrupt_blocks == 5 - whole


async def test_a_file_that_cannot_be_read_costs_the_block(place: Any, opened: Opened) -> None:
    """A descriptor for writing only stands for a disk that fails."""
    fd = os.open(place.data_files()[0], os.O_WRONLY)
    try:
        with pytest.raises(CacheError, match="block 0 cannot be read back") as caught:
            await opened.handle.prove_block(0, fd)
    finally:
        os.close(fd)
    assert not isinstance(caught.value, CacheCorruptError)
    assert not opened.handle.has(0)
    assert opened.cache.statistics().corrupt_blocks == 0


async def test_where_there_is_no_thread_the_block_stays(opened: Opened) -> None:
    with no_threads(), pytest.raises(CacheError, match="no thread left"):
        await opened.prove(0)
    assert opened.handle.unproven() == [0, 1, 2, 3, 4]
    await opened.prove(0)


async def test_a_file_that_was_replaced_proves_nothing_of_the_one_in_its_place(place: Any, opened: Opened) -> None:
    """Removed by hand and fetched again. Mutation: without the look whose descriptor it is, the new blocks are proven
    by the old file's bytes."""
    (path,) = place.data_files()
    path.unlink()
    await opened.handle.refresh()
    for index in range(5):
        assert await write(opened.handle, OBJ, index)
    with pytest.raises(CacheError, match="its file was replaced"):
        await opened.prove(0)
    assert opened.handle.unproven() == [0, 1, 2, 3, 4], "and all of them are still cached"
    fd = await opened.handle.open_file()
    await opened.handle.prove_block(0, fd)
    os.close(fd)
    assert opened.handle.proven(0)
    assert opened.cache.statistics().corrupt_blocks == 0


async def test_a_closed_handle_proves_nothing(opened: Opened) -> None:
    opened.handle.close()
    with pytest.raises(CacheError, match="after its handle was closed"):
        await opened.prove(0)
    assert opened.cache.statistics().blocks_read == 0


async def test_verify_always_believes_no_proof(place: Any) -> None:
    """It stays what the next read compares."""
    async with place.open(verify="always") as cache:
        await fill(cache, OBJ)
        handle = await cache.open_object(OBJ)
        fd = await handle.open_file()
        await handle.prove_block(0, fd)
        assert handle.unproven() == [0, 1, 2, 3, 4]
        os.close(fd)
        handle.close()


async def test_what_has_no_file_proves_nothing() -> None:
    uncached = UncachedObject(BLOCK_BYTES)
    with pytest.raises(CacheError):
        await uncached.prove_block(0, -1)
    memory = MemoryBlockCache(block_bytes=BLOCK_BYTES)
    handle = await memory.open_object(OBJ)
    assert await write(handle, OBJ, 0)
    with pytest.raises(CacheError):
        await handle.prove_block(0, -1)
    await check(handle, OBJ, 0)
    handle.close()
