"""What is opened is proven while its reader waits, and what comes next while it reads."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.cache.disk import DiskBlockCache
from tigrismount.cache.none import UncachedObject
from tigrismount.cache.options import DiskCacheConfig
from tigrismount.core import loadlog
from tigrismount.core.loadlog import LoadLog
from tigrismount.core.types import ObjectId
from tigrismount.errors import CacheCorruptError, CacheError
from tigrismount.integrity.openprover import AHEAD_BYTES, FIRST_BYTES_S, LONGEST_S, OpenProver
from tigrismount.testing.waiting import settled, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

BLOCK = 4096
OBJ = ObjectId("bucket", "file", "etag", 2 * BLOCK + 5)
PLENTY_BYTES = 1 << 50


class Around:
    """What a prover asks of others: what will be read whole, what follows, how much memory there is."""

    def __init__(self, cache: object, **limits: float) -> None:
        self.whole: set[ObjectId] = set()
        self.series: list[ObjectId] = []
        self.available_bytes: int | None = PLENTY_BYTES
        self.is_pressed = False
        self.asked = 0
        """How often it was asked whether all of something will be read."""
        self.look: trio.Event | None = None
        """What that waits for."""
        self.mistake: Exception | None = None
        """What asking for what follows comes to."""
        self.log = LoadLog(trio.current_time)
        self.prover = OpenProver(
            cache,  # type: ignore[arg-type]
            likely_whole=self._likely_whole,
            following=self._following,
            load_log=self.log,
            available_bytes=lambda: self.available_bytes,
            is_pressed=lambda: self.is_pressed,
            **limits,
        )

    async def _likely_whole(self, obj: ObjectId) -> bool:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.look is not None:
            await self.look.wait()
        return obj in self.whole

    async def _following(self, obj: ObjectId) -> Sequence[ObjectId]:
        await trio.lowlevel.checkpoint()
        if self.mistake is not None:
            raise self.mistake
        return self.series[self.series.index(obj) + 1 :] if obj in self.series else ()

    def load(self, *objs: ObjectId) -> None:
        """Let these be the shards of a model that will be read whole."""
        self.whole.update(objs)
        self.series.extend(objs)


# ---------------------------------------------------------------------- on a real disk


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[DiskBlockCache]:
    config = DiskCacheConfig(
        directory=str(tmp_path / "cache"), size_bytes=1 << 30, free_floor_fraction=0.0, block_bytes=BLOCK
    )
    made = await DiskBlockCache.open(config, store_id="store")
    yield made
    await made.aclose()


async def keep(cache: DiskBlockCache, obj: ObjectId = OBJ, *, but: int = 0) -> None:
    """Write all of *obj* but its last blocks."""
    cached = await cache.open_object(obj)
    for index in range(-(-obj.size_bytes // BLOCK) - but):
        length_bytes = min(BLOCK, obj.size_bytes - index * BLOCK)
        assert await cached.write_block(index, memoryview(bytes([index]) * BLOCK), length_bytes)
    cached.close()


async def unproven(cache: DiskBlockCache, obj: ObjectId = OBJ) -> list[int] | None:
    cached = await cache.open_object(obj)
    try:
        return cached.unproven()
    finally:
        cached.close()


def open_data_files() -> list[str]:
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return [target for target in (os.readlink(link) for link in links if os.path.islink(link)) if "/objects/" in target]


def nothing_is_open(cache: DiskBlockCache) -> bool:
    return cache.tables()["cache_open"] == 0 and not open_data_files()


@pytest.fixture
async def around(cache: DiskBlockCache, nursery: trio.Nursery) -> Around:
    """A running prover on a real disk."""
    made = Around(cache)
    await nursery.start(made.prover.run)
    return made


async def test_what_will_be_read_whole_is_read_once_and_proven(cache: DiskBlockCache, around: Around) -> None:
    await keep(cache)
    around.load(OBJ)
    assert await around.prover.prove(OBJ)
    assert await unproven(cache) == []
    assert around.prover.proven_bytes == OBJ.size_bytes
    assert await around.prover.prove(OBJ)
    assert (cache.statistics().blocks_read, around.prover.proven_bytes) == (3, OBJ.size_bytes)
    assert [(kind, obj, start, stop) for kind, obj, start, stop, *_ in around.log.take()] == [
        (loadlog.DISK, OBJ, 0, BLOCK),
        (loadlog.DISK, OBJ, BLOCK, 2 * BLOCK),
        (loadlog.DISK, OBJ, 2 * BLOCK, OBJ.size_bytes),
    ], "for the load report"
    assert nothing_is_open(cache)


async def test_only_what_is_not_proven_yet_is_read(cache: DiskBlockCache, around: Around) -> None:
    await keep(cache)
    around.load(OBJ)
    cached = await cache.open_object(OBJ)
    fd = await cached.open_file()
    await cached.prove_block(1, fd)
    os.close(fd)
    cached.close()
    assert await around.prover.prove(OBJ)
    assert (cache.statistics().blocks_read, around.prover.proven_bytes) == (3, OBJ.size_bytes - BLOCK)


async def test_what_will_not_be_read_whole_is_not_read(cache: DiskBlockCache, around: Around) -> None:
    await keep(cache)
    assert not await around.prover.prove(OBJ)
    assert (cache.statistics().blocks_read, around.asked) == (0, 1)


async def test_what_is_not_whole_is_not_read(cache: DiskBlockCache, around: Around) -> None:
    await keep(cache, but=1)
    around.load(OBJ)
    assert not await around.prover.prove(OBJ)
    assert cache.statistics().blocks_read == 0
    assert nothing_is_open(cache)


async def test_two_who_open_at_once_read_each_block_once(cache: DiskBlockCache, around: Around) -> None:
    """Mutation: without ``_jobs`` each reads all of them."""
    await keep(cache)
    around.load(OBJ)
    found: list[bool] = []

    async def prove() -> None:
        found.append(await around.prover.prove(OBJ))

    async with trio.open_nursery() as waiting:
        waiting.start_soon(prove)
        waiting.start_soon(prove)
    assert (found, cache.statistics().blocks_read) == ([True, True], 3)


async def test_a_damaged_block_leaves_the_version_unproven(
    cache: DiskBlockCache, around: Around, tmp_path: Path
) -> None:
    await keep(cache)
    around.load(OBJ)
    (path,) = (tmp_path / "cache" / "objects").glob("*/*")
    with path.open("r+b") as file:
        file.seek(BLOCK)
        file.write(b"x")
    assert not await around.prover.prove(OBJ)
    assert (cache.statistics().corrupt_blocks, await unproven(cache)) == (1, None)
    assert around.prover.proven_bytes == BLOCK
    assert nothing_is_open(cache)
    await keep(cache)
    assert await around.prover.prove(OBJ), "fetched again, it is proven as any other"


async def test_what_follows_the_opened_one_is_proven(cache: DiskBlockCache, around: Around) -> None:
    shards = [ObjectId("bucket", f"shard-{number}", "etag", 2 * BLOCK) for number in range(3)]
    for shard in shards:
        await keep(cache, shard)
    around.load(*shards)
    around.prover.note_opened(shards[0])
    await until(lambda: around.prover.proven_bytes == 4 * BLOCK)
    await settled()
    assert [await unproven(cache, shard) for shard in shards] == [[0, 1], [], []]
    assert nothing_is_open(cache)


# ---------------------------------------------------------------------- on a disk that hangs when it is told to


class FakeObject(UncachedObject):
    """A handle on a whole version of a ``FakeCache``."""

    def __init__(self, cache: FakeCache, obj: ObjectId) -> None:
        super().__init__(cache.block_bytes)
        self._cache, self._obj = cache, obj

    def unproven(self) -> list[int] | None:
        count = -(-self._obj.size_bytes // self.block_bytes)
        return [index for index in range(count) if index not in self._cache.proven[self._obj]]

    async def open_file(self) -> int:
        await trio.lowlevel.checkpoint()
        if self._obj in self._cache.gone:
            raise CacheError("gone")
        fd = os.open("/dev/null", os.O_RDONLY)
        self._cache.fds.append(fd)
        return fd

    async def prove_block(self, index: int, fd: int) -> None:
        os.fstat(fd)
        self._cache.reads[self._obj, index] += 1
        await trio.sleep(self._cache.block_s)
        await self._cache.gate.wait()
        if self._obj in self._cache.damaged:
            raise CacheCorruptError("damaged")
        self._cache.proven[self._obj].add(index)

    def close(self) -> None:
        self._cache.open -= 1


class FakeCache:
    """Whole versions, which take no room: only which block was read how often."""

    def __init__(self, block_bytes: int = BLOCK) -> None:
        self.block_bytes = block_bytes
        self.block_s = 0.0
        self.gate = trio.Event()
        self.gate.set()
        self.gone: set[ObjectId] = set()
        self.damaged: set[ObjectId] = set()
        self.proven: dict[ObjectId, set[int]] = defaultdict(set)
        self.reads: Counter[tuple[ObjectId, int]] = Counter()
        self.fds: list[int] = []
        self.open = 0

    async def open_object(self, obj: ObjectId) -> FakeObject:
        await trio.lowlevel.checkpoint()
        self.open += 1
        return FakeObject(self, obj)

    def hang(self) -> None:
        """Answer nothing from now on."""
        self.gate = trio.Event()

    def read_keys(self) -> list[str]:
        """Return of which versions anything was read, in the order of their first blocks."""
        return list(dict.fromkeys(obj.key for obj, _ in self.reads))

    def nothing_is_open(self) -> bool:
        return not self.open and not any(os.path.exists(f"/proc/self/fd/{fd}") for fd in self.fds)


class Slow:
    """A running prover on a disk that can be told to hang."""

    def __init__(self, block_bytes: int = BLOCK, **limits: float) -> None:
        self.cache = FakeCache(block_bytes)
        self.around = Around(self.cache, **limits)
        self.prover = self.around.prover
        self.running = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self.running:
            await self.prover.run(task_status=task_status)


@pytest.fixture
async def slow(nursery: trio.Nursery) -> Slow:
    made = Slow()
    await nursery.start(made.run)
    return made


async def test_a_disk_that_hangs_keeps_nobody_for_long_and_its_proof_goes_on_for_the_next(
    slow: Slow, autojump_clock: trio.testing.MockClock
) -> None:
    """Mutations: a wait without its bound; one that gives the proof up when it goes."""
    slow.around.load(OBJ)
    slow.cache.hang()
    with trio.fail_after(2.5):
        assert not await slow.prover.prove(OBJ)
    with trio.fail_after(2.5):
        assert not await slow.prover.prove(OBJ), "and no longer the next, who finds it as it is"
    slow.cache.gate.set()
    assert await slow.prover.prove(OBJ)
    assert set(slow.cache.reads.values()) == {1}
    assert slow.cache.nothing_is_open()


async def test_a_slow_disk_is_waited_for_as_long_as_it_gets_on(
    slow: Slow, autojump_clock: trio.testing.MockClock
) -> None:
    """Mutation: a bound of two seconds on the whole of the wait."""
    slow.around.load(OBJ)
    slow.cache.block_s = 1.9
    assert await slow.prover.prove(OBJ)
    assert len(slow.cache.reads) == 3


async def test_a_disk_that_has_become_slow_keeps_nobody_for_ever(
    slow: Slow, autojump_clock: trio.testing.MockClock
) -> None:
    """Mutation: no bound on the whole of the wait."""
    long = ObjectId("bucket", "long", "etag", 20 * BLOCK)
    slow.around.load(long)
    slow.cache.block_s = 1.9
    with trio.fail_after(2 * LONGEST_S + 0.1):
        assert not await slow.prover.prove(long)
    assert len(slow.cache.reads) < 20


async def test_nobody_waits_for_longer_than_the_kernel_does_for_an_open(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Mutation: it ends the whole mount, and all files that are open in it (fs.fuse.max_request_timeout)."""
    long, slow = ObjectId("bucket", "long", "etag", 20 * BLOCK), Slow(patience_s=5.0)
    await nursery.start(slow.run)
    slow.around.load(long)
    slow.cache.block_s = 1.9
    with trio.fail_after(5.1):
        assert not await slow.prover.prove(long)


