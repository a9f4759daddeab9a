"""The index: what is packed comes back, totals agree with what they count, the map grows."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.cache.environment import Environment
from tigrismount.cache.index import CacheIndex, Totals
from tigrismount.cache.records import (
    BlockRecord,
    ObjectRecord,
    block_key,
    boot_token,
    object_digest,
    split_block_key,
    valid_block_bytes,
)
from tigrismount.core.types import ObjectId
from tigrismount.errors import CacheCorruptError, CacheError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)
OBJECT = ObjectRecord("store", "bucket", "key", "etag", 100_000, 4096, last_used_ms=5)
BLOCK = BlockRecord(4096, 7, boot_token("boot"), 0, synced=False)
A, B = b"a" * 32, b"b" * 32


@pytest.fixture
def index(tmp_path: Path) -> Iterator[CacheIndex]:
    index = CacheIndex(str(tmp_path))
    yield index
    index.check()
    index.close()


def put_blocks(index: CacheIndex, count: int) -> None:
    for number in range(count):
        index.put_block(A, OBJECT, number, BLOCK)


@given(st.builds(BlockRecord, U32, U64, st.binary(min_size=16, max_size=16), U32, st.booleans()))
def test_block_record_comes_back(block: BlockRecord) -> None:
    assert BlockRecord.unpack(block.pack()) == block


@given(st.builds(ObjectRecord, ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT, U64, U32, U64, U64))
def test_object_record_comes_back(record: ObjectRecord) -> None:
    assert ObjectRecord.unpack(record.pack()) == record


@given(st.binary(max_size=120))
def test_any_bytes_unpack_or_are_damage(data: bytes) -> None:
    for unpack in (BlockRecord.unpack, ObjectRecord.unpack, split_block_key):
        try:
            unpack(data)
        except CacheCorruptError:
            continue


@given(st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT, U64), st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT, U64))
def test_digests_differ_when_anything_does(one: tuple, other: tuple) -> None:
    digests = {object_digest(store, ObjectId(*rest)) for store, *rest in (one, other)}
    assert len(digests) == len({one, other})


def test_digest_is_not_fooled_by_where_a_field_ends() -> None:
    assert object_digest("ab", ObjectId("c", "", "", 1)) != object_digest("a", ObjectId("bc", "", "", 1))


def test_digest_never_changes() -> None:
    """A cache written by an earlier release of this schema must be found again."""
    digest = object_digest(
        "tigris", ObjectId("models", "llama/model.safetensors", "9b2cf535f27731c974343645a3985328", 5)
    )
    assert digest.hex() == "57c41e9162e9fd27419aba4ce9333b125abbcf63cc1d21f3fb9944116fcc5b75"


def test_block_keys_sort_by_index() -> None:
    keys = [block_key(A, index) for index in (0, 1, 255, 256, 70_000)]
    assert keys == sorted(keys)
    assert split_block_key(keys[-1]) == (A, 70_000)


@pytest.mark.parametrize(
    ("block_bytes", "valid"), [(0, False), (2048, False), (4096, True), (5000, False), (1 << 26, True)]
)
def test_block_sizes(block_bytes: int, valid: bool) -> None:
    assert valid_block_bytes(block_bytes) == valid


def test_totals_follow_every_change(index: CacheIndex) -> None:
    for digest in (A, B):
        for number in range(3):
            assert index.put_block(digest, OBJECT, number, BLOCK) == BLOCK
    assert index.count() == Totals(6 * 4096, 2, 6)
    assert index.drop_block(A, 1, BLOCK)
    assert not index.drop_block(A, 1, BLOCK)
    assert index.bytes_cached == 5 * 4096
    assert index.object(A) == replace(OBJECT, cached_bytes=2 * 4096)
    assert index.drop_object(B) == 3 * 4096
    assert index.drop_object(B) == 0
    assert index.count() == Totals(2 * 4096, 1, 2)
    assert sorted(index.blocks(A)) == [0, 2]
    assert index.blocks(B) == {}


def test_older_look_does_not_replace_a_newer_sum(index: CacheIndex) -> None:
    """Mutation: without the comparison of transactions the sum is what it was before the block."""

    def look(txn: Any) -> int:
        writer = threading.Thread(target=index.put_block, args=(A, OBJECT, 0, BLOCK))
        writer.start()
        writer.join()
        return index._bytes(txn)

    assert index.read(look) == 0
    assert index.bytes_cached == 4096


@pytest.mark.parametrize("error", [lmdb.DiskError("full"), ZeroDivisionError()])
def test_sum_of_a_change_that_failed_does_not_stay(index: CacheIndex, error: Exception) -> None:
    """Mutation: where its transaction stays the newest, no look at the index counts."""

    def fail(txn: Any) -> None:
        index._add_bytes(txn, 4096)
        raise error

    index.put_block(A, OBJECT, 0, BLOCK)
    with pytest.raises((CacheError, ZeroDivisionError)):
        index.write(fail)
    assert index.count().bytes_cached == 4096
    assert index.bytes_cached == 4096


def test_room_that_could_not_be_given_back_is_there_for_the_next_block(
    index: CacheIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: without the look at what is owed in ``reserve`` it waits until the disk is tried after a failure."""

    def fail(*_: object, **__: object) -> None:
        raise CacheError("the disk is full")

    assert index.reserve(1000, 1000, 1000)
    with monkeypatch.context() as full:
        full.setattr(Environment, "transact", fail)
        with pytest.raises(CacheError):
            index.release(1000)
    assert index.reserve(1000, 1000, 1000)


