"""Which opens go to a file of the cache, and how long that file is kept."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tigrismount.cache.disk import DiskBlockCache
from tigrismount.cache.none import UncachedObject
from tigrismount.cache.options import DiskCacheConfig
from tigrismount.core import loadlog
from tigrismount.core.loadlog import LoadLog
from tigrismount.core.openmodes import OpenState
from tigrismount.core.types import ObjectId
from tigrismount.errors import CacheError
from tigrismount.fuse import passthrough
from tigrismount.fuse.options import FuseConfig
from tigrismount.fuse.passthrough import LEAST_BYTES, PagesInMemory, Passthrough
from tigrismount.fuse.permission import effective_capabilities, why_off
from tigrismount.testing.waiting import until

SIZE = LEAST_BYTES + 5
OBJ = ObjectId("bucket", "file", "etag", SIZE)
SMALL = ObjectId("bucket", "small", "etag", LEAST_BYTES - 1)
ADMIN = 1 << 21
ALL = "         0          0 4294967295\n"


class FakeCached(UncachedObject):
    """A version in one file; whole and proven unless told otherwise."""

    def __init__(self, path: str, unproven: list[int] | None, is_published: bool) -> None:
        super().__init__(1 << 20)
        self._path, self._unproven, self._is_published = path, unproven, is_published

    def unproven(self) -> list[int] | None:
        return self._unproven

    def published(self) -> bool:
        return self._is_published

    async def open_file(self) -> int:
        await trio.lowlevel.checkpoint()
        try:
            fd = os.open(self._path, os.O_RDONLY)
        except OSError as exc:
            raise CacheError("gone") from exc
        fcntl.flock(fd, fcntl.LOCK_SH)
        return fd


class FakeCache:
    def __init__(self, path: str) -> None:
        self.path = path
        self.unproven: list[int] | None = []
        self.is_published = True
        self.hangs = False
        self.has_no_descriptor = False

    async def open_object(self, obj: ObjectId) -> UncachedObject:
        if self.hangs:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if self.has_no_descriptor:
            return UncachedObject(1 << 20)
        return FakeCached(self.path, self.unproven, self.is_published)


class FakeProofs:
    """Proves what it is told to, which the cache knows then."""

    def __init__(self, cache: FakeCache) -> None:
        self._cache = cache
        self.proven_bytes = 0
        self.proves = False
        self.leaves: list[int] | None = []
        """What is unproven after that."""
        self.gate = trio.Event()
        self.gate.set()
        self.asked: list[ObjectId] = []
        self.waited = 0
        """How many waits came to their end."""
        self.opened: list[ObjectId] = []

    async def prove(self, obj: ObjectId) -> bool:
        self.asked.append(obj)
        await trio.lowlevel.checkpoint()
        await self.gate.wait()
        self.waited += 1
        if self.proves:
            self._cache.unproven = self.leaves
            self.proven_bytes += obj.size_bytes
        return self.proves

    def note_opened(self, obj: ObjectId) -> None:
        self.opened.append(obj)


class FakeKernel:
    """Keeps what it is given open, as the kernel does."""

    def __init__(self) -> None:
        self.files: dict[int, int] = {}
        self.error = 0
        self.sent: dict[int, int] = {}
        self._last = 0

    def open_backing(self, fd: int) -> int:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self._last += 1
        self.files[self._last] = os.dup(fd)
        return self._last

    def close_backing(self, backing_id: int) -> None:
        os.close(self.files.pop(backing_id))

    def take_sent(self, node_id: int) -> int:
        return self.sent.pop(node_id, 0)


class Scene:
    def __init__(self, path: str) -> None:
        self.cache, self.kernel = FakeCache(path), FakeKernel()
        self.proofs = FakeProofs(self.cache)
        self.log = LoadLog(trio.current_time)
        self.refusals: dict[ObjectId, str] = {}
        self.refused: set[ObjectId] = set()
        self.written: list[OpenState] = []
        self.closed: list[ObjectId] = []
        self.through = self.make()

    def make(self, *, even_in_memory: bool = True, off: str = "") -> Passthrough:
        return Passthrough(
            self.cache,  # type: ignore[arg-type]
            self.kernel,
            version_of={7: OBJ, 8: SMALL}.get,
            refusal=lambda obj: self.refusals.get(obj, ""),
            is_refused=self.refused.__contains__,
            journal=self.written.append,
            on_closed=self.closed.append,
            proofs=self.proofs,
            log=self.log,
            even_in_memory=even_in_memory,
            off=off,
        )

    def take_over(self) -> None:
        """Have a successor in the place of one that died: its descriptors are closed, the kernel's are not."""
        for held in self.through._held.values():
            os.close(held.fd)
        self.through = self.make()
        self.through.restore(self.written)

    async def opened(self) -> bool:
        """Open the file as the lane does; return whether onto the file of the cache."""
        choice = self.through.choice(7)
        if choice is None:
            choice = await self.through.find(7)
        if choice:
            self.through.count_through(7)
        else:
            self.through.count_cached(7)
        return choice


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    path = tmp_path / "data"
    path.write_bytes(bytes(SIZE))
    return Scene(str(path))


