"""Small reads of blocks that the disk has: what is asked for is read, and not the block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tigrismount.blocks.pieces import ENOUGH, PIECES_PER_BLOCK
from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.core.types import Extent, Priority

from .conftest import KIB, pattern

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tigrismount.blocks.store import BlockStore
    from tigrismount.core.types import ObjectId

BLOCK = 64 * KIB
BLOCKS = 40
SMALL = BLOCK // PIECES_PER_BLOCK
DATA = pattern(BLOCKS * BLOCK - 100)


class Scene:
    """A store with room for two blocks, and a version of which the disk has every block, proven."""

    def __init__(self, store: BlockStore, disk: MemoryBlockCache, obj: ObjectId) -> None:
        self.store, self.disk, self.obj = store, disk, obj

    async def read(self, start: int, size: int = SMALL, priority: Priority = Priority.DEMAND) -> None:
        """Read, and compare."""
        stop = min(start + size, len(DATA))
        assert bytes(await self.store.read(self.obj, start, stop, priority)) == DATA[start:stop]

    def seen(self) -> tuple[int, int]:
        """Return how many pieces and blocks were read from the disk since the last call."""
        counts = len(self.disk.pieces), len(self.disk.reads)
        self.disk.pieces.clear()
        self.disk.reads.clear()
        return counts


@pytest.fixture
async def scene(client, open_store) -> AsyncIterator[Scene]:
    disk = MemoryBlockCache(block_bytes=BLOCK)
    obj = client.put("a", DATA)
    async with open_store(cache=disk, memory_limit_bytes=2 * BLOCK) as store:
        scene = Scene(store, disk, obj)
        for _ in range(2):  # once from the store, once from the disk
            for index in range(BLOCKS):
                await scene.read(index * BLOCK, BLOCK)
            await store.drain()
        scene.store.retain(obj)
        scene.seen()
        client.requests.clear()
        yield scene
        assert client.requests == []
        store.release(obj)
        store.check_invariants()


async def test_reads_here_and_there_are_pieces_and_take_no_memory(scene: Scene) -> None:
    before = scene.store.statistics()
    for turn in range(3):
        for index in range(20):
            await scene.read(index * BLOCK + 777 * (turn + 1))
    after = scene.store.statistics()
    assert scene.seen() == (60, 0)
    assert after.bytes_from_disk - before.bytes_from_disk == after.bytes_waited - before.bytes_waited == 60 * SMALL
    assert after.reads_missed - before.reads_missed == 60
    assert after.evicted_blocks == before.evicted_blocks


async def test_the_last_bytes_of_the_object_are_a_piece(scene: Scene) -> None:
    await scene.read(0, 10)
    await scene.read(len(DATA) - 50, 50)
    assert scene.seen()[0] >= 1


@pytest.mark.parametrize(
    ("start", "size"),
    [(5 * BLOCK + 10, SMALL + 1), (6 * BLOCK - 10, 20)],
    ids=["more than a small part of a block", "across two blocks"],
)
async def test_other_reads_are_of_blocks(scene: Scene, start: int, size: int) -> None:
    await scene.read(start, size)
    pieces, blocks = scene.seen()
    assert pieces == 0
    assert blocks >= 1


async def test_who_reads_on_gets_the_block(scene: Scene) -> None:
    """Also where several do, in turns. Mutation: without the look at where pieces ended, each read is one."""
    for step in range(10):
        for place in (3 * BLOCK, 9 * BLOCK + 5):
            await scene.read(place + step * SMALL)
    assert scene.seen() == (2, 2)


async def test_who_comes_back_to_a_block_often_gets_it_and_others_go_on_with_pieces(scene: Scene) -> None:
    for turn in range(ENOUGH + 5):
        await scene.read(7 * BLOCK + turn * 2 * SMALL)
    assert scene.seen() == (ENOUGH, 1)
    await scene.read(8 * BLOCK)
    assert scene.seen() == (1, 0)


async def test_what_is_planned_is_read_whole(scene: Scene) -> None:
    """Without memory for it the plan waits, and so does no piece."""
    scene.store.plan(scene.obj, [Extent(11 * BLOCK, 13 * BLOCK)], Priority.READAHEAD)
    await scene.read(12 * BLOCK + 500)
    pieces, blocks = scene.seen()
    assert pieces == 0
    assert blocks >= 1


async def test_speculation_is_of_blocks(scene: Scene) -> None:
    await scene.read(14 * BLOCK, SMALL, Priority.PREFETCH)
    assert scene.seen() == (0, 1)


async def test_a_block_that_was_not_verified_is_read_whole_first(client, open_store) -> None:
    disk = MemoryBlockCache(block_bytes=BLOCK)
    obj = client.put("a", DATA)
    for index in range(BLOCKS):
        disk.put(obj, index, DATA[index * BLOCK : (index + 1) * BLOCK])
    async with open_store(cache=disk, memory_limit_bytes=2 * BLOCK) as store:
        scene = Scene(store, disk, obj)
        for expected in ((0, 20), (20, 0)):
            for index in range(20):
                await scene.read(index * BLOCK + 10 * KIB * (1 + expected[0] // 20))
            pieces, blocks = scene.seen()
            assert (pieces, blocks) == expected or (not expected[1] and blocks <= 2), "two may be in memory still"
    assert client.requests == []


async def test_a_piece_that_cannot_be_read_is_a_blocks_business(scene: Scene, client) -> None:
    """The block fails as well, is dropped, and is fetched."""
    scene.disk.break_reads(scene.obj, 20)
    await scene.read(20 * BLOCK + 5)
    assert scene.seen() == (1, 1)
    assert client.requests[0] == ("GET", "a", 20 * BLOCK, 21 * BLOCK)
    client.requests.clear()


async def test_a_disk_that_hangs_is_waited_for_once(client, open_store, autojump_clock) -> None:
    """Mutations: without the bound this never ends; without the count each read waits."""
    disk = MemoryBlockCache(block_bytes=BLOCK)
    obj = client.put("a", DATA)
    async with open_store(cache=disk, memory_limit_bytes=2 * BLOCK) as store:
        scene = Scene(store, disk, obj)
        for _ in range(2):
            for index in range(10):
                await scene.read(index * BLOCK, BLOCK)
            await store.drain()
        disk.read_gate = trio.Event()
        client.requests.clear()
        began_s = trio.current_time()
        for index in range(5):
            await scene.read(index * BLOCK + 5)
        assert trio.current_time() - began_s < 3
        assert len(client.requests) >= 4
        disk.read_gate.set()
        await trio.testing.wait_all_tasks_blocked()
        disk.read_gate = None
        scene.seen()
        await scene.read(5 * BLOCK + 100)
        assert scene.seen() == (1, 0), "it is asked again"


async def test_a_reader_that_gives_up_leaves_nothing(scene: Scene) -> None:
    scene.disk.read_gate = trio.Event()
    with trio.move_on_after(0.01):
        await scene.read(5 * BLOCK)
    scene.disk.read_gate.set()
    await trio.testing.wait_all_tasks_blocked()
    scene.disk.read_gate = None
    await scene.read(6 * BLOCK)
    assert scene.seen() == (2, 0)
