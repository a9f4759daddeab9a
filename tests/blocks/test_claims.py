"""Two processes on one cache: what another one fetches is waited for, and nothing else waits for that."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.cache.memory import MemoryBlockCache, _MemoryObject
from tigrismount.core.types import Extent, Priority
from tigrismount.errors import ObjectError

from .conftest import KIB, pattern

BLOCK = 64 * KIB


@pytest.fixture
def disk() -> MemoryBlockCache:
    return MemoryBlockCache(block_bytes=BLOCK)


def blocks(client) -> list[tuple[int, int]]:
    """First and last block of each GET."""
    return sorted((start // BLOCK, -(-stop // BLOCK)) for _, _, start, stop in client.requests)


async def test_block_that_another_process_fetches_comes_from_the_disk(client, open_store, disk) -> None:
    """Mutation: without ``fetch_is_ours`` in ``_fly`` there is a GET for block 1."""
    data = pattern(3 * BLOCK)
    obj = client.put("a", data)
    end = disk.fetch_elsewhere(obj, 1)
    async with open_store(cache=disk) as store, trio.open_nursery() as nursery:
        nursery.start_soon(store.read, obj, 0, len(data))
        await wait_all_tasks_blocked()
        store.check_invariants()
        assert store.statistics().flights == 0  # it holds no slot
        end(data[BLOCK : 2 * BLOCK])
        assert bytes(await store.read(obj, 0, len(data))) == data
        await wait_all_tasks_blocked()
    assert blocks(client) == [(0, 1), (2, 3)]
    assert disk.claimed(obj) == set()


async def test_block_that_another_process_gave_up_is_fetched(client, open_store, disk) -> None:
    data = pattern(2 * BLOCK)
    obj = client.put("a", data)
    end = disk.fetch_elsewhere(obj, 0)
    async with open_store(cache=disk) as store, trio.open_nursery() as nursery:
        nursery.start_soon(store.read, obj, 100, BLOCK + 1)
        await wait_all_tasks_blocked()
        end(None)
        assert bytes(await store.read(obj, 100, BLOCK + 1)) == data[100 : BLOCK + 1]
        await wait_all_tasks_blocked()
        store.check_invariants()
    assert {block for block, _ in blocks(client)} == {0, 1}
    assert disk.claimed(obj) == set()
    assert sorted(disk.writes) == [(obj, 0), (obj, 1)]


@pytest.mark.parametrize("elsewhere", [{0}, {3}, {1, 2}, {0, 5}, set(range(6))])
async def test_plan_goes_round_what_is_fetched_elsewhere(client, open_store, disk, elsewhere: set[int]) -> None:
    """Parts of several blocks are cut where another process is at it; every block is fetched by one of the two."""
    data = pattern(6 * BLOCK)
    obj = client.put("a", data)
    ends = {index: disk.fetch_elsewhere(obj, index) for index in elsewhere}
    async with open_store(cache=disk, part_bytes=4 * BLOCK, concurrency=1) as store:
        store.retain(obj)
        store.plan(obj, [Extent(0, len(data))], Priority.PREFETCH)
        await wait_all_tasks_blocked()
        store.check_invariants()
        fetched = {index for start, stop in blocks(client) for index in range(start, stop)}
        assert fetched == set(range(6)) - elsewhere
        for index, end in ends.items():
            end(data[index * BLOCK : (index + 1) * BLOCK])
        await wait_all_tasks_blocked()
        assert store.try_read(obj, 0, len(data)) == data
        store.release(obj)
        assert sum(stop - start for start, stop in blocks(client)) == 6 - len(elsewhere)
    assert disk.claimed(obj) == set()


async def test_readers_of_a_part_that_is_cut_are_served(client, open_store, disk) -> None:
    data = pattern(4 * BLOCK)
    obj = client.put("a", data)
    end = disk.fetch_elsewhere(obj, 2)
    async with open_store(cache=disk, part_bytes=4 * BLOCK) as store, trio.open_nursery() as nursery:
        store.retain(obj)
        store.plan(obj, [Extent(0, len(data))], Priority.PREFETCH)
        nursery.start_soon(store.read, obj, 2 * BLOCK + 5, 3 * BLOCK + 5)
        await wait_all_tasks_blocked()
        end(data[2 * BLOCK : 3 * BLOCK])
        await wait_all_tasks_blocked()
        store.release(obj)
    assert sum(stop - start for start, stop in blocks(client)) == 3


async def test_claims_end_with_failed_flights(client, open_store, disk) -> None:
    """Nobody must wait for a fetch that has failed."""
    obj = client.put("a", pattern(2 * BLOCK))
    client.delete("a")
    async with open_store(cache=disk) as store:
        with pytest.raises(ObjectError):
            await store.read(obj, 0, BLOCK)
        await wait_all_tasks_blocked()
    assert disk.claimed(obj) == set()


async def test_claim_lasts_until_the_block_is_written(client, open_store, disk) -> None:
    """Mutation: ``settle`` that does not ask for writes lets others fetch it before they can see it."""
    obj = client.put("a", pattern(BLOCK))
    disk.write_gate = trio.Event()
    async with open_store(cache=disk) as store:
        await store.read(obj, 0, BLOCK)
        await wait_all_tasks_blocked()
        assert disk.claimed(obj) == {0}
        disk.write_gate.set()
        await wait_all_tasks_blocked()
        assert disk.claimed(obj) == set()


async def test_a_damaged_block_of_another_process_spoils_nothing_that_came_before(client, open_store, disk) -> None:
    """Mutation: with what had come still counted as there, its reader gets what the disk gave."""
    data = pattern(BLOCK)
    obj = client.put("a", data)
    gate = client.hold(after_bytes=BLOCK // 2)
    async with open_store(cache=disk) as store:
        store.retain(obj)
        store.plan(obj, [Extent(0, BLOCK)], Priority.PREFETCH)
        await wait_all_tasks_blocked()
        store.plan(obj, [], Priority.PREFETCH, cut=True)
        await wait_all_tasks_blocked()
        assert store.try_read(obj, 0, BLOCK // 2) == data[: BLOCK // 2]
        disk.put(obj, 0, data)
        disk.corrupt(obj, 0)
        gate.set()
        assert bytes(await store.read(obj, 0, BLOCK)) == data
        await wait_all_tasks_blocked()
        store.check_invariants()
        store.release(obj)
    assert disk.block(obj, 0) in (None, data)
    assert disk.claimed(obj) == set()


async def test_all_who_wait_for_a_block_of_another_process_are_served_where_the_disk_fails(
    client, open_store, disk
) -> None:
    """Mutation: a part that goes on with its own bytes alone leaves those waiting whose part it took back."""
    data = pattern(BLOCK)
    obj, other = client.put("a", data), client.put("b", pattern(2 * BLOCK))
    end = disk.fetch_elsewhere(obj, 0)
    gate = client.hold(key="b")
    found: dict[int, bytes] = {}

    async def read(start: int, stop: int) -> None:
        found[start] = bytes(await store.read(obj, start, stop))

    async with open_store(cache=disk, concurrency=1) as store, trio.open_nursery() as nursery:
        nursery.start_soon(store.read, other, 0, BLOCK)
        await wait_all_tasks_blocked()
        nursery.start_soon(read, BLOCK // 2, BLOCK)
        await wait_all_tasks_blocked()
        nursery.start_soon(store.read, other, BLOCK, 2 * BLOCK)  # takes the slot that the one before gave back
        await wait_all_tasks_blocked()
        nursery.start_soon(read, 0, BLOCK // 2)
        await wait_all_tasks_blocked()
        end(data)
        disk.break_reads(obj, 0)
        await wait_all_tasks_blocked()
        store.check_invariants()
        gate.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert found == {0: data[: BLOCK // 2], BLOCK // 2: data[BLOCK // 2 :]}


async def test_a_block_of_another_process_is_read_once_for_all_who_wait_for_it(client, open_store, disk) -> None:
    """A page in the middle makes two parts; both wait for the other process."""
    data = pattern(BLOCK)
    obj = client.put("a", data)
    end = disk.fetch_elsewhere(obj, 0)
    async with open_store(cache=disk) as store, trio.open_nursery() as nursery:
        nursery.start_soon(store.read, obj, BLOCK // 2, BLOCK)
        await wait_all_tasks_blocked()
        end(data)
        assert bytes(await store.read(obj, 0, BLOCK)) == data
        await wait_all_tasks_blocked()
        store.check_invariants()
    assert disk.reads == [(obj, 0)]
    assert client.requests == []
    assert disk.claimed(obj) == set()


async def test_nothing_is_claimed_any_more_when_the_mount_ends(client, open_store, disk, monkeypatch) -> None:
    """A GET has a task beside it, so that its end is that of a nursery: after it blocks were claimed once more.

    On a disk that hangs each claim would be waited for.
    """
    obj = client.put("a", pattern(4 * BLOCK))
    asked: list[int] = []
    claim = _MemoryObject.claim

    async def noted(self, indexes):
        asked.extend(indexes)
        return await claim(self, indexes)

    async def fetch(*_: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()

    monkeypatch.setattr(_MemoryObject, "claim", noted)
    monkeypatch.setattr(client, "fetch", fetch)
    async with open_store(cache=disk, concurrency=1, part_bytes=BLOCK) as store:
        store.plan(obj, [Extent(0, 4 * BLOCK)], Priority.PREFETCH)
        await wait_all_tasks_blocked()
        assert asked == [0]
    assert asked == [0]