def is_locked(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


async def test_a_proven_file_is_opened_onto_the_caches_and_again_without_another_look(scene: Scene) -> None:
    assert await scene.opened()
    assert scene.through.choice(7) is True
    assert await scene.opened()
    seen = scene.through.statistics()
    assert (seen.opens, seen.opened_bytes, seen.files, list(scene.kernel.files)) == (2, 2 * SIZE, 1, [1])
    facts = os.stat(scene.cache.path)
    file = facts.st_dev, facts.st_ino
    assert scene.written[-1] == OpenState(7, opens=2, is_through=True, backing_id=1, file=file)


@pytest.mark.parametrize(
    ("unproven", "reason"), [(None, "not wholly cached"), ([0], "not proven yet")], ids=["incomplete", "unproven"]
)
async def test_a_file_that_must_still_be_looked_at_is_not(
    scene: Scene, unproven: list[int] | None, reason: str
) -> None:
    scene.cache.unproven = unproven
    assert not await scene.opened()
    assert scene.through.statistics().passed_over == {reason: 1}
    assert len(scene.proofs.asked) == (unproven == [0])
    assert scene.through.choice(7) is False, "open in the usual way: whoever comes now gets the same"


async def test_what_loses_a_block_while_it_is_opened_is_not_opened_so(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data could not be synced, or somebody found it damaged: the kernel would read it all the same."""
    open_file = FakeCached.open_file

    async def open_while_a_block_is_lost(cached: FakeCached) -> int:
        cached._unproven = None
        return await open_file(cached)

    monkeypatch.setattr(FakeCached, "open_file", open_while_a_block_is_lost)
    assert not await scene.opened()
    assert scene.through.statistics().passed_over == {"not wholly cached": 1}
    assert (scene.kernel.files, is_locked(scene.cache.path)) == ({}, False)


async def test_a_mapped_file_that_lost_a_block_is_opened_onto_again_once_it_is_whole(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: 'cache verify' finds it damaged, and all who open it get that for as long as somebody maps it."""
    monkeypatch.setattr(passthrough, "_FRESH_S", 0.0)
    assert await scene.opened()
    scene.through.uncount(7)  # it is mapped
    scene.cache.unproven = None
    assert not await scene.opened()
    scene.through.uncount(7)
    assert is_locked(scene.cache.path)
    scene.cache.unproven = []
    assert await scene.opened()
    assert list(scene.kernel.files) == [1]


async def test_a_file_that_was_not_synced_yet_is_not_and_is_once_it_was(scene: Scene) -> None:
    """Mutation: a sync that fails takes its blocks back, and the kernel goes on reading what is there instead."""
    scene.cache.is_published = False
    assert not await scene.opened()
    assert scene.through.statistics().passed_over == {"not on the disk yet": 1}
    scene.through.uncount(7)
    scene.cache.is_published = True
    assert await scene.opened()


async def test_what_is_proven_while_its_reader_waits_is_opened_so(scene: Scene) -> None:
    """Mutation: without the second look it is open in the usual way, and all of the proof in vain."""
    scene.cache.unproven = [0, 1]
    scene.proofs.proves = True
    assert await scene.opened()
    assert (scene.proofs.asked, scene.proofs.opened) == ([OBJ], [OBJ])
    seen = scene.through.statistics()
    assert (seen.opens, seen.files, seen.proven_bytes, seen.passed_over) == (1, 1, SIZE, {})
    assert is_locked(scene.cache.path)


async def test_what_needs_no_proof_or_cannot_be_proven_waits_for_none(scene: Scene) -> None:
    assert await scene.opened()
    scene.through = scene.make()
    scene.cache.unproven = None
    assert not await scene.opened()
    assert scene.through.statistics().passed_over == {"not wholly cached": 1}
    assert scene.proofs.asked == []


@pytest.mark.parametrize(("leaves", "reason"), [(None, "not wholly cached"), ([1], "not proven yet")])
async def test_the_look_after_the_proof_counts_and_not_its_word(
    scene: Scene, leaves: list[int] | None, reason: str
) -> None:
    """Others evict, and drop what they find damaged; and one proof is enough for one open."""
    scene.cache.unproven = [0]
    scene.proofs.proves, scene.proofs.leaves = True, leaves
    assert not await scene.opened()
    assert scene.through.statistics().passed_over == {reason: 1}
    assert (scene.proofs.asked, scene.kernel.files) == ([OBJ], {})


@pytest.mark.parametrize("why", ["its bytes are not what they should be", "checksum not compared yet"])
async def test_what_is_refused_while_it_is_proven_is_not_opened_so(scene: Scene, why: str) -> None:
    """Mutation: without the look after the proof a version that its checksum refuses is left to the kernel."""
    scene.cache.unproven = [0]
    scene.proofs.proves = True
    scene.proofs.gate = trio.Event()
    found: list[bool] = []

    async def find() -> None:
        found.append(await scene.through.find(7))

    async with trio.open_nursery() as opening:
        opening.start_soon(find)
        await trio.testing.wait_all_tasks_blocked()
        if why == "checksum not compared yet":
            scene.refusals[OBJ] = why
        else:
            scene.refused.add(OBJ)
        scene.proofs.gate.set()
    assert found == [False]
    assert scene.through.statistics().passed_over == {why: 1}
    assert (scene.kernel.files, is_locked(scene.cache.path)) == ({}, False)


@pytest.mark.parametrize("is_proven", [True, False])
async def test_what_is_refused_while_it_is_looked_for_is_not_opened_so(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object, monkeypatch: pytest.MonkeyPatch, is_proven: bool
) -> None:
    """The verdict of another daemon may come in that moment, and nothing takes a mapping back."""
    open_object = scene.cache.open_object

    async def open_and_hear(obj: ObjectId) -> UncachedObject:
        found = await open_object(obj)
        if is_proven or scene.proofs.waited:
            scene.refused.add(obj)
        return found

    monkeypatch.setattr(scene.cache, "open_object", open_and_hear)
    if not is_proven:
        scene.cache.unproven, scene.proofs.proves = [0], True
    await nursery.start(scene.through.run)
    assert not await scene.opened()
    scene.through.uncount(7)
    await until(lambda: not scene.kernel.files)


async def test_who_is_in_a_hurry_ends_every_wait_and_no_other_begins(scene: Scene) -> None:
    """Mutations: a ``hurry`` that ends no wait; one that forgets that it was."""
    scene.cache.unproven = [0]
    scene.proofs.proves = True
    scene.proofs.gate = trio.Event()
    found: list[bool] = []

    async def find() -> None:
        found.append(await scene.through.find(7))

    async with trio.open_nursery() as opening:
        opening.start_soon(find)
        await trio.testing.wait_all_tasks_blocked()
        assert len(scene.proofs.asked) == 1
        scene.through.hurry()
    assert (found, scene.proofs.waited) == ([False], 0)
    scene.proofs.gate.set()
    assert not await scene.opened()
    assert len(scene.proofs.asked) == 1
    assert scene.through.statistics().passed_over == {"not proven yet": 2}
    scene.cache.unproven = []
    scene.through.uncount(7)
    assert await scene.opened(), "what needs no wait is opened so to the end"


async def test_a_wait_that_has_ended_is_not_kept(scene: Scene) -> None:
    scene.cache.unproven = [0]
    assert not await scene.opened()
    scene.proofs.gate = trio.Event()
    with trio.CancelScope() as scope:
        scope.cancel()
        await scene.through.find(7)
    assert scene.through._patience == {}


async def test_each_open_through_tells_what_is_read_now_and_no_other(scene: Scene) -> None:
    """Also one that finds the file open: its reader goes on from there as the first does."""
    scene.cache.unproven = [0]
    assert not await scene.opened()
    scene.through.uncount(7)
    assert scene.proofs.opened == []
    scene.cache.unproven = []
    assert await scene.opened()
    assert await scene.opened()
    assert scene.proofs.opened == [OBJ, OBJ]


async def test_what_is_opened_through_and_closed_is_told_with_the_wait_for_its_proof(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    """The first open waited, and nobody else did. Mutation: counting from the answer, or from the first open on."""
    scene.cache.unproven = [0]
    scene.proofs.proves = True
    scene.proofs.gate = trio.Event()
    async with trio.open_nursery() as opening:
        opening.start_soon(scene.opened)
        await trio.sleep(5)
        scene.proofs.gate.set()
    assert await scene.opened()
    scene.through.uncount(7)
    scene.through.uncount(7)
    events = scene.log.take()
    assert [(kind, obj, start, stop) for kind, obj, start, stop, *_ in events] == [
        (kind, OBJ, 0, SIZE) for kind in (loadlog.THROUGH, loadlog.THROUGH, loadlog.CLOSED, loadlog.CLOSED)
    ]
    assert [round(stop_s - start_s) for _, _, _, _, start_s, stop_s, _, _ in events] == [5, 0, 0, 0]


async def test_what_is_opened_in_the_usual_way_is_told_of_by_its_reader(scene: Scene) -> None:
    scene.cache.unproven = [0]
    assert not await scene.opened()
    scene.through.uncount(7)
    assert scene.log.take() == []


async def test_small_files_and_directories_are_not_worth_a_look(scene: Scene) -> None:
    assert scene.through.choice(8) is False
    assert scene.through.choice(1) is False
    assert scene.through.statistics().passed_over == {}


async def test_a_cache_that_does_not_answer_keeps_nobody_waiting(scene: Scene, autojump_clock: object) -> None:
    scene.cache.hangs = True
    assert not await scene.opened()
    assert scene.through.statistics().passed_over == {"the cache did not answer": 1}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(errno.EPERM, "CAP_SYS_ADMIN"), (errno.ELOOP, "overlayfs"), (errno.EINVAL, "Invalid argument")],
)
async def test_what_the_kernel_refuses_once_is_not_tried_again(scene: Scene, error: int, reason: str) -> None:
    scene.kernel.error = error
    assert not await scene.opened()
    assert reason in scene.through.statistics().off
    scene.through.uncount(7)
    assert scene.through.choice(7) is False
    assert not is_locked(scene.cache.path)


async def test_a_refused_version_is_left_to_the_usual_way_which_refuses_it(scene: Scene) -> None:
    await scene.opened()
    scene.refused.add(OBJ)
    assert scene.through.choice(7) is False
    assert not scene.through.count_cached(7), "the file is open onto another: this open is not one that counts"


async def test_whoever_comes_while_a_file_is_open_gets_it_the_same_way_whatever_is_not_known_yet(scene: Scene) -> None:
    scene.refusals[OBJ] = "not compared yet"
    assert not await scene.opened()
    scene.through.uncount(7)
    del scene.refusals[OBJ]
    assert await scene.opened()
    scene.refusals[OBJ] = "not compared yet"
    assert scene.through.choice(7) is True, "the kernel would answer EIO to any other"
    scene.through.uncount(7)
    assert scene.through.choice(7) is False


async def test_a_kernel_that_is_short_of_memory_is_asked_again(scene: Scene) -> None:
    scene.kernel.error = errno.ENOMEM
    assert not await scene.opened()
    scene.through.uncount(7)
    scene.kernel.error = 0
    assert await scene.opened()
    assert not scene.through.statistics().off


async def test_a_file_is_kept_while_it_is_open_and_let_go_of_when_nobody_reads_it(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object
) -> None:
    await nursery.start(scene.through.run)
    await scene.opened()
    await trio.sleep(10)
    assert is_locked(scene.cache.path)
    scene.through.uncount(7)
    await until(lambda: not scene.kernel.files)
    assert not is_locked(scene.cache.path)
    assert scene.written[-1] == OpenState(7, is_through=True)


def fail_to_close(monkeypatch: pytest.MonkeyPatch, fd: int | None = None) -> None:
    """Let closing *fd*, or any, say EIO: NFS does where a server is away, and FUSE where a daemon is."""
    really_close = os.close

    def close_and_say(one: int) -> None:
        really_close(one)
        if fd in (None, one):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "close", close_and_say)


