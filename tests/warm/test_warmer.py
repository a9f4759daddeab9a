"""The engine of warming, over fakes: what it fetches, what it reports, when it stops."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.blocks.options import BlocksConfig
from tigrismount.blocks.store import BlockStore
from tigrismount.cache import base
from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.core.types import ObjectId
from tigrismount.errors import ObjectNotFoundError, ObjectUnavailableError
from tigrismount.integrity.verdicts import Compared, Verdicts
from tigrismount.integrity.verifier import Verifier
from tigrismount.objects.client import ListPage, ObjectInfo
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.testing.waiting import until
from tigrismount.warm.filling import FIRST_JOBS, WAITING_BLOCKS, Work
from tigrismount.warm.follow import follow
from tigrismount.warm.report import Failure, Progress, WarmReport
from tigrismount.warm.selection import Target
from tigrismount.warm.warmer import Warmer

KIB = 1 << 10
BLOCK = 64 * KIB


class Bench:
    """A warmer's surroundings."""

    def __init__(self, client: MemoryObjectClient, cache: MemoryBlockCache, store: BlockStore) -> None:
        self.client = client
        self.cache = cache
        self.store = store
        self.verifier = Verifier(client, cache, Verdicts(cache.records, "tigris"), least_bytes=1 << 40)

    def job(self, jobs: int = 8, held: int = 64) -> Warmer:
        return Warmer(self.client, self.cache, self.store, verifier=self.verifier, jobs=jobs, most_held=held)

    async def warm(self, *names: str, jobs: int = 8) -> WarmReport:
        return await self.job(jobs).run([Target("bucket", name) for name in names])

    def gets(self) -> list[tuple[object, ...]]:
        return [request for request in self.client.requests if request[0] == "GET"]


@asynccontextmanager
async def _bench(capacity_bytes: int = 1 << 40) -> AsyncIterator[Bench]:
    client = MemoryObjectClient()
    cache = MemoryBlockCache(block_bytes=BLOCK, capacity_bytes=capacity_bytes)
    config = BlocksConfig(block_bytes=BLOCK, memory_limit_bytes=64 * BLOCK, concurrency=16)
    store = BlockStore(client, cache, config)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: store.run(task_status=task_status))
        yield Bench(client, cache, store)
        store.check_idle()
        nursery.cancel_scope.cancel()


@pytest.fixture
def bench() -> Callable[..., object]:
    return _bench


def told(report: WarmReport) -> Sequence[str]:
    return [f"{failure.what}: {failure.reason}" for failure in report.failures]


async def test_each_missing_block_is_fetched_once_and_the_report_adds_up(bench) -> None:
    async with bench() as b:
        objects = [b.client.put(f"m/{n}", bytes([n]) * (3 * BLOCK + n)) for n in range(4)]
        b.cache.put(objects[0], 1, bytes(BLOCK))
        b.client.put("m/empty", b"")
        report = await b.warm("m")
        size = sum(obj.size_bytes for obj in objects)
        assert told(report) == []
        assert (report.objects, report.bytes) == (5, size)
        assert (report.cached_bytes, report.fetched_bytes) == (BLOCK, size - BLOCK)
        assert len(b.gets()) == len(set(b.gets())) == 14  # 3 + 4 + 4 + 4 less the one that was there
        assert report.requests == {"list": 1, "head": 1, "get": 14}
        assert b.store.statistics().memory_used_bytes == 0


async def test_warming_again_is_one_listing(bench) -> None:
    async with bench() as b:
        for n in range(5):
            b.client.put(f"m/{n}", b"x" * BLOCK)
        await b.warm("m/")
        b.client.requests.clear()
        report = await b.warm("m/")
        assert b.client.requests == [("LIST", "m/", None)]
        assert (report.cached_bytes, report.fetched_bytes) == (5 * BLOCK, 0)


async def test_a_new_version_is_fetched_and_the_old_one_does_not_count(bench) -> None:
    async with bench() as b:
        b.client.put("m/a", b"1" * BLOCK)
        await b.warm("m/a")
        b.client.put("m/a", b"2" * BLOCK)
        assert (await b.warm("m/a")).fetched_bytes == BLOCK


