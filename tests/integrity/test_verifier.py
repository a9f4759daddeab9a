"""What is verified, when, at what cost, and what a mismatch means."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import mmap
import os
import random
import zlib

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.cache.none import NoCache
from tigrismount.core.types import ObjectId
from tigrismount.errors import CacheError, ObjectAccessError, ObjectMismatchError, ObjectUnavailableError
from tigrismount.integrity.readers import CheckedReaders
from tigrismount.integrity.sums import MAKERS, SUMMABLE
from tigrismount.integrity.verdicts import Compared, Verdicts
from tigrismount.integrity.verifier import Verifier
from tigrismount.objects.client import ListPage
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.testing.waiting import no_threads

BLOCK = 4096
DATA = bytes(range(256)) * 40
SHA = hashlib.sha256(DATA).hexdigest()
WRONG = hashlib.sha256(b"another").hexdigest()


@pytest.fixture
def client() -> MemoryObjectClient:
    return MemoryObjectClient()


@pytest.fixture
def cache() -> MemoryBlockCache:
    return MemoryBlockCache(block_bytes=BLOCK)


@pytest.fixture
def verdicts(cache) -> Verdicts:
    return Verdicts(cache.records, "tigris")


@pytest.fixture
def verifier(client, cache, verdicts) -> Verifier:
    return Verifier(client, cache, verdicts, least_bytes=1)


def fill(cache: MemoryBlockCache, obj: ObjectId, data: bytes = DATA) -> None:
    for index in range(-(-len(data) // BLOCK)):
        cache.put(obj, index, data[index * BLOCK : (index + 1) * BLOCK])


async def _nothing(_: int) -> None:
    await trio.lowlevel.checkpoint()


async def verified(verifier: Verifier, obj: ObjectId, *, anew: bool = False) -> list[bool]:
    return [one.matches for one in await verifier.verify(obj, _nothing, anew=anew)]


async def test_the_stores_own_records_are_compared(client, cache, verifier, verdicts) -> None:
    crc = f"{zlib.crc32(DATA):08x}"
    obj = client.put("m/a", DATA, sha256=SHA, checksums=(("crc32", crc), ("xxh128", "0" * 32)))
    fill(cache, obj)
    assert await verified(verifier, obj) == [True, True]  # what cannot be computed here is left out
    assert await verdicts.sha256(obj) == SHA
    assert verdicts.refused == {}
    bad = client.put("m/b", DATA, checksums=(("crc32", "00000000"),))
    fill(cache, bad)
    assert await verified(verifier, bad) == [False]
    assert "its crc32 is" in verdicts.refused[bad]


def bitwise_crc(polynomial: int, bits: int) -> str:
    """CRC as in the catalogue, one bit at a time: reflected, all ones before and after."""
    reflected, ones = int(f"{polynomial:0{bits}b}"[::-1], 2), (1 << bits) - 1
    crc = ones
    for byte in DATA:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ reflected * (crc & 1)
    return f"{crc ^ ones:0{bits // 4}x}"


STORED = {
    "sha256": SHA,
    "sha1": hashlib.sha1(DATA, usedforsecurity=False).hexdigest(),
    "crc32": bitwise_crc(0x04C11DB7, 32),
    "crc32c": bitwise_crc(0x1EDC6F41, 32),
    "crc64nvme": bitwise_crc(0xAD93D23594C93659, 64),
}


def put_with(client: MemoryObjectClient, key: str, algorithm: str) -> ObjectId:
    """An object with the true sum of its bytes, of one kind."""
    if algorithm == "sha256":
        return client.put(key, DATA, sha256=STORED[algorithm])
    return client.put(key, DATA, checksums=((algorithm, STORED[algorithm]),))


@pytest.mark.parametrize("algorithm", STORED)
async def test_one_bit_that_flipped_on_its_way_is_found_under_each_algorithm(
    client, cache, verifier, verdicts, algorithm
) -> None:
    """Mutation: an algorithm that is not among ``SUMMABLE`` finds nothing to compare, and the first assertion fails."""
    whole, flipped = put_with(client, "m/whole", algorithm), put_with(client, "m/flipped", algorithm)
    fill(cache, whole)
    assert await verified(verifier, whole) == [True]
    lie = bytearray(DATA)
    lie[-1] ^= 1  # in the last block, which is short
    fill(cache, flipped, bytes(lie))
    assert await verified(verifier, flipped) == [False]
    assert f"its {algorithm} is" in verdicts.refused[flipped]


@pytest.mark.parametrize("algorithm", sorted(SUMMABLE - {"sha256", "sha1"}))
async def test_a_crc_of_a_large_block_is_that_of_its_bytes(algorithm) -> None:
    """Sums are taken in pieces; mutation: pieces that are not chained give another one."""
    data = memoryview(random.Random(1).randbytes((3 << 20) + 5))
    at_once, in_blocks = MAKERS[algorithm](), MAKERS[algorithm]()
    at_once.update(data)
    for start in range(0, len(data), 777_777):
        in_blocks.update(data[start : start + 777_777])
    assert at_once.hexdigest() == in_blocks.hexdigest()
    assert at_once.hexdigest() != MAKERS[algorithm]().hexdigest()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SHA256SUMS", "{sum}  a.gguf\n"),
        ("sha256sums.txt", "{sum} *./a.gguf\n"),
        ("a.gguf.sha256", "{sum}\n"),
        ("a.gguf.sha256", "version https://git-lfs.github.com/spec/v1\noid sha256:{sum}\nsize 1\n"),
    ],
)
@pytest.mark.parametrize(("expected", "matches"), [(SHA, True), (WRONG, False)])
async def test_a_manifest_beside_it_is_compared(
    client, cache, verifier, verdicts, name, text, expected, matches
) -> None:
    obj = client.put("m/a.gguf", DATA)
    client.put(f"m/{name}", text.format(sum=expected).encode())
    fill(cache, obj)
    assert await verified(verifier, obj) == [matches]
    assert (obj in verdicts.refused) is not matches
    if not matches:
        assert f"s3://bucket/m/{name} says {WRONG}" in verdicts.refused[obj]


async def test_a_manifest_behind_a_page_without_a_row_is_compared(client, cache, verifier, monkeypatch) -> None:
    """Stores send such pages where rows were deleted; a model whose sum nobody found could be opened, poisoned."""
    obj = client.put("m/a", DATA)
    client.put("m/SHA256SUMS", f"{WRONG}  a\n".encode())
    list_page = client.list_page

    async def late(*place: str, token: str | None = None, **how: object) -> ListPage:
        page = await list_page(*place, token=None if token == "first" else token, **how)
        return ListPage((), (), "first") if token is None else page

    monkeypatch.setattr(client, "list_page", late)
    fill(cache, obj)
    assert await verified(verifier, obj) == [False]


async def test_a_manifest_behind_a_page_of_a_few_rows_is_compared(client, cache, verifier, monkeypatch) -> None:
    """Stores may send fewer rows than asked for, and do where rows were deleted among them."""
    obj = client.put("m/a", DATA)
    client.put("m/SHA256SUMS", f"{WRONG}  a\n".encode())
    client.put("m/0/b", b"")
    list_page = client.list_page

    async def by_one(*place: str, max_keys: int = 1000, **how: object) -> ListPage:
        return await list_page(*place, max_keys=1, **how)

    monkeypatch.setattr(client, "list_page", by_one)
    fill(cache, obj)
    assert await verified(verifier, obj) == [False]


async def test_a_manifest_that_is_older_than_the_object_says_nothing_of_it(client, cache, verifier) -> None:
    client.put("m/SHA256SUMS", f"{WRONG}  a\n".encode(), mtime_s=1000)
    obj = client.put("m/a", DATA, mtime_s=2000)
    fill(cache, obj)
    assert await verified(verifier, obj) == []


async def test_a_blob_of_a_hub_cache_is_compared_with_its_name_and_costs_no_request(client, cache, verifier) -> None:
    good, bad = client.put(f"hub/blobs/{SHA}", DATA), client.put(f"hub/blobs/{WRONG}", DATA)
    fill(cache, good)
    fill(cache, bad)
    assert await verified(verifier, good) == [True]
    assert await verified(verifier, bad) == [False]
    assert client.requests == []


async def test_it_asks_once_and_reads_no_data_from_the_store(client, cache, verifier) -> None:
    objects = [client.put(f"m/{n}", DATA) for n in range(3)]
    client.put("m/SHA256SUMS", "".join(f"{SHA}  {n}\n" for n in range(3)).encode())
    for obj in objects:
        fill(cache, obj)
        assert await verified(verifier, obj) == [True]
        assert await verified(verifier, obj) == [True]
    kinds = [request[0] for request in client.requests]
    assert {kind: kinds.count(kind) for kind in kinds} == {"HEAD": 3, "LIST": 1, "GET": 1}


async def test_where_nothing_is_known_nothing_is_read(client, cache, verifier) -> None:
    obj = client.put("m/a", DATA)
    fill(cache, obj)
    assert await verified(verifier, obj) == []
    assert cache.reads == []
    assert verifier.statistics().unknown == 1
    assert await verified(verifier, obj, anew=True) == []
    assert len(cache.reads) == 3, "who asks for a check gets every block read back"


async def test_verdicts_outlive_the_process_and_other_daemons_learn_them(client, cache, verifier) -> None:
    obj = client.put("m/a", DATA, sha256=WRONG)
    fill(cache, obj)
    await verified(verifier, obj)
    other = Verdicts(cache.records, "tigris")
    await other.load()
    assert list(other.refused) == [obj]
    foreign = Verdicts(cache.records, "another-store")
    await foreign.load()
    assert foreign.refused == {}


async def test_looking_again_takes_a_refusal_back_once_the_manifest_is_right(client, cache, verifier, verdicts) -> None:
    obj = client.put("m/a", DATA)
    fill(cache, obj)
    client.put("m/a.sha256", WRONG.encode())
    assert await verified(verifier, obj) == [False]
    verifier._finder.forget()
    client.put("m/a.sha256", SHA.encode())
    assert await verified(verifier, obj) == [False], "nobody asked to look again"
    assert await verified(verifier, obj, anew=True) == [True]
    assert verdicts.refused == {}
    client.delete("m/a.sha256")
    verifier._finder.forget()
    assert await verified(verifier, obj, anew=True) == []
    assert await verdicts.find(obj) is None


async def test_a_store_that_cannot_say_whether_there_is_a_manifest_takes_no_refusal_back(
    client, cache, verifier, verdicts
) -> None:
    """Mutation: a listing that fails for a moment is one without a manifest, and the model can be opened."""
    obj = client.put("m/a", DATA)
    fill(cache, obj)
    client.put("m/a.sha256", WRONG.encode())
    assert await verified(verifier, obj) == [False]
    verifier._finder.forget()
    client.fail(ObjectUnavailableError("away", bucket="bucket", key="m/"), "LIST")
    with pytest.raises(ObjectUnavailableError):
        await verified(verifier, obj, anew=True)
    assert obj in verdicts.refused
    assert await verified(verifier, obj, anew=True) == [False]
    client.fail(ObjectAccessError("no listing", bucket="bucket", key="m/"), "LIST")
    verifier._finder.forget()
    assert await verified(verifier, obj, anew=True) == [], "a public bucket, say: nothing is known"


async def test_a_block_that_the_disk_damaged_is_no_mismatch(client, cache, verifier, verdicts) -> None:
    obj = client.put("m/a", DATA, sha256=SHA)
    fill(cache, obj)
    cache.corrupt(obj, 1)
    with pytest.raises(CacheError):
        await verified(verifier, obj)
    assert verdicts.refused == {}


async def test_a_system_without_a_thread_is_no_mismatch(client, cache, verifier, verdicts) -> None:
    obj = client.put("m/a", DATA, sha256=SHA)
    fill(cache, obj)
    with no_threads(), pytest.raises(CacheError, match="its checksums cannot be computed: the system has no thread"):
        await verified(verifier, obj)
    assert verdicts.refused == {}
    assert await verified(verifier, obj) == [True]


async def test_a_machine_without_memory_for_a_block_is_no_mismatch(
    client, cache, verifier, verdicts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: the error of the system is none of ours, and ends the worker that verifies in quiet moments."""
    obj = client.put("m/a", DATA, sha256=SHA)
    fill(cache, obj)

    def no_memory(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with monkeypatch.context() as full:
        full.setattr(mmap, "mmap", no_memory)
        with pytest.raises(CacheError, match="there is no memory for a block"):
            await verified(verifier, obj)
    assert verdicts.refused == {}
    assert await verified(verifier, obj) == [True]


class _Reader:
    def try_read(self, start: int, stop: int) -> bytes:
        return DATA[start:stop]

    async def read(self, start: int, stop: int) -> bytes:
        return DATA[start:stop]


class _Readers:
    def open(self, _obj, _key) -> _Reader:
        return _Reader()

    def close(self, _reader) -> None:
        pass


async def test_a_refused_version_is_neither_opened_nor_read_on(client, cache, verifier, verdicts, caplog) -> None:
    obj = client.put("m/a", DATA, sha256=WRONG)
    fill(cache, obj)
    readers = CheckedReaders(_Readers(), verdicts)
    reader = readers.open(obj, obj.key)
    assert reader.try_read(0, 4) == await reader.read(0, 4) == DATA[:4]
    with caplog.at_level(logging.ERROR):
        await verified(verifier, obj)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "warm --check" in caplog.text
    assert reader.try_read(0, 4) is None
    with pytest.raises(ObjectMismatchError, match="--verify off"):
        await reader.read(0, 4)
    with pytest.raises(ObjectMismatchError):
        readers.open(obj, obj.key)


async def test_it_waits_until_the_store_is_quiet_and_is_not_put_off_for_ever(
    client, cache, verdicts, nursery, autojump_clock
) -> None:
    quiet = False
    verifier = Verifier(client, cache, verdicts, quiet=lambda: quiet, least_bytes=1)
    await nursery.start(verifier.run)
    first = client.put("m/a", DATA, sha256=SHA)
    fill(cache, first)
    verifier.note_whole(first)
    await trio.sleep(10)
    assert verifier.statistics().verified == 0
    assert cache.reads == []
    quiet = True
    await trio.sleep(1)
    assert verifier.statistics().verified == 1
    quiet = False
    second = client.put("m/b", DATA, sha256=SHA)
    fill(cache, second)
    verifier.note_whole(second)
    await trio.sleep(200)
    assert verifier.statistics().verified == 1
    await trio.sleep(200)
    assert verifier.statistics().verified == 2


async def test_what_comes_into_the_cache_again_is_compared_again(client, cache, nursery, autojump_clock) -> None:
    """Mutation: that it was right before it was evicted counts, and what was damaged on its way is served."""
    now_s = 1000
    verdicts = Verdicts(cache.records, "tigris", clock=lambda: now_s)
    verifier = Verifier(client, cache, verdicts, least_bytes=1)
    await nursery.start(verifier.run)
    obj = client.put("m/a", DATA, sha256=SHA)
    fill(cache, obj)
    for _ in range(2):  # the second time as a daemon that has fetched a part of it
        verifier.note_whole(obj)
        await trio.sleep(5)
    assert verifier.statistics().verified == 1
    now_s += 60
    fill(cache, obj, b"?" + DATA[1:])
    verifier.note_whole(obj)
    await trio.sleep(5)
    assert list(verdicts.refused) == [obj]
    now_s += 60
    fill(cache, obj)
    verifier.note_whole(obj)
    await trio.sleep(5)
    assert list(verdicts.refused) == [obj], "that is for who looks again"


async def test_small_files_and_a_store_that_is_away_cost_nothing_but_a_line(
    client, cache, verdicts, nursery, autojump_clock
) -> None:
    verifier = Verifier(client, cache, verdicts, least_bytes=len(DATA))
    await nursery.start(verifier.run)
    small, large = client.put("m/small", DATA[:-1], sha256=SHA), client.put("m/large", DATA, sha256=SHA)
    fill(cache, small, DATA[:-1])
    fill(cache, large)
    client.fail(ObjectUnavailableError("away"), "HEAD")
    for _ in range(2):
        verifier.note_whole(small)
        verifier.note_whole(large)
        await trio.sleep(5)
    assert verifier.statistics().verified == 1
    assert [request for request in client.requests if request[0] == "HEAD"] == [("HEAD", "m/large")] * 2
    assert verifier.statistics().verified == 1


class _SlowRecords:
    """Records whose listing takes until it is let go."""

    def __init__(self, records) -> None:
        self._records = records
        self.go_on = trio.Event()

    async def items(self, table: str, prefix: bytes = b"", limit: int = 1000) -> list[tuple[bytes, bytes]] | None:
        found = await self._records.items(table, prefix, limit)
        await self.go_on.wait()
        return found

    def __getattr__(self, name: str) -> object:
        return getattr(self._records, name)


async def test_what_is_found_while_verdicts_are_learned_is_not_forgotten(cache) -> None:
    """Mutation: a load that does not look whether something changed opens the model again for a minute."""
    records = _SlowRecords(cache.records)
    verdicts = Verdicts(records, "tigris")
    obj = ObjectId("b", "m", "etag", len(DATA))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(verdicts.load)
        await wait_all_tasks_blocked()
        await verdicts.keep(obj, [Compared("sha256", WRONG, SHA, "a test")])
        records.go_on.set()
    assert obj in verdicts.refused


class _SlowChanges:
    """Records in which one kind of change takes until it is let go."""

    def __init__(self, records, slow: str) -> None:
        self._records = records
        self._slow = slow
        self.go_on = trio.Event()

    async def _change(self, kind: str, *what) -> bool | None:
        if kind == self._slow:
            await self.go_on.wait()
        return await getattr(self._records, kind)(*what)

    async def put(self, *what) -> bool | None:
        return await self._change("put", *what)

    async def delete(self, *what) -> bool | None:
        return await self._change("delete", *what)

    def __getattr__(self, name: str) -> object:
        return getattr(self._records, name)


async def test_a_refusal_holds_while_it_is_being_kept(cache) -> None:
    """Mutation: verdicts that are learned on a busy disk before it is kept open the model again for a minute."""
    records = _SlowChanges(cache.records, "put")
    verdicts = Verdicts(records, "tigris")
    obj = ObjectId("b", "m", "etag", len(DATA))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(verdicts.keep, obj, [Compared("sha256", WRONG, SHA, "a test")])
        await wait_all_tasks_blocked()
        await verdicts.load()
        assert obj in verdicts.refused
        records.go_on.set()
    assert obj in verdicts.refused


async def test_a_refusal_holds_where_its_finder_is_cancelled_while_it_is_being_kept(cache) -> None:
    """As who asked for ``warm --check`` leaves: never kept, it would be gone when verdicts are learned again."""
    records = _SlowChanges(cache.records, "put")
    verdicts = Verdicts(records, "tigris")
    obj = ObjectId("b", "m", "etag", len(DATA))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(verdicts.keep, obj, [Compared("sha256", WRONG, SHA, "a test")])
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        records.go_on.set()
    await verdicts.load()
    assert obj in verdicts.refused


@pytest.mark.parametrize("found_right", [True, False])
async def test_a_refusal_does_not_come_back_where_who_takes_it_back_is_cancelled(cache, found_right) -> None:
    """Mutation: the model was found right, and is an EIO again for as long as nobody looks once more."""
    records = _SlowChanges(cache.records, "delete")
    verdicts = Verdicts(records, "tigris")
    obj = ObjectId("b", "m", "etag", len(DATA))
    records.go_on.set()
    await verdicts.keep(obj, [Compared("sha256", WRONG, SHA, "a test")])
    records.go_on = trio.Event()
    async with trio.open_nursery() as nursery:
        if found_right:
            nursery.start_soon(verdicts.keep, obj, [Compared("sha256", SHA, SHA, "a test")])
        else:
            nursery.start_soon(verdicts.forget, obj)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        records.go_on.set()
    await verdicts.load()
    assert verdicts.refused == {}


@pytest.mark.parametrize("found_right", [True, False])
async def test_a_refusal_that_is_being_taken_back_does_not_come_back(cache, found_right) -> None:
    """Mutation: learned once more before the records have forgotten it, it is an EIO for another minute."""
    records = _SlowChanges(cache.records, "delete")
    verdicts = Verdicts(records, "tigris")
    obj = ObjectId("b", "m", "etag", len(DATA))
    records.go_on.set()
    await verdicts.keep(obj, [Compared("sha256", WRONG, SHA, "a test")])
    records.go_on = trio.Event()
    async with trio.open_nursery() as nursery:
        if found_right:
            nursery.start_soon(verdicts.keep, obj, [Compared("sha256", SHA, SHA, "a test")])
        else:
            nursery.start_soon(verdicts.forget, obj)
        await wait_all_tasks_blocked()
        await verdicts.load()
        assert verdicts.refused == {}
        records.go_on.set()
    await verdicts.load()
    assert verdicts.refused == {}


async def test_a_refusal_holds_while_the_records_cannot_be_read(cache, verdicts) -> None:
    """Mutation: a disk that hangs at the next look, and has nothing to say, opens the model again for a minute."""
    obj = ObjectId("b", "m", "etag", len(DATA))
    await verdicts.keep(obj, [Compared("sha256", WRONG, SHA, "a test")])
    cache.records.refuse = True
    await verdicts.load()
    assert obj in verdicts.refused
    cache.records.refuse = False
    await Verdicts(cache.records, "tigris").forget(obj)
    await verdicts.load()
    assert verdicts.refused == {}, "another daemon has taken it back"


async def test_a_refusal_that_the_cache_cannot_keep_holds_in_this_daemon() -> None:
    """Mutation: without ``_unkept`` the next look at the records opens the model again."""
    verdicts = Verdicts(NoCache(BLOCK).records, "tigris")
    obj = ObjectId("b", "m", "etag", len(DATA))
    await verdicts.keep(obj, [Compared("sha256", WRONG, SHA, "a test")])
    await verdicts.load()
    assert obj in verdicts.refused
    await verdicts.keep(obj, [Compared("sha256", SHA, SHA, "a test")])
    await verdicts.load()
    assert verdicts.refused == {}


@pytest.mark.parametrize("sums", ["[]", f'[{{"algorithm":"sha256","expected":"{SHA}","found":"{SHA}","origin":"x"}}]'])
async def test_a_refusal_without_a_reason_is_none(cache, verdicts, sums) -> None:
    """Mutation: to look for what is wrong with it ended the daemon."""
    facts = f'{{"store_id":"tigris","bucket":"b","key":"k","etag":"e","size_bytes":1,"sums":{sums}}}'
    await cache.records.put("checksums", b"bad/x", facts.encode())
    await verdicts.load()
    assert verdicts.refused == {}


async def test_a_refusal_of_another_release_holds(cache, verdicts) -> None:
    """Mutation: behind a downgrade what was found wrong is read as if nobody had looked."""
    obj = ObjectId("b", "m", "etag", len(DATA))
    compared = [Compared("sha256", WRONG, SHA, "a test")]
    await verdicts.keep(obj, compared)
    ((key, value),) = await cache.records.items("checksums")
    facts = json.loads(value)
    facts["sums"][0]["seconds"] = facts["release"] = 2
    await cache.records.put("checksums", key, json.dumps(facts).encode())
    other = Verdicts(cache.records, "tigris")
    await other.load()
    assert obj in other.refused
    assert await other.find(obj) == compared
