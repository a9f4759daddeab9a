"""Small records: both stores keep the contract, and damage is never served."""

from __future__ import annotations

import tempfile
import threading
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import lmdb
import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tigrismount import threads
from tigrismount.cache import kept
from tigrismount.cache.index import CacheIndex
from tigrismount.cache.kept import TABLES, KeptRecords, RecordTables, TableBounds
from tigrismount.cache.memory import MemoryRecords
from tigrismount.cache.none import NoCache
from tigrismount.testing.records_contract import BOUNDS, RecordStoreContract
from tigrismount.testing.waiting import no_threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tigrismount.cache.base import RecordStore
    from tigrismount.errors import CacheError


class TestMemoryRecords(RecordStoreContract):
    @pytest.fixture(autouse=True)
    def _records(self) -> None:
        self.records = MemoryRecords(BOUNDS)

    @asynccontextmanager
    async def open_records(self) -> AsyncIterator[RecordStore]:
        yield self.records


class TestKeptRecords(RecordStoreContract):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = str(tmp_path)

    @asynccontextmanager
    async def open_records(self) -> AsyncIterator[RecordStore]:
        failures: list[CacheError] = []
        index = CacheIndex(self.path)
        records = KeptRecords(index, on_failure=failures.append, bounds=BOUNDS)
        yield records
        await records.sync()
        index.check()
        index.close()
        assert failures == []


async def test_records_of_no_cache_are_not_kept() -> None:
    records: RecordStore = NoCache().records
    assert not await records.put("orders", b"a", b"1")
    await records.delete("orders", b"a")
    assert (await records.get("orders", b"a"), await records.items("orders")) == (None, [])


async def test_failing_index_is_reported_and_not_raised(tmp_path: Path) -> None:
    failures: list[CacheError] = []
    index = CacheIndex(str(tmp_path))
    records = KeptRecords(index, on_failure=failures.append)
    index.close()
    assert not await records.put("orders", b"a", b"1")
    assert (await records.get("orders", b"a"), await records.items("orders")) == (None, None)
    await records.delete("orders", b"a")
    assert len(failures) == 4


async def test_records_that_found_no_thread_to_be_synced_in_are_synced_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: a power cut takes them, a refusal of bytes found wrong among them, however long ago they were put."""
    index = CacheIndex(str(tmp_path))
    records, synced = KeptRecords(index, on_failure=lambda _: None), []
    monkeypatch.setattr(index, "sync", lambda: synced.append(True))
    assert await records.put("checksums", b"bad/a", b"1")
    with no_threads(), pytest.raises(OSError, match="no thread left"):
        await records.sync()
    await records.sync()
    await records.sync()
    assert synced == [True]
    index.close()


async def test_records_on_a_disk_that_hangs_leave_threads_to_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: those that were left behind, some for each load, keep GETs from ending once there are forty."""
    hung = threading.Event()
    index = CacheIndex(str(tmp_path))
    put = RecordTables.put

    def hangs(tables: RecordTables, table: str, key: bytes, value: bytes) -> bool:
        hung.wait(60)
        return put(tables, table, key, value)

    failures: list[CacheError | OSError] = []
    records = KeptRecords(index, on_failure=failures.append)
    monkeypatch.setattr(kept, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(RecordTables, "put", hangs)
    try:
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(records.put, "orders", bytes([number]), b"")
        assert len(failures) == 60
        with trio.fail_after(10):
            assert await threads.run_sync(partial(pow, 2, 3)) == 8
            assert await records.get("orders", b"a") is None
        assert len(failures) == 60
    finally:
        hung.set()
        while records._changing.borrowed_tokens:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.02)
        index.close()


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:7], lambda data: data[:-1] + b"?"])
def test_damaged_record_is_missing_and_can_be_put_anew(tmp_path: Path, change: Any) -> None:
    """Mutation: without the checksum in ``_unpack`` the third change is served."""
    index = CacheIndex(str(tmp_path))
    tables = RecordTables(index)
    tables.put("orders", b"a", b"value")

    def damage(txn: Any) -> None:
        ((key, data),) = [(bytes(key), bytes(data)) for key, data in txn.cursor(db=index.records)]
        txn.put(key, change(data), db=index.records)

    index.write(damage)
    assert tables.get("orders", b"a") is None
    assert tables.items("orders") == []
    assert tables.put("orders", b"a", b"new")
    assert tables.items("orders") == [(b"a", b"new")]
    index.close()