async def test_what_close_says_of_a_file_that_the_kernel_did_not_take_ends_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: it leaves the task that answers OPEN, which ends the worker."""
    scene.kernel.error = errno.ENOMEM
    with monkeypatch.context() as disk_is_gone:
        fail_to_close(disk_is_gone)
        assert not await scene.opened()


async def test_what_close_says_of_a_file_that_nobody_reads_ends_nothing(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: it ends who lets go of files, and with it the worker."""
    await nursery.start(scene.through.run)
    await scene.opened()
    with monkeypatch.context() as disk_is_gone:
        fail_to_close(disk_is_gone, scene.through._held[7].fd)
        scene.through.uncount(7)
        await until(lambda: not scene.through.statistics().files)
        await trio.sleep(10)
    assert await scene.opened()


async def test_a_mapping_keeps_the_file_after_its_release(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object
) -> None:
    await nursery.start(scene.through.run)
    await scene.opened()
    mapping = os.open(scene.cache.path, os.O_RDONLY)  # the kernel counts both alike
    scene.through.uncount(7)
    await trio.sleep(10)
    assert is_locked(scene.cache.path)
    assert await scene.opened(), "and who opens it meanwhile gets the same file"
    scene.through.uncount(7)
    os.close(mapping)
    await until(lambda: not scene.kernel.files)


