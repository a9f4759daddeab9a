from __future__ import annotations

import logging
import struct

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.core.types import Extent, Priority
from tigrismount.errors import ObjectUnavailableError
from tigrismount.formats.parsing import FIRST_READ_BYTES
from tigrismount.reader import probe
from tigrismount.reader.describe import THREAD_BYTES
from tigrismount.reader.options import ReaderConfig
from tigrismount.reader.probe import MAX_PROBED_BYTES
from tigrismount.reader.readers import MAX_KEPT, Readers

MIB = 1 << 20
BLOCK = 8 * MIB
READ = 128 << 10


async def test_opening_makes_no_request(store, readers):
    readers.open(store.put_tensors("a.safetensors", 100 * MIB), "a.safetensors")
    await wait_all_tasks_blocked()
    assert (store.reads, dict(store.plans)) == ([], {})


async def test_fifty_readers_of_one_version_share_one_reader_and_one_probe(store, readers, nursery):
    obj = store.put_tensors("a.safetensors", *[16 * MIB] * 16)
    opened = [readers.open(obj, obj.key) for _ in range(50)]
    assert len(set(map(id, opened))) == 1
    for reader in opened:
        nursery.start_soon(reader.read, 0, READ)
    await wait_all_tasks_blocked()
    assert len(store.reads) == 50 + 1, "one look at the head of the file, which holds all of the header"
    assert store.probe_reads() == [(obj, 0, FIRST_READ_BYTES)]
    statistics = readers.statistics()
    assert (statistics.open, statistics.probes, statistics.layouts) == (1, 1, 1)


async def test_two_versions_of_one_key_have_a_reader_each(store, readers):
    first, second = store.put("a.bin", 100 * MIB), store.put("a.bin", 101 * MIB)
    assert readers.open(first, "a.bin") is not readers.open(second, "a.bin")


async def test_a_reader_stays_open_until_the_last_one_closes_it(store, readers):
    obj = store.put("a.bin", 100 * MIB)
    reader = readers.open(obj, obj.key)
    readers.open(obj, obj.key)
    await reader.read(0, READ)
    readers.close(reader)
    assert store.plans[obj][-1] != []
    assert readers.statistics().open == 1
    readers.close(reader)
    assert store.plans[obj][-1] == []
    assert (readers.statistics().open, readers.statistics().kept) == (0, 1)


async def test_a_file_opened_twice_keeps_its_streams_and_its_layout(store, readers):
    """Loaders open a file for its header, close it, and open it again for its data."""
    obj = store.put_tensors("a.safetensors", *[16 * MIB] * 16)
    reader = readers.open(obj, obj.key)
    await reader.read(0, READ)
    await wait_all_tasks_blocked()
    readers.close(reader)
    assert readers.open(obj, obj.key) is reader
    await reader.read(112 * MIB, 112 * MIB + READ)
    assert store.plans[obj][-1] == [Extent(15 * BLOCK, 17 * BLOCK)]
    assert len(store.probe_reads()) == 1


async def test_readers_kept_are_bounded_and_what_they_counted_is_not_lost(store, readers):
    for number in range(MAX_KEPT + 5):
        obj = store.put(f"{number}.bin", 100 * MIB)
        reader = readers.open(obj, obj.key)
        await reader.read(0, READ)
        readers.close(reader)
    statistics = readers.statistics()
    assert (statistics.kept, statistics.plans) == (MAX_KEPT, MAX_KEPT + 5)


async def test_a_layout_outlives_its_reader(store, nursery):
    readers = Readers(store, ReaderConfig(), max_kept=0)
    await nursery.start(readers.run)
    obj = store.put_tensors("a.safetensors", *[16 * MIB] * 16)
    reader = readers.open(obj, obj.key)
    await reader.read(0, READ)
    await wait_all_tasks_blocked()
    readers.close(reader)
    again = readers.open(obj, obj.key)
    assert again is not reader
    await again.read(112 * MIB, 112 * MIB + READ)
    assert store.plans[obj][-1] == [Extent(15 * BLOCK, 17 * BLOCK)]
    assert readers.statistics().probes == 1


