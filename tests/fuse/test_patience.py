"""How long those wait for a proof who open a file: until it is done, they are sent a signal, or the worker leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.cache.none import UncachedObject
from tigrismount.core.loadlog import NoLog
from tigrismount.core.types import ObjectId
from tigrismount.fuse.kernel import Kernel
from tigrismount.fuse.passthrough import LEAST_BYTES, Passthrough

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = {number: ObjectId("bucket", f"file-{number}", "etag", LEAST_BYTES) for number in (7, 8)}


class Unproven(UncachedObject):
    def unproven(self) -> list[int]:
        return [0]


class Cache:
    async def open_object(self, obj: ObjectId) -> Unproven:
        await trio.lowlevel.checkpoint()
        return Unproven(1 << 20)


class Endless:
    """Proofs that do not end."""

    def __init__(self) -> None:
        self.proven_bytes = 0
        self.waited: list[ObjectId] = []

    async def prove(self, obj: ObjectId) -> bool:
        self.waited.append(obj)
        await trio.sleep_forever()
        return True

    def note_opened(self, obj: ObjectId) -> None:
        """Take no note."""


class Scene:
    def __init__(self) -> None:
        self.proofs = Endless()
        self.through = Passthrough(
            Cache(),  # type: ignore[arg-type]
            Kernel(),
            version_of=FILES.get,
            refusal=lambda _: "",
            is_refused=lambda _: False,
            journal=lambda _: None,
            on_closed=lambda _: None,
            proofs=self.proofs,
            log=NoLog(),
        )
        self.found: dict[int, bool] = {}

    async def find(self, node_id: int) -> None:
        self.found[node_id] = await self.through.find(node_id)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_who_is_sent_a_signal_is_let_go_and_nobody_else(scene: Scene, nursery: trio.Nursery) -> None:
    for node_id in FILES:
        nursery.start_soon(scene.find, node_id)
    await wait_all_tasks_blocked()
    scene.through.give_up(8)
    await wait_all_tasks_blocked()
    assert scene.found == {8: False}
    assert scene.through.statistics().passed_over == {"not proven yet": 1}
    nursery.cancel_scope.cancel()


async def test_a_signal_that_comes_together_with_the_open_counts_for_that_open(
    scene: Scene, nursery: trio.Nursery
) -> None:
    """The kernel tells it once."""
    scene.through.give_up(7)
    await scene.find(7)
    assert scene.found == {7: False}
    nursery.start_soon(scene.find, 7)
    await wait_all_tasks_blocked()
    assert scene.proofs.waited[-1:] == [FILES[7]], "another open waits as ever"
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_nobody_is_waited_for_by_a_worker_that_leaves(scene: Scene, nursery: trio.Nursery, when: str) -> None:
    def later() -> None:
        for node_id in FILES:
            nursery.start_soon(scene.find, node_id)

    first: list[Callable[[], None]] = [scene.through.hurry, later] if when == "before" else [later, scene.through.hurry]
    for step in first:
        step()
        await wait_all_tasks_blocked()
    assert scene.found == dict.fromkeys(FILES, False)
