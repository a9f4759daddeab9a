from __future__ import annotations

import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.core.types import Extent, Priority
from tigrismount.errors import ObjectUnavailableError
from tigrismount.reader.options import ReaderConfig
from tigrismount.reader.readers import Readers

MIB = 1 << 20
BLOCK = 8 * MIB
READ = 128 << 10


async def read_all(reader, start, stop, size=READ):
    for position in range(start, stop, size):
        await reader.read(position, min(position + size, stop))


async def test_a_read_returns_the_store_s_bytes_asked_for_on_demand(store, readers):
    obj = store.put("a.bin", 100 * MIB, b"0123456789")
    reader = readers.open(obj, obj.key)
    assert await reader.read(2, 7) == b"23456"
    assert store.reads == [(obj, 2, 7, Priority.DEMAND)]


async def test_a_hit_is_answered_without_a_read_of_the_store(store, readers):
    obj = store.put("a.bin", 100 * MIB, b"0123456789")
    reader = readers.open(obj, obj.key)
    assert reader.try_read(0, 4) is None
    store.resident = True
    assert reader.try_read(0, 4) == b"0123"
    assert store.reads == []


async def test_the_plan_is_said_before_the_read_is_waited_for(store, readers, nursery):
    """So that the first blocks ahead are fetched while the reader waits for its own."""
    store.gates[Priority.DEMAND] = trio.Event()
    obj = store.put("a.bin", 100 * MIB)
    nursery.start_soon(readers.open(obj, obj.key).read, 0, READ)
    await wait_all_tasks_blocked()
    assert store.events == ["plan", "read DEMAND"]
    assert store.plans[obj] == [[Extent(BLOCK, 3 * BLOCK)]]
    store.gates[Priority.DEMAND].set()


async def test_a_sequential_reader_with_small_reads_gets_32_blocks_ahead(store, readers):
    """At the kernel's default read-ahead: 128 KiB per READ, two of them at a time, the second now and then first."""
    obj = store.put("a.bin", 1024 * MIB)
    reader = readers.open(obj, obj.key)
    draw = random.Random(0)
    for start in range(0, 320 * MIB, 2 * READ):
        pair = [start, start + READ]
        if draw.random() < 0.3:
            pair.reverse()
        for position in pair:
            await reader.read(position, position + READ)
    assert store.planned_bytes(obj) >= 32 * BLOCK
    assert store.plans[obj][-1][0].start >= 320 * MIB


async def test_reads_out_of_order_by_many_mebibytes_keep_the_plan_ahead(store, readers):
    obj = store.put("a.bin", 1024 * MIB)
    reader = readers.open(obj, obj.key)
    draw = random.Random(1)
    for first in range(0, 512, 32):
        draw.shuffle(batch := list(range(first, first + 32)))
        for number in batch:
            await reader.read(number * MIB, (number + 1) * MIB)
    assert store.planned_bytes(obj) >= 32 * BLOCK