async def test_a_successor_keeps_what_was_open_and_what_may_be_mapped(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object
) -> None:
    await scene.opened()
    scene.take_over()
    assert scene.through.choice(7) is True, "before it has looked for the file"
    await nursery.start(scene.through.run)
    await until(lambda: scene.through.statistics().files == 1)
    scene.through.uncount(7)
    mapping = os.open(scene.cache.path, os.O_RDONLY)
    await until(lambda: 1 not in scene.kernel.files)
    assert list(scene.kernel.files) == [2], "the kernel holds the successor's descriptor now"
    assert is_locked(scene.cache.path)
    os.close(mapping)
    await until(lambda: not scene.kernel.files)


@pytest.mark.parametrize("when", ["before", "while it looks"])
async def test_who_leaves_lets_go_of_nothing_that_a_successor_may_open_again(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The journal is the successor's by then: it would open files onto one that the kernel no longer has (EIO)."""

    def look(_: int) -> bool:
        scene.through.hurry()
        return True

    await scene.opened()
    scene.through.uncount(7)
    if when == "before":
        scene.through.hurry()
    else:
        monkeypatch.setattr("tigrismount.fuse.passthrough.is_unused", look)
    await nursery.start(scene.through.run)
    await until(lambda: scene.through._is_leaving)
    await trio.sleep(10)
    assert list(scene.kernel.files) == [scene.written[-1].backing_id]


async def test_no_journal_names_a_file_that_the_kernel_has_closed(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that dies between the two would leave it to its successor, which answers opens with it: EIO."""
    close, named = scene.kernel.close_backing, list[int]()

    def close_and_look(backing_id: int) -> None:
        close(backing_id)
        named.append(scene.written[-1].backing_id)

    monkeypatch.setattr(scene.kernel, "close_backing", close_and_look)
    await scene.opened()
    scene.take_over()
    scene.through.uncount(7)
    await nursery.start(scene.through.run)
    await until(lambda: not scene.kernel.files)
    assert named == [2, 0]


async def test_a_successor_that_cannot_have_a_file_yet_keeps_it_for_whoever_has_it_mapped(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Else the kernel gives up the lock, and holes are punched under a mapping: zeros, and no error."""
    await scene.opened()
    scene.through.uncount(7)
    mapping = os.open(scene.cache.path, os.O_RDONLY)
    scene.take_over()
    scene.cache.has_no_descriptor = True
    await nursery.start(scene.through.run)
    await trio.sleep(100)
    assert is_locked(scene.cache.path)
    assert scene.through.choice(7), "and who opens it meanwhile gets the same file"

    scene.cache.has_no_descriptor = False
    await trio.sleep(100)
    assert list(scene.kernel.files) == [2], "the kernel holds the successor's descriptor now"
    assert is_locked(scene.cache.path)
    os.close(mapping)
    await until(lambda: not scene.kernel.files)
    assert not is_locked(scene.cache.path)


async def test_a_successor_keeps_a_file_that_the_cache_has_lost(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Nothing tells it from one in a directory that is not in use any more, where others evict."""
    await scene.opened()
    os.unlink(scene.cache.path)
    scene.take_over()
    await nursery.start(scene.through.run)
    scene.through.uncount(7)
    await trio.sleep(100)
    assert list(scene.kernel.files) == [1]
    Path(scene.cache.path).write_bytes(bytes(SIZE))
    await trio.sleep(100)
    assert list(scene.kernel.files) == [1]
    assert await scene.opened()
    assert list(scene.kernel.files) == [1, 3], "the other one, once it was let go of"


async def test_a_successor_that_finds_another_file_keeps_the_one_that_may_be_mapped(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object, tmp_path: Path
) -> None:
    """With another --cache-dir that has the version, too, while somebody has the old file mapped.

    Mutation: the only lock on that one goes, others evict parts of it, and the mapping has zeros and no error.
    """
    await scene.opened()
    scene.through.uncount(7)
    before, mapping = scene.cache.path, os.open(scene.cache.path, os.O_RDONLY)
    scene.take_over()
    scene.cache.path = str(tmp_path / "other")
    Path(scene.cache.path).write_bytes(bytes(SIZE))
    await nursery.start(scene.through.run)
    await trio.sleep(100)
    assert (is_locked(before), is_locked(scene.cache.path)) == (True, False)
    assert await scene.opened()
    assert is_locked(scene.cache.path), "and who opens it gets the other"
    os.close(mapping)


async def test_a_successor_puts_no_file_that_is_still_being_filled_in_the_place_of_a_whole_one(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object
) -> None:
    """The cache was set aside, or another directory answers: who opens the file next would read its holes as zeros."""
    await scene.opened()
    scene.take_over()
    os.unlink(scene.cache.path)
    Path(scene.cache.path).write_bytes(bytes(SIZE))
    filling = os.open(scene.cache.path, os.O_RDONLY)
    scene.cache.unproven = None
    await nursery.start(scene.through.run)
    scene.through.uncount(7)
    await trio.sleep(100)
    assert list(scene.kernel.files) == [1], "the file that the kernel had before"
    assert scene.through.choice(7), "which whoever opens it gets"
    scene.cache.unproven = []
    os.close(filling)
    await trio.sleep(100)
    assert await scene.opened()
    assert list(scene.kernel.files) == [1, 3]


async def test_a_successor_opens_nothing_onto_a_file_of_which_the_cache_has_lost_some(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Mutation: who opens what 'cache verify' found damaged has it read by the kernel, once a worker was replaced."""
    await scene.opened()
    scene.through.uncount(7)
    mapping = os.open(scene.cache.path, os.O_RDONLY)
    scene.take_over()
    scene.cache.unproven = None
    await nursery.start(scene.through.run)
    await trio.sleep(10)
    assert not await scene.opened()
    scene.through.uncount(7)
    assert list(scene.kernel.files) == [1], "for who has it mapped"
    scene.cache.unproven = []
    await trio.sleep(100)
    assert await scene.opened()
    assert list(scene.kernel.files) == [2]
    os.close(mapping)


@pytest.mark.parametrize("proves", [True, False])
async def test_a_successor_opens_nothing_onto_a_file_that_it_took_over_and_nobody_has_proven(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object, proves: bool
) -> None:
    """With another --cache-dir than before it is not the file that was proven, and may be what a crash has left."""
    await scene.opened()
    scene.take_over()
    scene.cache.unproven, scene.proofs.proves = [0], proves
    mapping = os.open(scene.cache.path, os.O_RDONLY)
    await nursery.start(scene.through.run)
    assert scene.through.choice(7), "onto what it had before"
    scene.through.uncount(7)
    await until(lambda: list(scene.kernel.files) == [2])
    assert await scene.opened() is proves
    assert list(scene.kernel.files) == [2], "and no other file beside"
    scene.through.uncount(7)
    assert scene.through.choice(7) is (True if proves else None)
    os.close(mapping)
    await until(lambda: not scene.kernel.files)


async def test_the_next_worker_opens_nothing_onto_what_a_successor_took_over_and_nobody_has_proven(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Mutation: what the journal says has a backing file counts as proven, and its damage is left to the kernel."""
    await scene.opened()
    scene.take_over()
    scene.cache.unproven = [0]
    mapping = os.open(scene.cache.path, os.O_RDONLY)
    async with trio.open_nursery() as second:
        await second.start(scene.through.run)
        scene.through.uncount(7)
        await until(lambda: list(scene.kernel.files) == [2])
        second.cancel_scope.cancel()
    scene.take_over()
    assert not await scene.opened(), "before anything was looked at"
    scene.through.uncount(7)
    await nursery.start(scene.through.run)
    assert not await scene.opened(), "as long as the kernel has the file of the worker before"
    await until(lambda: list(scene.kernel.files) == [3])
    scene.through.uncount(7)
    scene.proofs.proves = True
    assert await scene.opened()
    assert list(scene.kernel.files) == [3], "and no other file beside"
    assert replace(scene.written[-1], file=(0, 0)) == OpenState(7, opens=1, is_through=True, backing_id=3)
    os.close(mapping)


async def test_a_successor_opens_nothing_onto_a_file_that_lost_a_block_while_it_was_taken_over(
    scene: Scene, nursery: trio.Nursery, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads it in the usual way meanwhile may find a block damaged: the kernel would read it all the same."""
    open_file = FakeCached.open_file

    async def open_while_a_block_is_lost(cached: FakeCached) -> int:
        cached._unproven = None
        return await open_file(cached)

    await scene.opened()
    scene.take_over()
    scene.cache.unproven = [0]
    monkeypatch.setattr(FakeCached, "open_file", open_while_a_block_is_lost)
    mapping = os.open(scene.cache.path, os.O_RDONLY)
    await nursery.start(scene.through.run)
    scene.through.uncount(7)
    await until(lambda: list(scene.kernel.files) == [2])
    assert not await scene.opened()
    os.close(mapping)


async def test_who_closes_a_file_in_the_usual_way_has_it_proven(scene: Scene) -> None:
    scene.cache.unproven = [0]
    await scene.opened()
    await scene.opened()
    scene.through.uncount(7)
    assert scene.closed == []
    scene.through.uncount(7)
    assert scene.closed == [OBJ]


async def test_what_the_kernel_has_in_memory_is_read_from_there(scene: Scene) -> None:
    scene.through = scene.make(even_in_memory=False)
    scene.cache.unproven = [0]
    await scene.opened()
    scene.kernel.sent[7] = SIZE
    scene.through.uncount(7)
    scene.cache.unproven = []
    assert not await scene.opened()
    scene.kernel.sent[7] = SIZE  # all of it once more: it was not there
    scene.through.uncount(7)
    assert await scene.opened()


def test_a_little_more_each_time_is_believed_to_be_there_until_most_had_to_be_sent_again():
    pages = PagesInMemory()
    pages.note(7, 100, 30)
    assert not pages.has_most(7, 100)
    pages.note(7, 100, 30)
    assert pages.has_most(7, 100)
    pages.note(7, 100, 10)
    assert pages.has_most(7, 100)
    pages.note(7, 100, 90)
    assert not pages.has_most(7, 100)


@pytest.mark.parametrize(
    ("mode", "verify", "capabilities", "uid_map", "reason"),
    [
        ("auto", "once", ADMIN, ALL, ""),
        ("on", "off", ADMIN, ALL, ""),
        ("off", "once", ADMIN, ALL, "--passthrough off"),
        ("auto", None, ADMIN, ALL, "there is no disk cache"),
        ("on", "always", ADMIN, ALL, "--verify always"),
        ("auto", "once", ADMIN - 1, ALL, "CAP_SYS_ADMIN"),
        ("auto", "once", ADMIN, "0 1000 1\n", "CAP_SYS_ADMIN"),
        ("auto", "once", ADMIN, "", "CAP_SYS_ADMIN"),
    ],
)
def test_why_not(mode, verify, capabilities, uid_map, reason):
    found = why_off(FuseConfig(passthrough=mode), verify=verify, capabilities=capabilities, uid_map=uid_map)
    assert reason in found
    assert bool(found) == bool(reason)


def test_capabilities_are_read_as_the_kernel_writes_them():
    assert effective_capabilities(lambda _: "Name:\tx\nCapEff:\t0000000000200000\nCapBnd:\tff\n") == ADMIN
    assert effective_capabilities(lambda _: "") == 0


async def test_only_what_is_proven_on_a_real_disk_is_left_to_the_kernel(tmp_path: Path) -> None:
    """Written by this process and never read back: no. Read back and verified: yes. And then nobody evicts it."""
    config = DiskCacheConfig(directory=str(tmp_path / "cache"), size_bytes=1 << 30, block_bytes=1 << 20)
    cache = await DiskBlockCache.open(config, store_id="store")
    with mmap.mmap(-1, 1 << 20) as memory, memoryview(memory) as buffer:
        cached = await cache.open_object(OBJ)
        assert cached.unproven() is None
        for index, length in ((0, 1 << 20), (1, SIZE - (1 << 20))):
            assert await cached.write_block(index, buffer, length)
        assert cached.unproven() == [0, 1]
        await cached.read_block(0, buffer)
        assert cached.unproven() == [1]
        await cached.read_block(1, buffer)
        assert cached.unproven() == []
    assert not cached.published()
    await cache._publisher.publish()
    again = await cache.open_object(OBJ)
    assert again.published()
    again.close()
    fd = await cached.open_file()
    cached.close()
    path = os.readlink(f"/proc/self/fd/{fd}")
    assert os.pread(fd, SIZE + 1, 0) == bytes(SIZE)
    assert is_locked(path)
    os.close(fd)
    assert not is_locked(path)
    with pytest.raises(CacheError):
        await cached.open_file()
    await cache.aclose()


async def test_what_a_process_that_was_killed_has_not_synced_is_synced_for_who_opens_it(tmp_path: Path) -> None:
    """Mutation: nobody else does it, and the file is never left to the kernel until the next boot."""
    config = DiskCacheConfig(directory=str(tmp_path / "cache"), size_bytes=1 << 30, block_bytes=1 << 20)
    cache = await DiskBlockCache.open(config, store_id="store")
    cached = await cache.open_object(SMALL)
    with mmap.mmap(-1, 1 << 20) as memory, memoryview(memory) as buffer:
        assert await cached.write_block(0, buffer, SMALL.size_bytes)
    cached.close()
    cache._publisher._written.clear()
    await cache.aclose()
    cache = await DiskBlockCache.open(config, store_id="store")
    for published in (False, True):
        cached = await cache.open_object(SMALL)
        assert cached.published() is published
        cached.close()
        await cache._publisher.publish()
    await cache.aclose()