def test_swapped_record_is_missing(tmp_path: Path) -> None:
    """A record found under another key, or in another table, is not that key's."""
    index = CacheIndex(str(tmp_path))
    tables = RecordTables(index)
    tables.put("orders", b"a", b"1")

    def swap(txn: Any) -> None:
        data = txn.get(b"orders\0a", db=index.records)
        txn.put(b"orders\0b", data, db=index.records)
        txn.put(b"loads\0a", data, db=index.records)

    index.write(swap)
    assert tables.get("orders", b"b") is None
    assert tables.get("loads", b"a") is None
    index.close()


def test_records_that_lost_their_order_can_still_be_forgotten(tmp_path: Path) -> None:
    """The books begin anew then. Mutation: below nothing they cannot be written, and the index counts as damaged."""
    index = CacheIndex(str(tmp_path))
    tables = RecordTables(index, {"orders": TableBounds(3, 400)})
    for key in (b"a", b"b", b"c"):
        tables.put("orders", key, b"")
    index.write(lambda txn: txn.drop(index.record_order, delete=False))
    assert tables.put("orders", b"d", b"")
    for key in (b"a", b"b", b"c", b"d"):
        tables.delete("orders", key)
    assert tables.put("orders", b"e", b"")
    assert tables.items("orders") == [(b"e", b"")]
    index.close()


class TablesMachine(RuleBasedStateMachine):
    """Any puts and deletes: the table is what the fake is, within its bounds, and its books add up."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.index = CacheIndex(self.directory.name)
        self.tables = RecordTables(self.index, {"orders": TableBounds(5, 400)})
        self.model: dict[bytes, bytes] = {}

    @rule(key=st.sampled_from([b"", b"a", b"b", b"c", b"d", b"e", b"f"]), length_bytes=st.integers(0, 110))
    def put(self, key: bytes, length_bytes: int) -> None:
        value = bytes(length_bytes)
        kept = self.tables.put("orders", key, value)
        assert kept == (len(key) + length_bytes <= 100)
        if kept:
            self.model.pop(key, None)
            while len(self.model) >= 5 or self.stored_bytes() + len(key) + length_bytes + 18 > 400:
                del self.model[next(iter(self.model))]
            self.model[key] = value

    @rule(key=st.sampled_from([b"a", b"b", b"c"]))
    def delete(self, key: bytes) -> None:
        self.tables.delete("orders", key)
        self.model.pop(key, None)

    @rule()
    def restart(self) -> None:
        self.index.close()
        self.index = CacheIndex(self.directory.name)
        self.tables = RecordTables(self.index, {"orders": TableBounds(5, 400)})

    def stored_bytes(self) -> int:
        return sum(len(key) + len(value) + 18 for key, value in self.model.items())

    @invariant()
    def agrees(self) -> None:
        assert self.tables.items("orders") == sorted(self.model.items())
        orders = self.index.read(lambda txn: txn.stat(self.index.record_order)["entries"])
        assert orders == len(self.model)

    def teardown(self) -> None:
        self.index.close()
        self.directory.cleanup()


TestTablesMachine = TablesMachine.TestCase
TestTablesMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_every_table_has_a_bound() -> None:
    assert set(TABLES) == {"orders", "loads", "metadata", "pins", "checksums"}


def test_looking_at_an_old_index_finds_no_records(tmp_path: Path) -> None:
    old_index(tmp_path)
    index = CacheIndex(str(tmp_path), readonly=True)
    tables = RecordTables(index)
    assert (tables.get("orders", b"a"), tables.items("orders")) == (None, [])
    index.check()
    index.close()


def test_opening_an_old_index_migrates_it(tmp_path: Path) -> None:
    old_index(tmp_path)
    for _ in range(2):
        index = CacheIndex(str(tmp_path))
        assert index.read(partial(read_schema, index)) == (2).to_bytes(8, "little")
        assert RecordTables(index).put("orders", b"a", b"1")
        index.close()


def read_schema(index: CacheIndex, txn: Any) -> bytes:
    return bytes(txn.get(b"schema", db=index.meta))


def old_index(path: Path) -> None:
    """Make an index as the release with schema 1 made it."""
    env = lmdb.open(str(path), max_dbs=3)
    for name in (b"objects", b"blocks", b"meta"):
        env.open_db(name)
    with env.begin(write=True) as txn:
        txn.put(b"schema", (1).to_bytes(8, "little"), db=env.open_db(b"meta", txn=txn))
    env.close()