async def test_eight_threads_in_eight_regions_each_have_blocks_ahead(store, readers):
    obj = store.put("a.bin", 2048 * MIB)
    reader = readers.open(obj, obj.key)
    for offset in range(0, 16 * MIB, READ):
        for thread in range(8):
            start = thread * 256 * MIB + offset
            await reader.read(start, start + READ)
    planned = {extent.start // (256 * MIB) for extent in store.plans[obj][-1]}
    assert planned == set(range(8))
    assert store.planned_bytes(obj) <= ReaderConfig().read_ahead_bytes


async def test_random_reads_plan_nothing(store, readers):
    obj = store.put("a.bin", 1024 * MIB)
    reader = readers.open(obj, obj.key)
    draw = random.Random(2)
    for _ in range(64):
        start = draw.randrange(1, 262_144) * 4096
        await reader.read(start, start + 4096)
    assert store.plans[obj] == []


async def test_random_reads_of_a_tensor_file_plan_two_blocks_at_most(store, readers):
    obj = store.put_tensors("a.safetensors", *[64 * MIB] * 16)
    reader = readers.open(obj, obj.key)
    draw = random.Random(2)
    await reader.read(0, 4096)
    await wait_all_tasks_blocked()
    for _ in range(64):
        start = draw.randrange(1, 262_144) * 4096
        await reader.read(start, start + 4096)
    planned = {extent for plan in store.plans[obj] for extent in plan}
    assert sum(extent.size_bytes for extent in planned) <= 2 * BLOCK


async def test_hits_move_the_plan_about_once_per_block(store, readers):
    obj = store.put("a.bin", 1024 * MIB)
    reader = readers.open(obj, obj.key)
    await read_all(reader, 0, 8 * MIB)
    store.resident = True
    said = len(store.plans[obj])
    for start in range(8 * MIB, 512 * MIB, READ):
        assert reader.try_read(start, start + READ) is not None
    assert 60 <= len(store.plans[obj]) - said <= 70


async def test_a_file_of_one_block_needs_no_plan(store, readers):
    obj = store.put_tensors("small.safetensors", 7 * MIB)
    reader = readers.open(obj, obj.key)
    await read_all(reader, 0, obj.size_bytes)
    await wait_all_tasks_blocked()
    assert store.plans[obj] == []
    assert store.probe_reads() == []


async def test_a_failed_read_is_raised_as_it_is_and_the_next_one_goes_on(store, readers):
    obj = store.put("a.bin", 100 * MIB)
    reader = readers.open(obj, obj.key)
    store.errors[Priority.DEMAND] = ObjectUnavailableError("gone")
    with pytest.raises(ObjectUnavailableError):
        await reader.read(0, READ)
    del store.errors[Priority.DEMAND]
    assert await reader.read(0, 4) == bytes(4)


async def test_prefetch_off_plans_nothing_and_asks_for_nothing_more(store, nursery):
    readers = Readers(store, ReaderConfig(prefetch="off"))
    await nursery.start(readers.run)
    obj = store.put_tensors("a.safetensors", *[16 * MIB] * 16)
    reader = readers.open(obj, obj.key)
    await read_all(reader, 0, 64 * MIB)
    store.resident = True
    reader.try_read(64 * MIB, 65 * MIB)
    readers.close(reader)
    assert store.plans[obj] == []
    assert store.probe_reads() == []


async def test_prefetch_file_reads_no_header_and_still_reads_ahead(store, nursery):
    readers = Readers(store, ReaderConfig(prefetch="file"))
    await nursery.start(readers.run)
    obj = store.put_tensors("a.safetensors", *[16 * MIB] * 16)
    await read_all(readers.open(obj, obj.key), 0, 16 * MIB)
    assert store.probe_reads() == []
    assert store.planned_bytes(obj) > 0
    assert set(store.priorities) == {Priority.READAHEAD}


async def test_a_comb_of_first_pages_plans_the_rest_of_the_file_as_prefetch(store, readers):
    obj = store.put_tensors("a.safetensors", *[20 * MIB] * 20)
    reader = readers.open(obj, obj.key)
    await reader.read(0, READ)
    await wait_all_tasks_blocked()
    for tensor in range(1, 20):
        start = tensor * 20 * MIB
        await reader.read(start, start + READ)
    assert store.plans[obj][-1] == [Extent(BLOCK, obj.size_bytes)]
    assert store.priorities[-1] is Priority.PREFETCH


async def test_closing_withdraws_the_plan_and_cuts_what_flies_for_it(store, readers):
    obj = store.put("a.bin", 1024 * MIB)
    reader = readers.open(obj, obj.key)
    await read_all(reader, 0, 8 * MIB)
    assert store.plans[obj][-1] != []
    readers.close(reader)
    assert (store.plans[obj][-1], store.cuts) == ([], 1)


async def test_a_stray_read_of_a_file_in_the_page_cache_fetches_nothing_ahead(store, readers):
    """The kernel has the file and asks for the one page that it has lost; whoever reads on shows it anew."""
    obj = store.put("a.bin", 1024 * MIB)
    reader = readers.open(obj, obj.key)
    await read_all(reader, 0, 64 * MIB)
    readers.close(reader)
    reader = readers.open(obj, obj.key)
    await reader.read(64 * MIB, 64 * MIB + 4096)
    assert store.plans[obj][-1] == []
    await read_all(reader, 64 * MIB, 68 * MIB)
    assert store.plans[obj][-1] != []