async def test_who_goes_leaves_the_proof_to_others(slow: Slow, nursery: trio.Nursery) -> None:
    """Mutation: a job in the nursery of its first waiter."""
    slow.around.load(OBJ)
    slow.cache.hang()
    found: list[bool] = []

    async def prove() -> None:
        found.append(await slow.prover.prove(OBJ))

    async with trio.open_nursery() as first:
        first.start_soon(prove)
        await wait_all_tasks_blocked()
        nursery.start_soon(prove)
        await wait_all_tasks_blocked()
        first.cancel_scope.cancel()
    assert found == []
    slow.cache.gate.set()
    await wait_all_tasks_blocked()
    assert found == [True]
    assert list(slow.cache.reads.values()) == [1, 1, 1]


async def test_a_proof_that_nobody_waits_for_any_more_goes_on(slow: Slow) -> None:
    slow.around.load(OBJ)
    slow.cache.hang()
    async with trio.open_nursery() as waiting:
        waiting.start_soon(slow.prover.prove, OBJ)
        await wait_all_tasks_blocked()
        waiting.cancel_scope.cancel()
    slow.cache.gate.set()
    await wait_all_tasks_blocked()
    assert len(slow.cache.proven[OBJ]) == 3
    assert slow.cache.nothing_is_open()


