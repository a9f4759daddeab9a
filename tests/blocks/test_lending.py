"""Blocks lent to the pusher: complete ones only, and nobody gets their memory meanwhile."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tigrismount.blocks.lending import LENT_SHARE
from tigrismount.core.types import Extent, ObjectId, Priority
from tigrismount.objects.memory import MemoryObjectClient

KIB = 1 << 10
BLOCK = 64 * KIB


@pytest.fixture
def data() -> bytes:
    return bytes(range(256)) * (16 * BLOCK // 256)


@pytest.fixture
def obj(client: MemoryObjectClient, data: bytes) -> ObjectId:
    return client.put("key", data)


async def fetch(store, obj: ObjectId, start: int, stop: int) -> None:
    store.plan(obj, [Extent(start, stop)], Priority.PREFETCH)
    await trio.testing.wait_all_tasks_blocked(0.01)


async def test_complete_blocks_are_told_and_lent(open_store, obj, data):
    told = []
    async with open_store(on_complete=lambda obj, index: told.append((obj, index))) as store:
        store.retain(obj)
        await fetch(store, obj, 0, 2 * BLOCK)
        assert told == [(obj, 0), (obj, 1)]
        loan = store.lend(obj, 1)
        assert bytes(loan.view) == data[BLOCK : 2 * BLOCK]
        assert (loan.start, loan.block_bytes) == (BLOCK, BLOCK)
        assert store.lend(obj, 2) is None, "not there"
        store.take_back(loan, delivered=True)
        store.release(obj)
        await trio.testing.wait_all_tasks_blocked()
        store.check_idle()


async def test_memory_of_a_lent_block_is_nobody_elses(open_store, obj, data):
    async with open_store(memory_limit_bytes=4 * BLOCK) as store:
        store.retain(obj)
        await fetch(store, obj, 0, BLOCK)
        loan = store.lend(obj, 0)
        for index in range(1, 16):
            found = await store.read(obj, index * BLOCK, (index + 1) * BLOCK)
            assert bytes(found) == data[index * BLOCK : (index + 1) * BLOCK]
        assert bytes(loan.view) == data[:BLOCK]
        store.take_back(loan, delivered=False)
        store.release(obj)
        await trio.testing.wait_all_tasks_blocked()
        store.check_idle()


async def test_no_more_is_lent_than_reads_can_spare(open_store, obj):
    async with open_store(memory_limit_bytes=8 * BLOCK) as store:
        store.retain(obj)
        await fetch(store, obj, 0, 4 * BLOCK)
        loans = [store.lend(obj, index) for index in range(3)]
        assert [loan is not None for loan in loans] == [True] * (8 // LENT_SHARE) + [False]
        store.take_back(loans[0], delivered=True)
        last = store.lend(obj, 2)
        assert last is not None
        for loan in (loans[1], last):
            store.take_back(loan, delivered=True)
        store.release(obj)
        await trio.testing.wait_all_tasks_blocked()
        store.check_idle()


async def test_nothing_is_lent_of_a_version_nobody_has_open(open_store, obj):
    """The disk cache may by then count its blocks in another size."""
    async with open_store() as store:
        await fetch(store, obj, 0, BLOCK)
        assert store.holds(obj, 0)
        assert store.lend(obj, 0) is None
        assert store.block_bytes(obj) is None
        assert not store.holds(ObjectId("bucket", "other", "etag", 1), 0)