async def test_it_begins_with_few_requests_and_ends_at_the_limit(bench) -> None:
    async with bench() as b:
        b.client.put("m", bytes(64 * BLOCK))
        gate = b.client.hold("GET")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.warm, "m")
            await wait_all_tasks_blocked()
            assert b.client.in_flight == FIRST_JOBS
            gate.set()
        assert FIRST_JOBS < b.client.peak_in_flight <= 8


async def test_two_runs_at_once_share_every_flight(bench) -> None:
    async with bench() as b:
        b.client.put("m", bytes(6 * BLOCK))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.warm, "m")
            nursery.start_soon(b.warm, "m")
        assert len(b.gets()) == 6


async def test_an_object_that_fails_is_a_line_and_the_others_go_on(bench) -> None:
    async with bench() as b:
        b.client.put("m/a", bytes(3 * BLOCK))
        b.client.put("m/b", bytes(BLOCK))
        b.client.fail(ObjectNotFoundError("gone meanwhile", bucket="bucket", key="m/a"), "GET", "m/a", times=9)
        report = await b.warm("m")
        assert told(report) == ["s3://bucket/m/a: gone meanwhile"]
        assert report.fetched_bytes == BLOCK


async def test_of_a_version_that_fails_no_more_is_asked_for(bench) -> None:
    """Mutation: where the rest of it is asked for all the same, 30 GETs are sent."""
    async with bench() as b:
        b.client.put("m/a", bytes(30 * BLOCK))
        b.client.put("m/b", bytes(BLOCK))
        b.client.fail(ObjectNotFoundError("gone meanwhile", bucket="bucket", key="m/a"), "GET", "m/a", times=99)
        report = await b.warm("m")
        assert told(report) == ["s3://bucket/m/a: gone meanwhile"]
        assert report.fetched_bytes == BLOCK
        assert len(b.gets()) <= 2 * FIRST_JOBS + 1


async def test_a_store_that_goes_away_leaves_nobody_waiting_for_what_was_begun(bench) -> None:
    """Mutations: what is begun stays open, or its comparison waits for ever, where only what failed is told of."""
    data = bytes(64 * BLOCK)
    async with bench() as b, trio.open_nursery() as nursery:
        b.verifier.least_bytes = BLOCK
        b.client.put("m/a", bytes(BLOCK))
        b.client.put("m/b", data, sha256=hashlib.sha256(data).hexdigest())
        away = b.client.hold("GET", "m/a")
        b.client.fail(ObjectUnavailableError("the store is away"), "GET", "m/a")
        disk = b.cache.write_gate = trio.Event()
        job = b.job()
        nursery.start_soon(job.run, [Target("bucket", "m")])
        await wait_all_tasks_blocked()
        away.set()
        await wait_all_tasks_blocked()
        b.cache.write_gate = None
        disk.set()
    assert told(job.report) == [
        "s3://bucket/m/a: the store is away",
        "1 more files: not tried any more: the store is away",
    ]
    assert 0 < job.report.fetched_bytes < len(data)
    assert b.verifier.statistics().verified == 0


async def test_a_version_that_fails_in_two_ways_is_one_line(bench) -> None:
    """Its checksums are asked for while it comes, so one that is deleted meanwhile is refused twice."""
    data = bytes(2 * BLOCK)
    async with bench() as b:
        b.verifier.least_bytes = BLOCK
        b.client.put("m/a", data, sha256=hashlib.sha256(data).hexdigest())
        b.client.put("m/b", bytes(BLOCK))
        for method in ("HEAD", "GET"):
            b.client.fail(ObjectNotFoundError("gone meanwhile", bucket="bucket", key="m/a"), method, "m/a", times=9)
        report = await b.warm("m")
        assert [failure.what for failure in report.failures] == ["s3://bucket/m/a"]
        assert report.fetched_bytes == BLOCK


async def test_what_is_missing_and_what_is_damaged_of_one_version_is_one_line(bench) -> None:
    async with bench() as b:
        obj = b.client.put("m/a", bytes(3 * BLOCK))
        b.cache.put(obj, 0, bytes(BLOCK))
        b.cache.put(obj, 1, bytes(BLOCK))
        b.cache.corrupt(obj, 1)
        report = await b.job().check([Target("bucket", "m/a")])
        assert told(report) == [
            "s3://bucket/m/a: 1 of 3 blocks are not cached: warm it without --check; "
            "1 of 3 blocks were damaged and are dropped: warm it again"
        ]