async def test_a_file_that_cannot_be_had_is_not_proven(slow: Slow) -> None:
    slow.around.load(OBJ)
    slow.cache.gone.add(OBJ)
    assert not await slow.prover.prove(OBJ)
    assert (slow.cache.nothing_is_open(), dict(slow.cache.reads)) == (True, {})


# ---------------------------------------------------------------------- time


QUICK_BYTES = int(LONGEST_S * FIRST_BYTES_S)
"""What is proven in time on a disk of which nothing is known."""


@pytest.fixture
async def timed(nursery: trio.Nursery) -> Slow:
    """A running prover of blocks of 64 MB, of which one says how fast the disk is."""
    made = Slow(block_bytes=64 << 20)
    await nursery.start(made.run)
    return made


def sized(key: str, size_bytes: float) -> ObjectId:
    return ObjectId("bucket", key, "etag", int(size_bytes))


async def is_proven(timed: Slow, key: str, size_bytes: float) -> bool:
    obj = sized(key, size_bytes)
    timed.around.load(obj)
    return await timed.prover.prove(obj)


@pytest.mark.parametrize(("more_bytes", "proven"), [(0, True), (1, False)])
async def test_what_would_take_too_long_is_not_begun(timed: Slow, more_bytes: int, proven: bool) -> None:
    assert await is_proven(timed, "a", QUICK_BYTES + more_bytes) is proven
    assert (bool(timed.cache.reads), timed.around.asked) == (proven, int(proven))