async def test_layouts_are_bounded_by_their_tensors_and_the_last_one_stays(store, nursery):
    readers = Readers(store, ReaderConfig(), max_tensors=5)
    await nursery.start(readers.run)
    for number in range(4):
        obj = store.put_tensors(f"{number}.safetensors", *[4 * MIB] * 3)
        await readers.open(obj, obj.key).read(0, READ)
        await wait_all_tasks_blocked()
        assert readers.statistics().layouts == 1
    obj = store.put_tensors("large.safetensors", *[4 * MIB] * 9)
    await readers.open(obj, obj.key).read(0, READ)
    await wait_all_tasks_blocked()
    assert readers.statistics().layouts == 1


async def test_layouts_are_bounded_in_number_too_however_few_tensors_they_have(store, readers, monkeypatch):
    monkeypatch.setattr(probe, "MAX_LAYOUTS", 3)
    for number in range(5):
        obj = store.put_tensors(f"{number}.safetensors", *[4 * MIB] * 3)
        await readers.open(obj, obj.key).read(0, READ)
        await wait_all_tasks_blocked()
        assert readers.statistics().layouts == min(number + 1, 3)


async def test_a_long_header_is_parsed_in_a_thread(store, readers):
    obj = store.put_tensors("a.safetensors", *[MIB // 4] * 1500)
    assert len(store.heads[obj]) > THREAD_BYTES
    await readers.open(obj, obj.key).read(0, READ)
    while readers.statistics().layouts == 0:
        await trio.lowlevel.checkpoint()
    assert readers.statistics().format_errors == 0


async def test_a_probe_that_hangs_holds_up_no_read(store, readers):
    store.gates[Priority.PREFETCH] = trio.Event()
    obj = store.put_tensors("a.safetensors", *[16 * MIB] * 16)
    reader = readers.open(obj, obj.key)
    for start in range(0, 32 * MIB, READ):
        await reader.read(start, start + READ)
    assert store.planned_bytes(obj) > 0, "plain read-ahead meanwhile"


@pytest.mark.parametrize(
    "head",
    [
        b"\xff" * 100,
        struct.pack("<Q", 0),
        struct.pack("<Q", 4) + b"{{{{",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 99_000_000),
        struct.pack("<Q", 90_000) + b"[" * 90_000,
    ],
)
async def test_a_hostile_header_costs_one_log_line_and_no_read(store, readers, caplog, head):
    """The file is then read ahead like any other."""
    caplog.set_level(logging.INFO)
    obj = store.put("evil\n.safetensors", 200 * MIB, head)
    reader = readers.open(obj, obj.key)
    for start in range(0, 16 * MIB, READ):
        assert len(await reader.read(start, start + READ)) == READ
    while readers.statistics().format_errors == 0:
        await trio.lowlevel.checkpoint()
    assert store.planned_bytes(obj) > 0
    assert set(store.priorities) == {Priority.READAHEAD}
    assert all(stop <= MAX_PROBED_BYTES for _, _, stop in store.probe_reads())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "s3://bucket/evil\\x0a.safetensors" in record.message
    assert "\n" not in record.message


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.gguf", b"GGUF\3\0\0\0" + b"\xff" * 16),
        ("a.gguf", b"GGUF\3\0\0\0" + struct.pack("<QQQ", 0, 1, 1 << 50)),
        ("a.pt", b"PK\3\4"),
        ("pytorch_model.bin", b"PK\3\4"),
        ("blobs/" + "ab" * 32, b"GGUF"),
    ],
)
async def test_a_damaged_file_of_any_format_costs_one_log_line_and_no_read(store, readers, caplog, name, head):
    obj = store.put(name, 200 * MIB, head)
    reader = readers.open(obj, obj.key)
    for start in range(0, 16 * MIB, READ):
        assert len(await reader.read(start, start + READ)) == READ
    while readers.statistics().format_errors == 0:
        await trio.lowlevel.checkpoint()
    assert store.planned_bytes(obj) > 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert sum(stop - start for _, start, stop in store.probe_reads()) <= MAX_PROBED_BYTES


