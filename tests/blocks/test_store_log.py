"""What the block store tells the load reports: who waited, for what, and what was fetched."""

from __future__ import annotations

import pytest
import trio

from tigrismount.blocks.options import BlocksConfig
from tigrismount.blocks.store import BlockStore
from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.cache.none import NoCache
from tigrismount.core import loadlog
from tigrismount.core.loadlog import LoadLog
from tigrismount.core.types import Extent, Priority
from tigrismount.errors import ObjectUnavailableError

from .conftest import KIB, MIB, pattern, running

BLOCK = 64 * KIB


@pytest.fixture
def log():
    return LoadLog(trio.current_time)


def store_of(client, log, cache=None, **limits):
    config = {"block_bytes": BLOCK, "memory_limit_bytes": 64 * MIB, "concurrency": 8} | limits
    return running(BlockStore(client, cache or NoCache(BLOCK), BlocksConfig(**config), log))


def kinds(events):
    return [event[0] for event in events]


async def test_a_read_nobody_expected_waits_for_the_plan(autojump_clock, client, log) -> None:
    obj = client.put("a", pattern(BLOCK))
    async with store_of(client, log) as store:
        await store.read(obj, 0, BLOCK)

    wait, *rest = log.take()
    assert wait[:4] == (loadlog.WAIT, obj, 0, BLOCK)
    (answer,) = [event for event in rest if event[0] == loadlog.ANSWER]
    assert answer[2:4] == (0, BLOCK)
    assert answer[6:] == (loadlog.REMOTE, loadlog.PLAN)
    (got,) = [event for event in rest if event[0] == loadlog.GET]
    assert got[2:4] == (0, BLOCK)


async def test_a_read_whose_bytes_came_a_moment_before_it_counts_all_the_same(autojump_clock, client, log) -> None:
    obj = client.put("a", pattern(BLOCK))
    async with store_of(client, log) as store:
        await store.read(obj, 0, BLOCK)
        log.take()
        await store.read(obj, 0, KIB)
        await store.read(obj, KIB, 2 * KIB, Priority.READAHEAD)

    (hit,) = log.take()
    assert hit[:4] == (loadlog.HIT, obj, 0, KIB)
    assert hit[6:] == (loadlog.RAM, "")


async def test_a_read_of_what_was_planned_waits_for_the_store(autojump_clock, client, log) -> None:
    obj = client.put("a", pattern(BLOCK))
    async with store_of(client, log) as store:
        store.plan(obj, [Extent(0, BLOCK)], Priority.PREFETCH)
        await store.read(obj, 0, BLOCK)

    (answer,) = [event for event in log.take() if event[0] == loadlog.ANSWER]
    assert answer[6:] == (loadlog.FLIGHT, loadlog.STORE)


async def test_a_read_of_what_is_cached_waits_for_the_disk(autojump_clock, client, log) -> None:
    obj, cache = client.put("a", pattern(BLOCK)), MemoryBlockCache(block_bytes=BLOCK)
    async with store_of(client, log, cache) as store:
        await store.read(obj, 0, BLOCK)
        await store.drain()
    log.take()
    async with store_of(client, log, cache) as store:
        await store.read(obj, 0, BLOCK)

    events = log.take()
    assert sorted(kinds(events)) == [loadlog.WAIT, loadlog.ANSWER, loadlog.DISK]
    (answer,) = [event for event in events if event[0] == loadlog.ANSWER]
    assert answer[6:] == (loadlog.NVME, loadlog.DISK_CAUSE)


async def test_a_failed_read_gives_up(autojump_clock, client, log) -> None:
    obj = client.put("a", pattern(BLOCK))
    client.fail(ObjectUnavailableError("down"))
    async with store_of(client, log) as store:
        with pytest.raises(ObjectUnavailableError):
            await store.read(obj, 0, BLOCK)

    events = log.take()
    assert loadlog.GAVE_UP in kinds(events)
    assert loadlog.ANSWER not in kinds(events)
    (got,) = [event for event in events if event[0] == loadlog.GET]
    assert got[2:4] == (0, 0), "nothing came"


async def test_speculation_is_nobodys_wait(autojump_clock, client, log) -> None:
    obj = client.put("a", pattern(BLOCK))
    async with store_of(client, log) as store:
        await store.read(obj, 0, BLOCK, Priority.PREFETCH)

    assert kinds(log.take()) == [loadlog.GET]


async def test_reads_that_find_no_memory_say_so(autojump_clock, client, log) -> None:
    obj = client.put("a", pattern(8 * BLOCK))
    async with store_of(client, log, memory_limit_bytes=2 * BLOCK) as store, trio.open_nursery() as nursery:
        for index in range(8):
            nursery.start_soon(store.read, obj, index * BLOCK, (index + 1) * BLOCK)

    assert loadlog.MEMORY in {event[7] for event in log.take() if event[0] == loadlog.ANSWER}


async def test_each_wait_for_a_piece_has_one_end(autojump_clock, client, log) -> None:
    """One that is read, one that cannot be, and one that comes late while the store is away."""
    data, disk = pattern(10 * BLOCK), MemoryBlockCache(block_bytes=BLOCK)
    obj = client.put("a", data)
    async with store_of(client, log, disk, memory_limit_bytes=2 * BLOCK) as store:
        for _ in range(2):
            for index in range(10):
                await store.read(obj, index * BLOCK, (index + 1) * BLOCK)
            await store.drain()
        log.take()

        await store.read(obj, 5, 10)
        wait, answer, read = log.take()
        assert wait[:4] == (loadlog.WAIT, obj, 5, 10)
        assert (answer[:4], answer[6:]) == ((loadlog.ANSWER, obj, 5, 10), (loadlog.NVME, loadlog.DISK_CAUSE))
        assert read[:4] == (loadlog.DISK, obj, 5, 10)

        disk.break_reads(obj, 1)
        await store.read(obj, BLOCK + 5, BLOCK + 10)
        assert kinds(log.take())[:3] == [loadlog.WAIT, loadlog.GAVE_UP, loadlog.WAIT]

        disk.read_gate = trio.Event()
        client.hold("GET")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.read, obj, 2 * BLOCK, 2 * BLOCK + 5)
            await trio.sleep(10)
            disk.read_gate.set()
        *_, wait, answer, read = log.take()
        assert kinds([wait, answer, read]) == [loadlog.WAIT, loadlog.ANSWER, loadlog.DISK]
        assert answer[5] - answer[4] == pytest.approx(10), "all of the wait is the disk's"