async def test_a_disk_is_as_fast_as_its_last_long_proof_says_for_a_while(
    timed: Slow, autojump_clock: trio.testing.MockClock
) -> None:
    """Mutations: without the time taken a slow disk keeps everybody waiting; without its end it is slow for ever."""
    timed.cache.block_s = 1.0
    assert await is_proven(timed, "a", 64 << 20)  # 64 MB/s
    assert await is_proven(timed, "b", LONGEST_S * (64 << 20))
    assert not await is_proven(timed, "c", LONGEST_S * (64 << 20) + 1)
    await trio.sleep(590)
    assert not await is_proven(timed, "c", LONGEST_S * (64 << 20) + 1)
    await trio.sleep(30)
    assert await is_proven(timed, "c", LONGEST_S * (64 << 20) + 1)
    timed.cache.block_s = 0.01
    assert not await is_proven(timed, "d", QUICK_BYTES), "by then it is known once more"
    await trio.sleep(700)
    assert await is_proven(timed, "d", 64 << 20)  # 6.4 GB/s
    assert await is_proven(timed, "e", 6 * QUICK_BYTES)


async def test_a_short_proof_says_nothing_of_the_disk(timed: Slow, autojump_clock: trio.testing.MockClock) -> None:
    timed.cache.block_s = 1.0
    assert await is_proven(timed, "a", (64 << 20) - 1)
    timed.cache.block_s = 0.0
    assert await is_proven(timed, "b", QUICK_BYTES)


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("available_bytes", "is_pressed", "proven"),
    [
        (2 * OBJ.size_bytes, False, True),
        (2 * OBJ.size_bytes - 1, False, False),
        (None, False, False),
        (PLENTY_BYTES, True, False),
    ],
    ids=["room", "no room", "nobody knows", "pressed"],
)
async def test_nothing_is_read_where_it_would_not_stay_in_memory(
    slow: Slow, available_bytes: int | None, is_pressed: bool, proven: bool
) -> None:
    slow.around.load(OBJ)
    slow.around.available_bytes, slow.around.is_pressed = available_bytes, is_pressed
    assert await slow.prover.prove(OBJ) is proven
    assert len(slow.cache.reads) == (3 if proven else 0)
    assert slow.around.asked == proven, "and the disk is not asked what it knows of it"


async def test_what_was_proven_lately_takes_room_and_not_for_ever(
    slow: Slow, autojump_clock: trio.testing.MockClock
) -> None:
    """Mutations: without what is recent the second is proven at once; without its end never."""
    first, second = (ObjectId("bucket", key, "etag", 4 * BLOCK) for key in "ab")
    slow.around.load(first, second)
    slow.around.available_bytes = 2 * 7 * BLOCK
    assert await slow.prover.prove(first)
    assert not await slow.prover.prove(second)
    await trio.sleep(599)
    assert not await slow.prover.prove(second)
    await trio.sleep(2)
    assert await slow.prover.prove(second)
    assert slow.cache.read_keys() == ["a", "b"]


