"""How much is proven at once, and for how long, where many open many files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.cache.none import UncachedObject
from tigrismount.core.loadlog import NoLog
from tigrismount.core.types import ObjectId
from tigrismount.integrity.openprover import FIRST_BYTES_S, LONGEST_S, OpenProver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

BLOCK = 1 << 20
SIZE = 10 * BLOCK
FILES = [ObjectId("bucket", f"file-{number}", "etag", SIZE) for number in range(30)]


class SlowDisk:
    """A cache that has everything, on a disk that gives one block for each ``let``."""

    def __init__(self) -> None:
        self.turns = trio.Semaphore(0)
        self.proven: dict[ObjectId, set[int]] = {}
        self.mistakes: dict[ObjectId, Exception] = {}
        self.asked: set[ObjectId] = set()
        """Of which a block was asked for."""

    def let(self, blocks: int) -> None:
        for _ in range(blocks):
            self.turns.release()

    async def open_object(self, obj: ObjectId) -> SlowObject:
        await trio.lowlevel.checkpoint()
        return SlowObject(self, obj)


class SlowObject(UncachedObject):
    def __init__(self, disk: SlowDisk, obj: ObjectId) -> None:
        super().__init__(BLOCK)
        self._disk, self._obj = disk, obj

    def unproven(self) -> list[int]:
        return sorted(set(range(self._obj.size_bytes // BLOCK)) - self._disk.proven.get(self._obj, set()))

    async def open_file(self) -> int:
        await trio.lowlevel.checkpoint()
        return os.open(os.devnull, os.O_RDONLY)

    def proven(self, index: int) -> bool:
        return index in self._disk.proven.get(self._obj, set())

    async def prove_block(self, index: int, fd: int) -> None:
        self._disk.asked.add(self._obj)
        if self._obj in self._disk.mistakes:
            raise self._disk.mistakes[self._obj]
        await self._disk.turns.acquire()
        self._disk.proven.setdefault(self._obj, set()).add(index)


class Scene:
    def __init__(self) -> None:
        self.disk = SlowDisk()
        self.available_bytes = 1 << 50
        self.is_pressed = False
        self.results: dict[ObjectId, bool] = {}
        self.prover = OpenProver(
            self.disk,  # type: ignore[arg-type]
            likely_whole=self._likely_whole,
            following=self._following,
            load_log=NoLog(),
            available_bytes=lambda: self.available_bytes,
            is_pressed=lambda: self.is_pressed,
        )

    async def _likely_whole(self, _: ObjectId) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    async def _following(self, _: ObjectId) -> Sequence[ObjectId]:
        await trio.lowlevel.checkpoint()
        return ()

    async def open(self, obj: ObjectId) -> None:
        self.results[obj] = await self.prover.prove(obj)


@pytest.fixture
async def scene(nursery: trio.Nursery, autojump_clock: object) -> AsyncIterator[Scene]:
    made = Scene()
    await nursery.start(made.prover.run)
    yield made
    nursery.cancel_scope.cancel()


async def test_files_that_are_opened_together_are_not_given_the_same_memory(scene: Scene) -> None:
    """Half of the free memory is theirs: of thirty files, five."""
    scene.available_bytes = 10 * SIZE
    async with trio.open_nursery() as openers:
        for obj in FILES:
            openers.start_soon(scene.open, obj)
        await wait_all_tasks_blocked()
        scene.disk.let(30 * SIZE // BLOCK)
    assert sorted(scene.results.values()) == [False] * 25 + [True] * 5
    assert len(scene.disk.asked) == 5


async def test_files_that_are_opened_together_are_not_expected_to_be_read_at_once(scene: Scene) -> None:
    large = [ObjectId("bucket", f"large-{number}", "etag", int(0.4 * LONGEST_S * FIRST_BYTES_S)) for number in range(3)]
    async with trio.open_nursery() as openers:
        for obj in large:
            openers.start_soon(scene.open, obj)
        await wait_all_tasks_blocked()
        assert (len(scene.disk.asked), list(scene.results.values())) == (2, [False])
        openers.cancel_scope.cancel()


async def test_what_its_reader_has_proven_meanwhile_is_not_read_again(scene: Scene) -> None:
    async with trio.open_nursery() as openers:
        openers.start_soon(scene.open, FILES[0])
        await wait_all_tasks_blocked()
        scene.disk.proven[FILES[0]] = set(range(1, 9))
        scene.disk.let(100)
    assert (scene.results, scene.prover.proven_bytes) == ({FILES[0]: True}, 2 * BLOCK)


async def test_a_proof_ends_where_memory_has_become_short(scene: Scene) -> None:
    async with trio.open_nursery() as openers:
        openers.start_soon(scene.open, FILES[0])
        scene.disk.let(3)
        await wait_all_tasks_blocked()
        scene.is_pressed = True
        scene.disk.let(100)
    assert (scene.results, scene.prover.proven_bytes) == ({FILES[0]: False}, 4 * BLOCK)


@pytest.mark.parametrize("mistake", [OSError(5, "I/O error"), RuntimeError("can't start new thread")])
async def test_what_goes_wrong_with_one_proof_ends_neither_the_others_nor_the_worker(
    scene: Scene, mistake: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    scene.disk.mistakes[FILES[0]] = mistake
    scene.disk.let(100)
    async with trio.open_nursery() as openers:
        for obj in FILES[:2]:
            openers.start_soon(scene.open, obj)
    assert scene.results == {FILES[0]: False, FILES[1]: True}
    assert "goes on" in caplog.text
    caplog.clear()