@pytest.mark.parametrize(("name", "head"), [("model.bin", b"\x80\2"), ("a.ckpt", b"text"), ("ab" * 32, b"{}")])
async def test_a_file_of_another_kind_than_its_name_lets_hope_is_no_warning(store, readers, caplog, name, head):
    obj = store.put(name, 200 * MIB, head)
    assert len(await readers.open(obj, obj.key).read(0, READ)) == READ
    await wait_all_tasks_blocked()
    assert len(store.probe_reads()) == 1, "one look at its head, which the reader wants as well"
    assert (readers.statistics().format_errors, caplog.records) == (0, [])


async def test_a_header_that_cannot_be_read_costs_the_plan_only(store, readers, caplog):
    caplog.set_level(logging.INFO)
    store.errors[Priority.PREFETCH] = ObjectUnavailableError("away")
    obj = store.put_tensors("a.safetensors", *[16 * MIB] * 16)
    reader = readers.open(obj, obj.key)
    assert len(await reader.read(0, READ)) == READ
    await wait_all_tasks_blocked()
    assert (readers.statistics().probe_errors, len(caplog.records)) == (1, 1)
    assert len(await reader.read(READ, 2 * READ)) == READ


async def test_readers_that_do_not_run_read_without_layouts(store):
    readers = Readers(store, ReaderConfig())
    obj = store.put_tensors("a.safetensors", *[16 * MIB] * 16)
    assert len(await readers.open(obj, obj.key).read(0, READ)) == READ
    assert store.probe_reads() == []


async def test_a_probe_ends_with_its_readers(store):
    """Cancelling run() cancels the probes, and later reads start none."""
    store.gates[Priority.PREFETCH] = trio.Event()
    readers = Readers(store, ReaderConfig())
    obj = store.put_tensors("a.safetensors", *[16 * MIB] * 16)
    async with trio.open_nursery() as nursery:
        await nursery.start(readers.run)
        await readers.open(obj, obj.key).read(0, READ)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    other = store.put_tensors("b.safetensors", *[16 * MIB] * 16)
    await readers.open(other, other.key).read(0, READ)
    assert readers.statistics().probes == 1


async def test_a_version_is_retained_while_somebody_has_it_open(store):
    obj = store.put("a", 100 * MIB)
    readers = Readers(store, ReaderConfig())
    first, second = readers.open(obj, "a"), readers.open(obj, "a")
    readers.close(first)
    assert store.retained[obj] == 1
    readers.close(second)
    assert store.retained[obj] == 0
    readers.open(obj, "a")
    assert store.retained[obj] == 1, "one that was kept is retained again"


async def test_a_layout_that_two_readers_found_counts_once(store, nursery):
    """Each time, the bound on all layouts was lowered for as long as the mount lives."""
    readers = Readers(store, ReaderConfig(), max_kept=0, max_tensors=5)
    await nursery.start(readers.run)
    gate = store.gates[Priority.PREFETCH] = trio.Event()
    first, second = (store.put_tensors(f"{name}.safetensors", 16 * MIB, 16 * MIB) for name in "ab")
    for _ in range(2):
        reader = readers.open(first, first.key)
        await reader.read(0, MIB)
        await wait_all_tasks_blocked()
        readers.close(reader)
    gate.set()
    await wait_all_tasks_blocked()
    assert (readers.statistics().probes, readers.statistics().layouts) == (2, 1)
    await readers.open(second, second.key).read(0, MIB)
    await wait_all_tasks_blocked()
    assert readers.statistics().layouts == 2