def test_first_record_of_a_block_stays(index: CacheIndex) -> None:
    index.put_block(A, OBJECT, 0, BLOCK)
    assert index.put_block(A, OBJECT, 0, BLOCK._replace(checksum=8)) == BLOCK
    assert index.bytes_cached == 4096


def test_version_keeps_its_block_size(index: CacheIndex) -> None:
    index.put_block(A, OBJECT, 0, BLOCK)
    assert index.put_block(A, replace(OBJECT, block_bytes=8192), 1, BLOCK) is None
    assert index.count().blocks == 1


def test_block_recorded_anew_is_not_dropped_for_the_old_one(index: CacheIndex) -> None:
    index.put_block(A, OBJECT, 0, BLOCK._replace(checksum=8))
    assert not index.drop_block(A, 0, BLOCK)
    assert index.count().blocks == 1


def test_only_known_records_are_replaced(index: CacheIndex) -> None:
    index.put_block(A, OBJECT, 0, BLOCK)
    index.put_block(A, OBJECT, 1, BLOCK._replace(checksum=8))
    synced = BLOCK._replace(synced=True)
    index.replace_blocks([(A, 0, BLOCK, synced), (A, 1, BLOCK, synced), (A, 2, BLOCK, synced)])
    assert index.blocks(A) == {0: synced, 1: BLOCK._replace(checksum=8)}


def test_recency_only_grows_and_only_for_known_versions(index: CacheIndex) -> None:
    index.put_block(A, OBJECT, 0, BLOCK)
    index.touch({A: 9, B: 9})
    index.touch({A: 3})
    assert {digest: record.last_used_ms for digest, record in index.objects().items()} == {A: 9}


def test_map_grows_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tigrismount.cache.environment._MAP_BYTES", 1 << 16)
    index = CacheIndex(str(tmp_path))
    put_blocks(index, 2000)
    assert (len(index.blocks(A)), index.bytes_cached) == (2000, 2000 * 4096)
    index.check()
    index.close()


def test_map_that_another_process_has_grown_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"""if True:
        import sys
        from tigrismount.cache.index import CacheIndex
        from tigrismount.cache.records import BlockRecord, ObjectRecord
        index = CacheIndex(sys.argv[1])
        for number in range(2000):
            index.put_block({A!r}, {OBJECT!r}, number, {BLOCK!r})
        """
    monkeypatch.setattr("tigrismount.cache.environment._MAP_BYTES", 1 << 16)
    index = CacheIndex(str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=True)
    assert len(index.blocks(A)) == 2000
    assert index._env._map_bytes == index._env._env.info()["map_size"] > 1 << 16
    for number in range(2000):
        index.put_block(B, OBJECT, number, BLOCK)  # and it grows on from there
    assert index.count() == Totals(4000 * 4096, 2, 4000)
    index.check()
    index.close()
    index = CacheIndex(str(tmp_path))
    assert index._env._map_bytes == index._env._env.info()["map_size"] > 1 << 16
    index.close()


def test_map_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tigrismount.cache.environment._MAP_BYTES", 1 << 16)
    monkeypatch.setattr("tigrismount.cache.environment._MAP_LIMIT_BYTES", 1 << 16)
    index = CacheIndex(str(tmp_path))
    with pytest.raises(CacheError, match="has grown to"):
        put_blocks(index, 2000)
    assert index.blocks(A)
    index.close()


