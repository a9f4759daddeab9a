"""Small reads of blocks that the disk has: what is asked for is read, and not the block."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.blocks.diskreads import PIECES_AT_ONCE
from tigrismount.blocks.options import BlocksConfig
from tigrismount.blocks.pieces import ENOUGH, PIECES_PER_BLOCK
from tigrismount.blocks.store import BlockStore
from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.core.types import Extent, Priority

from .conftest import KIB, pattern

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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


@asynccontextmanager
async def proven(client, open_store, blocks: int) -> AsyncIterator[Scene]:
    """A scene whose disk and clock a test may stop; the first *blocks* blocks are on the disk."""
    disk = MemoryBlockCache(block_bytes=BLOCK)
    obj = client.put("a", DATA)
    async with open_store(cache=disk, memory_limit_bytes=2 * BLOCK) as store:
        scene = Scene(store, disk, obj)
        for _ in range(2):  # once from the store, once from the disk
            for index in range(blocks):
                await scene.read(index * BLOCK, BLOCK)
            await store.drain()
        scene.seen()
        client.requests.clear()
        yield scene
        store.check_invariants()


@pytest.fixture
async def scene(client, open_store) -> AsyncIterator[Scene]:
    async with proven(client, open_store, BLOCKS) as scene:
        scene.store.retain(scene.obj)
        yield scene
        assert client.requests == []
        scene.store.release(scene.obj)


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
    for index in (0, 1):  # in place of the last ones
        await scene.read(index * BLOCK, BLOCK)
    scene.seen()
    await scene.read(len(DATA) - 51, 51)
    assert scene.seen() == (1, 0)


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


async def test_a_file_that_fits_into_free_memory_comes_into_it(client, open_store) -> None:
    """Mutation: where only the last 64 pieces count, no block of 40 is ever read whole, and none comes from memory."""
    disk = MemoryBlockCache(block_bytes=BLOCK)
    obj = client.put("a", DATA)
    for index in range(BLOCKS):
        disk.put(obj, index, DATA[index * BLOCK : (index + 1) * BLOCK])
    async with open_store(cache=disk, memory_limit_bytes=2 * BLOCK) as store:
        for index in range(BLOCKS):
            await store.read(obj, index * BLOCK, index * BLOCK + 1)
    async with open_store(cache=disk, memory_limit_bytes=(BLOCKS // 2) * BLOCK) as store:
        scene = Scene(store, disk, obj)
        scene.seen()
        store.retain(obj)
        for turn in range(2 * ENOUGH):
            for index in range(BLOCKS):
                await scene.read(index * BLOCK + 2 * SMALL * (turn % 30) + 7, SMALL // 2)
        pieces, blocks = scene.seen()
        assert blocks == BLOCKS // 2, "as many as there is memory for, and none in place of another"
        assert pieces == ENOUGH * blocks + 2 * ENOUGH * (BLOCKS - blocks)
        assert store.statistics().evicted_blocks == 0
        store.release(obj)


async def test_a_small_object_is_read_whole(client, open_store) -> None:
    """A piece is small beside the block that there is. Mutation: beside one of full size, each read is a piece."""
    disk = MemoryBlockCache(block_bytes=BLOCK)
    data = pattern(SMALL)
    obj = client.put("b", data)
    disk.put(obj, 0, data)
    async with open_store(cache=disk) as store:
        store.retain(obj)
        assert bytes(await store.read(obj, 0, SMALL)) == data
        assert store.forget(obj)
        for start in range(0, SMALL, 64):
            assert bytes(await store.read(obj, start, start + 64)) == data[start : start + 64]
        assert (len(disk.pieces), len(disk.reads)) == (0, 2)
        store.release(obj)


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
        store.retain(obj)
        for index in range(20):
            await scene.read(index * BLOCK + 10 * KIB)
        assert scene.seen() == (0, 20)
        for index in range(20):
            await scene.read(index * BLOCK + 20 * KIB)
        assert scene.seen() == (18, 0), "and two are in memory"
        store.release(obj)
    assert client.requests == []


async def test_a_piece_that_cannot_be_read_is_a_blocks_business(scene: Scene, client) -> None:
    """The block fails as well, is dropped, and is fetched."""
    scene.disk.break_reads(scene.obj, 20)
    await scene.read(20 * BLOCK + 5)
    assert scene.seen() == (1, 1)
    assert client.requests[0] == ("GET", "a", 20 * BLOCK, 21 * BLOCK)
    client.requests.clear()


async def test_a_piece_that_took_too_long_comes_after_all_where_the_store_does_not(
    client, open_store, autojump_clock
) -> None:
    """Mutation: where only the store is waited for, the reader waits for ever."""
    async with proven(client, open_store, 10) as scene:
        scene.disk.read_gate = trio.Event()
        client.hold("GET")
        done = []

        async def read() -> None:
            await scene.read(3 * BLOCK + 5)
            done.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(10)
            assert (done, len(client.requests)) == ([], 1)
            scene.disk.read_gate.set()
            await wait_all_tasks_blocked()
            assert len(done) == 1
            scene.store.check_invariants()


async def test_many_pieces_leave_room_for_blocks(client, open_store) -> None:
    """Mutation: without slots all are asked for at once, and blocks find no thread of the cache."""
    async with proven(client, open_store, BLOCKS) as scene:
        scene.disk.read_gate = trio.Event()
        async with trio.open_nursery() as nursery:
            for index in range(30):
                nursery.start_soon(scene.read, index * BLOCK + 5)
            await wait_all_tasks_blocked()
            assert scene.seen() == (PIECES_AT_ONCE, 0)
            scene.disk.read_gate.set()
        assert scene.seen()[0] == 30 - PIECES_AT_ONCE
        assert client.requests == []


async def test_many_pieces_of_a_disk_that_hangs_are_told_of_once_and_wait_once(
    client, open_store, autojump_clock, caplog
) -> None:
    async with proven(client, open_store, BLOCKS) as scene:
        scene.disk.read_gate = trio.Event()
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for index in range(30):
                nursery.start_soon(scene.read, index * BLOCK + 5)
        assert trio.current_time() - began_s < 3
        assert [record.message for record in caplog.records if "has not answered" in record.message] == [
            "the cache's disk has not answered for 2 s; fetching what memory has"
        ]
        scene.disk.read_gate.set()
        await wait_all_tasks_blocked()
        scene.disk.read_gate = None
        for index in range(12):  # blocks that are quick again
            await scene.read(index * BLOCK, BLOCK)
            await wait_all_tasks_blocked()
        scene.seen()
        client.requests.clear()
        async with trio.open_nursery() as nursery:
            for index in range(20, 20 + 2 * PIECES_AT_ONCE):
                nursery.start_soon(scene.read, index * BLOCK + 99)
        assert (scene.seen(), client.requests) == ((2 * PIECES_AT_ONCE, 0), []), "all slots are free again"


async def test_who_waited_for_a_slot_asks_no_drive_of_which_something_hangs(client, open_store, autojump_clock) -> None:
    """Mutation: with one look at what hangs, before the slot, it is asked once more."""
    async with proven(client, open_store, BLOCKS) as scene, trio.open_nursery() as nursery:
        stuck, slow = trio.Event(), trio.Event()
        scene.disk.read_gate = stuck
        nursery.start_soon(scene.read, 5)
        await wait_all_tasks_blocked()
        scene.disk.read_gate = slow
        for index in range(1, PIECES_AT_ONCE):
            nursery.start_soon(scene.read, index * BLOCK + 5)
        await trio.sleep(1)
        nursery.start_soon(scene.read, 20 * BLOCK + 5)
        await trio.sleep(1.5)
        slow.set()
        await wait_all_tasks_blocked()
        assert scene.seen() == (PIECES_AT_ONCE, 0)
        assert any(request[2] == 20 * BLOCK for request in client.requests)
        stuck.set()


async def test_a_disk_that_is_slow_for_every_piece_is_not_waited_for_in_the_end(
    client, open_store, autojump_clock
) -> None:
    """Mutation: where pieces tell nothing of their drive, each is waited for."""
    async with proven(client, open_store, BLOCKS) as scene:

        async def answer_slowly() -> None:
            while True:
                gate = scene.disk.read_gate = trio.Event()
                while not gate.statistics().tasks_waiting:  # noqa: ASYNC110 -- the cache does not tell of its readers
                    await trio.sleep(0.01)
                await trio.sleep(1.5)
                gate.set()

        took_s = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_slowly)
            for index in range(20):
                began_s = trio.current_time()
                await scene.read(index * BLOCK + 5)
                took_s.append(trio.current_time() - began_s)
            nursery.cancel_scope.cancel()
        scene.disk.read_gate.set()
        assert 0 < sum(one_s > 0.9 for one_s in took_s) <= 10, took_s
        assert all(one_s < 0.1 for one_s in took_s[10:]), took_s


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
        await wait_all_tasks_blocked()
        disk.read_gate = None
        scene.seen()
        await scene.read(5 * BLOCK + 100)
        assert scene.seen() == (1, 0), "it is asked again"


async def test_a_reader_that_gives_up_leaves_nothing(scene: Scene) -> None:
    scene.disk.read_gate = trio.Event()
    with trio.move_on_after(0.01):
        await scene.read(5 * BLOCK)
    scene.disk.read_gate.set()
    await wait_all_tasks_blocked()
    scene.disk.read_gate = None
    await scene.read(6 * BLOCK)
    assert scene.seen() == (2, 0)


async def test_who_waits_for_a_piece_when_the_store_ends_gets_no_other_error_than_its_own_end(
    client, autojump_clock
) -> None:
    """As who waits for a block. Mutation: where flights go on, they find the nursery closed, and the daemon ends."""
    disk = MemoryBlockCache(block_bytes=BLOCK)
    obj = client.put("a", DATA)
    config = BlocksConfig(block_bytes=BLOCK, memory_limit_bytes=2 * BLOCK)
    store, scope = BlockStore(client, disk, config), trio.CancelScope()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        with scope:
            await store.run(task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        scene = Scene(store, disk, obj)
        for _ in range(2):
            for index in range(10):
                await scene.read(index * BLOCK, BLOCK)
            await store.drain()
        disk.read_gate = trio.Event()
        scene.seen()
        nursery.start_soon(scene.read, 5)
        await wait_all_tasks_blocked()
        assert scene.seen() == (1, 0)
        scope.cancel()
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