@pytest.mark.parametrize("room_blocks", [7, 8])
async def test_what_is_being_proven_takes_the_room_of_all_of_it(slow: Slow, room_blocks: int) -> None:
    """As when each rank opens its shard. Mutations: counting only what is read of it so far; looking only once."""
    objs = [ObjectId("bucket", key, "etag", 4 * BLOCK) for key in "ab"]
    slow.around.load(*objs)
    slow.around.available_bytes = 2 * room_blocks * BLOCK
    slow.cache.hang()
    found: list[bool] = []

    async def prove(obj: ObjectId) -> None:
        found.append(await slow.prover.prove(obj))

    async with trio.open_nursery() as waiting:
        for obj in objs:
            waiting.start_soon(prove, obj)
        await wait_all_tasks_blocked()
        slow.cache.gate.set()
    assert sorted(found) == [room_blocks == 8, True]
    assert len(slow.cache.reads) == (8 if room_blocks == 8 else 4)


async def test_what_was_proven_of_what_is_under_way_takes_room_once(
    slow: Slow, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    first, second = (ObjectId("bucket", key, "etag", 4 * BLOCK) for key in "ab")
    slow.around.load(first, second)
    slow.around.available_bytes = 2 * 8 * BLOCK
    slow.cache.block_s = 1
    nursery.start_soon(slow.prover.prove, first)
    await trio.sleep(3.5)
    assert len(slow.cache.proven[first]) == 3
    assert await slow.prover.prove(second)


async def test_two_who_open_the_same_need_its_room_once(slow: Slow) -> None:
    """Mutation: without the look whether it was begun meanwhile the second opens it in the usual way."""
    slow.around.load(OBJ)
    slow.around.available_bytes = 2 * OBJ.size_bytes
    found: list[bool] = []

    async def prove() -> None:
        found.append(await slow.prover.prove(OBJ))

    slow.cache.hang()
    async with trio.open_nursery() as waiting:
        waiting.start_soon(prove)
        waiting.start_soon(prove)
        await wait_all_tasks_blocked()
        slow.cache.gate.set()
    assert (found, len(slow.cache.reads)) == ([True, True], 3)


# ---------------------------------------------------------------------- what follows


GIB = 1 << 30


def shards_of(*sizes_bytes: int) -> list[ObjectId]:
    return [ObjectId("bucket", str(number), "etag", size) for number, size in enumerate(sizes_bytes)]


@pytest.fixture
async def ahead(nursery: trio.Nursery) -> Slow:
    """A running prover of large blocks."""
    made = Slow(block_bytes=GIB)
    await nursery.start(made.run)
    return made


@pytest.mark.parametrize(
    ("sizes_gib", "proven"),
    [
        ([1, 1, 1, 1, 1, 1, 1], ["1", "2", "3", "4"]),
        ([1, 3, 3, 1], ["1", "2"]),
        ([1, 9, 1], ["1"]),
        ([1, 1], ["1"]),
        ([1], []),
    ],
)
async def test_so_much_is_proven_ahead_in_the_order_of_reading(
    ahead: Slow, sizes_gib: list[int], proven: list[str]
) -> None:
    assert AHEAD_BYTES == 4 * GIB
    shards = shards_of(*(size * GIB for size in sizes_gib))
    ahead.around.load(*shards)
    ahead.prover.note_opened(shards[0])
    await wait_all_tasks_blocked()
    assert ahead.cache.read_keys() == proven


async def test_each_that_is_opened_lets_one_more_be_proven(ahead: Slow) -> None:
    """And nothing is read a second time."""
    shards = shards_of(*[GIB] * 8)
    ahead.around.load(*shards)
    for opened in shards[:2]:
        ahead.prover.note_opened(opened)
        await wait_all_tasks_blocked()
    assert ahead.cache.read_keys() == ["1", "2", "3", "4", "5"]
    assert set(ahead.cache.reads.values()) == {1}


async def test_whoever_has_gone_on_is_followed_from_there(ahead: Slow) -> None:
    """Mutation: without the look whether another was opened shards 2 to 4 are read before 6."""
    shards = shards_of(*[GIB] * 8)
    ahead.around.load(*shards)
    ahead.cache.hang()
    ahead.prover.note_opened(shards[0])
    await wait_all_tasks_blocked()
    ahead.prover.note_opened(shards[4])
    ahead.prover.note_opened(shards[5])
    await wait_all_tasks_blocked()
    ahead.cache.gate.set()
    await wait_all_tasks_blocked()
    assert ahead.cache.read_keys() == ["1", "6", "7"]


@pytest.mark.parametrize("why", ["not whole", "damaged", "gone", "no room", "hangs"])
async def test_nothing_is_proven_behind_what_cannot_be(
    ahead: Slow, why: str, autojump_clock: trio.testing.MockClock
) -> None:
    shards = shards_of(GIB, GIB, 3 * GIB // 2, GIB // 4)
    ahead.around.load(*shards)
    if why == "not whole":
        ahead.around.whole.discard(shards[2])
    elif why == "damaged":
        ahead.cache.damaged.add(shards[2])
    elif why == "gone":
        ahead.cache.gone.add(shards[2])
    elif why == "no room":
        ahead.around.available_bytes = 2 * 2 * GIB
    else:
        ahead.cache.hang()
    ahead.prover.note_opened(shards[0])
    await trio.sleep(60)
    assert bool(ahead.cache.proven[shards[1]]) == (why != "hangs")
    assert not ahead.cache.proven[shards[2]]
    assert "3" not in ahead.cache.read_keys()
    assert ahead.cache.nothing_is_open() == (why != "hangs")


async def test_who_opens_what_is_being_proven_ahead_waits_for_that(ahead: Slow) -> None:
    shards = shards_of(GIB, 3 * GIB)
    ahead.around.load(*shards)
    ahead.cache.hang()
    ahead.prover.note_opened(shards[0])
    await wait_all_tasks_blocked()
    ahead.around.available_bytes = 0  # what was begun is in memory whoever waits for it
    found: list[bool] = []

    async def prove() -> None:
        found.append(await ahead.prover.prove(shards[1]))

    async with trio.open_nursery() as waiting:
        waiting.start_soon(prove)
        await wait_all_tasks_blocked()
        ahead.cache.gate.set()
    assert found == [True]
    assert list(ahead.cache.reads.values()) == [1, 1, 1]


async def test_a_mistake_of_ours_in_what_follows_costs_the_proofs_ahead_only(
    slow: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    """Mutation: unguarded it ends the worker."""
    first, second = shards_of(BLOCK, BLOCK)
    slow.around.load(first, second)
    slow.around.mistake = ValueError("a mistake")
    slow.prover.note_opened(first)
    await wait_all_tasks_blocked()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    slow.around.mistake = None
    assert await slow.prover.prove(first)
    slow.prover.note_opened(first)
    await wait_all_tasks_blocked()
    assert slow.cache.read_keys() == ["0", "1"]


# ---------------------------------------------------------------------- before the start and after the end


async def test_before_the_start_nothing_is_proven_and_nobody_waits() -> None:
    slow = Slow()
    slow.around.load(*shards_of(BLOCK, BLOCK), OBJ)
    slow.prover.note_opened(slow.around.series[0])
    assert not await slow.prover.prove(OBJ)
    assert (dict(slow.cache.reads), slow.around.asked) == ({}, 0)


async def test_the_end_lets_go_of_who_waits_and_nothing_is_proven_after_it(slow: Slow) -> None:
    """Mutation: without the word to who waits they wait for two seconds, or for ever."""
    slow.around.load(OBJ)
    slow.cache.hang()
    found: list[bool] = []

    async def prove() -> None:
        found.append(await slow.prover.prove(OBJ))

    async with trio.open_nursery() as waiting:
        waiting.start_soon(prove)
        await wait_all_tasks_blocked()
        slow.running.cancel()
        await wait_all_tasks_blocked()
        assert found == [False]
    assert slow.cache.nothing_is_open()
    slow.cache.gate.set()
    slow.prover.note_opened(OBJ)
    assert not await slow.prover.prove(OBJ)
    assert list(slow.cache.reads.values()) == [1]


async def test_an_end_while_it_is_looked_what_was_read_is_no_mistake(slow: Slow) -> None:
    """The open goes on as any other. Mutation: without the second look the nursery that is gone is asked."""
    slow.around.load(OBJ)
    slow.around.look = trio.Event()
    found: list[bool] = []

    async def prove() -> None:
        found.append(await slow.prover.prove(OBJ))

    async with trio.open_nursery() as waiting:
        waiting.start_soon(prove)
        await wait_all_tasks_blocked()
        slow.running.cancel()
        await wait_all_tasks_blocked()
        slow.around.look.set()
    assert (found, dict(slow.cache.reads)) == ([False], {})