def test_epoch_rises_when_the_machine_went_down_at_work(tmp_path: Path) -> None:
    def session(boot_id: str, *, clean: bool, writes: bool = True) -> int:
        index = CacheIndex(str(tmp_path))
        epoch = index.begin_session(boot_id, 1000)
        if writes:
            index.rewrite_totals()
            assert index.capacity_bytes() == 1000
        if clean:
            index.end_session()
            index.end_session()
        index.close()
        return epoch

    assert session("one", clean=True) == 0
    assert session("two", clean=False) == 0
    assert session("two", clean=True) == 0
    assert session("three", clean=False, writes=False) == 1  # that of boot two, killed; this process lives
    assert session("three", clean=False) == 1
    assert session("three", clean=False) == 1
    assert session("four", clean=True) == 2
    assert session("five", clean=False, writes=False) == 2
    assert session("six", clean=True) == 2


def test_session_of_a_dead_process_in_this_boot_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = CacheIndex(str(tmp_path))
    monkeypatch.setattr("os.getpid", lambda: 2**30)
    index.begin_session("one", 1)
    index.rewrite_totals()
    monkeypatch.undo()
    assert index.begin_session("one", 1) == 0
    index.rewrite_totals()
    index.end_session()
    assert index.begin_session("two", 1) == 0
    index.close()


def test_daemons_that_cannot_see_each_other_in_proc_know_each_other_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two units do with ProtectProc=invisible. Mutation: the session of who works on is gone, and with it what says
    that a power cut found somebody at work; and what it has set aside is given to others.
    """
    index = CacheIndex(str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        monkeypatch.setattr("os.getpid", lambda: other.pid)
        index.begin_session("one", 1000)
        assert index.reserve(600, 1000, 1000)
        monkeypatch.undo()
        monkeypatch.setattr("os.path.exists", lambda path: not str(path).startswith("/proc/"))
        index.begin_session("one", 1000)
        assert not index.reserve(600, 1000, 1000)
        assert index.reserved_bytes() == 600
        index.end_session()
        other.kill()
    assert index.begin_session("two", 1000) == 1
    index.close()


def test_room_set_aside_by_a_killed_container_is_free_for_the_next_with_its_pid(tmp_path: Path) -> None:
    """Both are process 7 of their namespace. Mutation: without ``alone`` it is never free again."""
    index = CacheIndex(str(tmp_path))
    index.begin_session("one", 1)
    assert index.reserve(1000, 1000, 1000)
    index.close()
    index = CacheIndex(str(tmp_path))
    index.begin_session("one", 1, alone=True)
    assert index.reserved_bytes() == 0
    assert index.reserve(1000, 1000, 1000)
    index.end_session()
    index.close()


def test_readonly_sees_what_a_writer_has_committed(tmp_path: Path) -> None:
    index = CacheIndex(str(tmp_path))
    index.put_block(A, OBJECT, 0, BLOCK)
    index.close()
    reader = CacheIndex(str(tmp_path), readonly=True)
    assert (reader.bytes_cached, reader.capacity_bytes()) == (4096, 0)
    with pytest.raises(CacheError):
        reader.drop_object(A)
    reader.close()


def test_closed_index_fails_as_a_cache_does(tmp_path: Path) -> None:
    index = CacheIndex(str(tmp_path))
    index.close()
    index.close()
    for call in (lambda: index.blocks(A), lambda: index.put_block(A, OBJECT, 0, BLOCK), index.sync):
        with pytest.raises(CacheError):
            call()


def test_index_of_something_else_is_not_taken_over(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path)) as env, env.begin(write=True) as txn:
        txn.put(b"theirs", b"data")
    with pytest.raises(CacheCorruptError, match="schema 0"):
        CacheIndex(str(tmp_path))


def test_a_reader_that_was_killed_does_not_make_the_index_of_others_grow(tmp_path: Path) -> None:
    """Mutation: without a look for dead readers after it was opened, no page is used again until it is closed."""
    environment = Environment(str(tmp_path), [b"one"], readonly=False)
    program = (
        "import lmdb, sys, time; environment = lmdb.open(sys.argv[1], create=False, max_dbs=2); "
        "transaction = environment.begin(); print('reads', flush=True); time.sleep(60)"
    )
    reader = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"reads\n"
    reader.kill()
    reader.communicate()

    def put(number: int) -> None:
        def work(txn: Any) -> None:
            txn.put(b"key", b"%d" % number * 100, db=environment.databases[0])

        environment.transact(work, write=True)
        environment.sync()

    for number in range(300):
        put(number)
    taken_bytes = (tmp_path / "data.mdb").stat().st_size
    environment.close()

    assert taken_bytes < 200_000