async def test_what_there_is_no_memory_to_read_back_is_a_failure(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: the error of the system ends the run, and whoever asked for it is not told."""

    def no_memory(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    async with bench() as b:
        obj = b.client.put("m/a", bytes(2 * BLOCK))
        b.cache.put(obj, 0, bytes(BLOCK))
        monkeypatch.setattr(mmap, "mmap", no_memory)
        report = await b.job().check([Target("bucket", "m/a")])
        monkeypatch.undo()
    assert told(report) == [
        "s3://bucket/m/a: 1 of 2 blocks are not cached: warm it without --check; "
        "it cannot be read back: there is no memory for a block: Cannot allocate memory"
    ]


async def test_what_there_is_no_memory_to_compare_is_a_failure(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: it counts as warmed, with bytes that nobody has compared with its checksum."""

    def no_memory(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    async with bench() as b:
        b.verifier.least_bytes = 1
        b.client.put("m/a", bytes(2 * BLOCK), sha256="0" * 64)
        monkeypatch.setattr(base, "mmap", SimpleNamespace(mmap=no_memory))
        report = await b.warm("m/a")
    assert told(report) == [
        "s3://bucket/m/a: could not be compared with its checksums: there is no memory for a block: "
        "Cannot allocate memory"
    ]


async def test_a_store_that_is_away_ends_the_run(bench) -> None:
    async with bench() as b:
        for n in range(30):
            b.client.put(f"m/{n:02}", bytes(BLOCK))
        b.client.fail(ObjectUnavailableError("the store is away"), "GET", times=99)
        report = await b.warm("m", jobs=1)
        assert told(report) == [
            "s3://bucket/m/00: the store is away",
            "29 more files: not tried any more: the store is away",
        ]
        assert len(b.gets()) == 1


async def test_a_disk_that_takes_no_more_ends_the_run(bench) -> None:
    async with bench() as b:
        for n in range(3):
            b.client.put(f"m/{n}", bytes(BLOCK))
        b.cache.refuse_writes = True
        report = await b.warm("m", jobs=1)
        assert told(report)[0] == "s3://bucket/m/0: the disk cache takes no more of it"
        assert report.fetched_bytes == 0
        assert len(b.gets()) <= 2, "the second one is sent when the bytes of the first are there"


async def test_more_than_the_cache_may_hold_is_refused(bench) -> None:
    async with bench(capacity_bytes=2 * BLOCK) as b:
        b.client.put("m", bytes(3 * BLOCK))
        report = await b.warm("m")
        assert "raise --cache-size" in told(report)[0]
        assert b.gets() == []


async def test_a_size_that_no_cache_has_is_refused_before_its_blocks_are_counted(bench, monkeypatch) -> None:
    """A store may say any size: to list 2**46 blocks would end the daemon, and stop its mount on the way."""
    async with bench(capacity_bytes=8 * BLOCK) as b:
        b.client.put("m/a", bytes(BLOCK))
        huge, data = b.client._lookup("bucket", b.client.put("m/huge", b"x").key)
        b.client._objects["m/huge"] = replace(huge, id=replace(huge.id, size_bytes=1 << 62)), data
        opened = []
        open_object = b.cache.open_object

        async def open_other(obj) -> base.CachedObject:
            opened.append(obj.key)
            assert obj.size_bytes <= 8 * BLOCK
            return await open_object(obj)

        monkeypatch.setattr(b.cache, "open_object", open_other)
        for job in (b.job().run, b.job().check):
            report = await job([Target("bucket", "m")])
            assert "s3://bucket/m/huge: it has 4096 PiB and the disk cache may hold 512 KiB" in told(report)[0]
        assert set(opened) == {"m/a"}


async def test_versions_that_cannot_be_kept_are_said_so(bench) -> None:
    async with bench() as b:
        b.client.put("m/weak", b"x", etag='W/"1"')
        b.client.put("m/cold", b"x", storage_class="GLACIER")
        report = await b.warm("m")
        assert sorted(told(report)) == [
            "s3://bucket/m/cold: archived as GLACIER: restore the object, then warm it again",
            "s3://bucket/m/weak: the store gives it no strong ETag, so it cannot be kept between reads",
        ]


async def test_what_cannot_be_cached_takes_no_room_from_the_rest(bench) -> None:
    async with bench(capacity_bytes=4 * BLOCK) as b:
        b.client.put("m/a", bytes(BLOCK))
        b.client.put("m/cold", bytes(4 * BLOCK), storage_class="GLACIER")
        b.client.put("m/huge", bytes(5 * BLOCK))
        report = await b.warm("m")
        assert [line.split(": ")[0] for line in told(report)] == ["s3://bucket/m/cold", "s3://bucket/m/huge"]
        assert [key for _, key, start, stop in b.gets() if stop - start > 1] == ["m/a"]


async def test_what_was_restored_from_an_archive_is_warmed(bench) -> None:
    async with bench() as b:
        b.client.put("m/back", bytes(BLOCK), storage_class="GLACIER", restored=True)
        report = await b.warm("m")
        assert report.failures == []
        assert [key for _, key, *_ in b.gets()] == ["m/back"]


async def test_what_lies_in_a_class_that_is_no_archive_is_warmed(bench) -> None:
    """As in a pool of Ceph's that is called GLACIER; neither the listing nor a HEAD says that it can be read."""
    async with bench() as b:
        obj = b.client.put("m/back", bytes(BLOCK), storage_class="GLACIER", restored=True)

        async def list_page(*_: object, **__: object) -> ListPage:
            return ListPage((ObjectInfo(obj, 1.0, "GLACIER"),), (), None)

        async def head(*_: object) -> ObjectInfo:
            return ObjectInfo(obj, 1.0, "GLACIER")

        b.client.list_page, b.client.head = list_page, head
        report = await b.warm("m")
        assert report.failures == []
        assert b.gets() == [("GET", "m/back", 0, 1), ("GET", "m/back", 0, BLOCK)]


async def test_what_no_directory_can_hold_alone_throws_out_nothing(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(capacity_bytes=8 * BLOCK) as b:
        b.client.put("m", bytes(5 * BLOCK))
        of_all = b.cache.statistics
        monkeypatch.setattr(b.cache, "statistics", lambda: replace(of_all(), largest_bytes=4 * BLOCK))
        report = await b.warm("m")
        assert "may hold 256 KiB of one file" in told(report)[0]
        assert b.gets() == []


async def test_a_version_in_blocks_that_are_too_large_for_memory_keeps_no_other(bench) -> None:
    """Another mount has begun it, with more memory: it alone cannot be filled from here."""
    async with bench() as b:
        large = b.client.put("m/a", bytes(64 * BLOCK))
        other = b.client.put("m/b", bytes(2 * BLOCK))
        b.cache.block_bytes = 32 * BLOCK
        b.cache.put(large, 0, bytes(32 * BLOCK))
        b.cache.block_bytes = BLOCK
        (failure,) = told(await b.warm("m"))
        assert failure.startswith("s3://bucket/m/a: the disk cache keeps it in blocks that are too large")
        assert b.cache.block(other, 1) is not None


async def test_a_version_that_another_process_has_begun_in_other_blocks_keeps_no_other(bench) -> None:
    """It came between the look at it and its first block. Mutation: the run ends without the files behind it."""
    async with bench() as b:
        first = b.client.put("m/a", bytes(4 * BLOCK))
        other = b.client.put("m/b", bytes(2 * BLOCK))
        b.cache.keep_otherwise(first)
        (failure,) = told(await b.warm("m"))
        assert failure.startswith("s3://bucket/m/a: another process has begun it in blocks of another size")
        assert b.cache.block(other, 1) is not None


async def test_what_was_evicted_meanwhile_does_not_count_as_cached(bench) -> None:
    async with bench(capacity_bytes=4 * BLOCK) as b:
        first = b.client.put("m/1", bytes(2 * BLOCK))
        b.client.put("m/2", bytes(2 * BLOCK))
        other = b.client.put("x", bytes(3 * BLOCK))
        gate = b.client.hold("GET", "m/2")
        reports = []

        async def warm() -> None:
            reports.append(await b.warm("m", jobs=1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(warm)
            await wait_all_tasks_blocked()
            assert b.cache.block(first, 0) is not None
            handle = await b.cache.open_object(other)  # another daemon's load
            for index in range(3):
                await handle.write_block(index, memoryview(bytearray(BLOCK)), BLOCK)
            assert b.cache.block(first, 1) is None
            handle.close()
            gate.set()
        assert "is not all there any more" in told(reports[0])[0]


async def test_check_reads_back_what_is_there_and_fetches_nothing(bench) -> None:
    async with bench() as b:
        good = b.client.put("m/good", bytes(2 * BLOCK))
        bad = b.client.put("m/bad", bytes(2 * BLOCK))
        b.client.put("m/gone", bytes(BLOCK))
        await b.warm("m/good", "m/bad")
        b.client.requests.clear()
        b.cache.corrupt(bad, 1)
        report = await b.job().check([Target("bucket", "m")])
        assert b.gets() == []
        assert report.checked_bytes == 4 * BLOCK
        assert sorted(told(report)) == [
            "s3://bucket/m/bad: 1 of 2 blocks were damaged and are dropped: warm it again",
            "s3://bucket/m/gone: 1 of 1 blocks are not cached: warm it without --check",
        ]
        assert (good, 1) in b.cache.reads


async def test_a_version_that_is_begun_anew_in_larger_blocks_before_its_turn_is_told_of(bench) -> None:
    """Another daemon kept it in smaller ones, and it was evicted meanwhile: blocks that it has not got are no wait."""
    async with bench() as b:
        obj = b.client.put("m", bytes(4 * BLOCK))
        b.cache.block_bytes = BLOCK // 4
        b.cache.put(obj, 0, bytes(BLOCK // 4))
        job = b.job()
        look = job._look

        async def look_and_evict(found: ObjectId) -> Work:
            work = await look(found)
            b.cache.block_bytes = BLOCK
            del b.cache._versions[obj]
            return work

        job._look = look_and_evict  # type: ignore[method-assign]
        with trio.fail_after(5):
            report = await job.run([Target("bucket", "m")])
        assert told(report) == ["s3://bucket/m: is not all there any more: the cache is too small for all that uses it"]
        assert told(await b.warm("m")) == []


async def test_check_tells_of_a_version_that_is_begun_anew_in_other_blocks_meanwhile(bench) -> None:
    """Mutation: a block does not fit into the memory for it, or is none: an internal error, and no report at all."""
    async with bench() as b:
        obj = b.client.put("m", bytes(4 * BLOCK))
        b.cache.put(obj, 1, bytes(BLOCK))
        job = b.job()
        look = job._look

        async def look_and_evict(found: ObjectId) -> Work:
            work = await look(found)
            del b.cache._versions[obj]
            b.cache.block_bytes = 2 * BLOCK
            b.cache.put(obj, 1, bytes(2 * BLOCK))
            return work

        job._look = look_and_evict  # type: ignore[method-assign]
        assert told(await job.check([Target("bucket", "m")])) == [
            "s3://bucket/m: 3 of 4 blocks are not cached: warm it without --check; "
            "it was evicted meanwhile and begun anew: warm it again"
        ]


async def test_progress_is_told_to_the_end(bench, autojump_clock) -> None:
    async with bench() as b:
        b.client.put("m", bytes(2 * BLOCK))
        seen: list[Progress] = []

        async def tell(progress: Progress) -> None:
            seen.append(replace(progress))
            await trio.lowlevel.checkpoint()

        report = await follow(b.job(), [Target("bucket", "m")], tell)
        assert seen[-1].done_bytes == seen[-1].wanted_bytes == report.fetched_bytes == 2 * BLOCK
        assert (seen[-1].objects, seen[-1].objects_done) == (1, 1)
        assert WarmReport.from_json(report.to_json()) == report


async def test_what_was_fetched_is_compared_with_its_checksum_and_a_mismatch_is_a_failure(bench) -> None:
    async with bench() as b:
        b.verifier.least_bytes = 2 * BLOCK
        data = bytes(2 * BLOCK)
        b.client.put("m/good", data, sha256=hashlib.sha256(data).hexdigest())
        b.client.put("m/bad", data, sha256=hashlib.sha256(b"another").hexdigest())
        b.client.put("m/small", b"x", sha256="0" * 64)
        for _ in range(2):  # the second time from what is remembered
            report = await b.warm("m")
            assert len(report.failures) == 1
            assert told(report)[0].startswith("s3://bucket/m/bad: its sha256 is ")
        assert sorted(request for request in b.client.requests if request[0] == "HEAD") == [
            ("HEAD", "m/bad"),
            ("HEAD", "m/good"),
        ]
        checked = await b.job().check([Target("bucket", "m")])
        assert sorted(failure.what for failure in checked.failures) == ["s3://bucket/m/bad", "s3://bucket/m/small"]


@pytest.mark.parametrize(
    ("jobs", "get_limit", "held", "most"),
    [(2, 99, 99, 2 + WAITING_BLOCKS), (2, 99, 4, 4), (8, 3, 99, 3 + WAITING_BLOCKS)],
)
async def test_the_disk_is_waited_for_beside_the_network_and_only_by_so_many_blocks(
    bench, jobs: int, get_limit: int, held: int, most: int
) -> None:
    """Mutations: where a block is done before the next GET, two are sent; without a bound all of them are; where the
    client is not asked how many GETs are worth having, the last one sends 24.
    """
    async with bench() as b, trio.open_nursery() as nursery:
        b.client.put("m", bytes(64 * BLOCK))
        b.client.get_limit = get_limit
        b.cache.write_gate = trio.Event()
        nursery.start_soon(b.job(jobs=jobs, held=held).run, [Target("bucket", "m")])
        await wait_all_tasks_blocked()
        assert len(b.gets()) == most
        gate, b.cache.write_gate = b.cache.write_gate, None
        gate.set()
    assert len(b.gets()) == 64


async def test_a_version_is_compared_with_its_checksum_while_it_comes(bench) -> None:
    """Mutations: where it is asked for at the end there is no HEAD yet; where it is compared then, no read."""
    data = b"".join(bytes([n]) * BLOCK for n in range(4))
    async with bench() as b, trio.open_nursery() as nursery:
        b.verifier.least_bytes = BLOCK
        obj = b.client.put("m", data, sha256=hashlib.sha256(data).hexdigest())
        for index in range(3):
            b.cache.put(obj, index, data[index * BLOCK : (index + 1) * BLOCK])
        gate = b.client.hold("GET", "m")
        nursery.start_soon(b.warm, "m")
        await until(lambda: len(b.cache.reads) == 3)
        assert [request for request in b.client.requests if request[0] == "HEAD"] == [("HEAD", "m")]
        assert b.cache.block(obj, 3) is None
        gate.set()
    assert b.verifier.statistics().verified == 1


async def test_what_has_left_the_cache_is_compared_again_when_it_is_fetched_again(bench) -> None:
    """Mutation: that it was right before counts, and what is damaged on its way now is warmed without a word."""
    now_s = 1000
    async with bench() as b:
        verdicts = Verdicts(b.cache.records, "tigris", clock=lambda: now_s)
        b.verifier = Verifier(b.client, b.cache, verdicts, least_bytes=BLOCK)
        right = hashlib.sha256(bytes(2 * BLOCK)).hexdigest()
        obj = b.client.put("m", b"?" + bytes(2 * BLOCK - 1), sha256=right)
        await verdicts.keep(obj, [Compared("sha256", right, right, "the store")])
        now_s += 60
        report = await b.warm("m")
        assert list(verdicts.refused) == [obj]
        assert told(report) == [f"s3://bucket/m: {verdicts.refused[obj]}"]


async def test_a_version_that_does_not_come_whole_is_not_waited_for_to_be_compared(bench) -> None:
    """Mutation: where ``ended`` is never said, the run never ends."""
    data = bytes(2 * BLOCK)
    async with bench() as b:
        b.verifier.least_bytes = BLOCK
        b.client.put("m", data, sha256=hashlib.sha256(data).hexdigest())
        b.client.fail(ObjectNotFoundError("gone meanwhile", bucket="bucket", key="m"), "GET", "m", times=9)
        with trio.fail_after(30):
            report = await b.warm("m")
        assert told(report) == ["s3://bucket/m: gone meanwhile"]
    assert b.verifier.statistics().verified == 0


def test_a_report_of_another_release_is_understood() -> None:
    """Mutation: what a newer daemon could not fetch is an internal error, and nobody hears which files those are."""
    report = WarmReport(objects=1, failures=[Failure("s3://b/k", "is refused")])
    told = report.to_json() | {"colour": "red"}
    told["failures"] = [{**failure, "colour": "red"} for failure in told["failures"]]
    assert WarmReport.from_json(told) == report
