"""Which journal a successor goes on with, and what follows where the worker before it does not let go."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from tigrismount.holder.connection import Connection
from tigrismount.holder.conversation import StartError
from tigrismount.holder.mounting import MountSpec
from tigrismount.holder.replacement import Replacement
from tigrismount.holder.request import MountRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tigrismount.holder.worker import Worker

INIT_REPLY = b"agreed"


class FakeWorker:
    """A process id, which is all that is said of it here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid


class FakeTalk:
    """Goes through all stages at once; what happens at one of them is told by name."""

    def __init__(self, worker: FakeWorker, happens: dict[str, Callable[[], None]]) -> None:
        self.worker = worker
        self._happens = happens
        self.attached: int = -1
        self.given: list[object] = []
        self.told_before: list[object] = []
        self.served: list[tuple[tuple[int, ...], bool]] = []

    def _do(self, stage: str) -> None:
        self._happens.get(stage, lambda: None)()

    def start(self, *, config: object, before: object = None, **_: object) -> None:
        self.given.append(config)
        self.told_before.append(before)
        self._do("start")

    def attach(self, fds: list[int], **_: object) -> bytes:
        self.attached = fds[1]
        self._do("attach")
        return INIT_REPLY

    def release(self, *, cancel: bool) -> bool:
        self._do("release")
        return cancel

    def serve(self, fds: tuple[int, ...] = (), *, resend: bool = False) -> None:
        self.served.append((fds, resend))


class FakeWorkers:
    def __init__(self) -> None:
        self.happens: dict[str, Callable[[], None]] = {}
        self.current = FakeWorker(1)
        self.killed: list[int] = []
        self.retired: list[int] = []
        self.successor = FakeTalk(FakeWorker(2), self.happens)

    def start(self, _: float) -> FakeTalk:
        return self.successor

    def talk(self, worker: FakeWorker, _: float) -> FakeTalk:
        return FakeTalk(worker, self.happens)

    def kill(self, worker: Worker) -> None:
        self.killed.append(worker.pid)

    def pause(self, _: float) -> None: ...

    def retire(self, worker: Worker) -> None:
        self.retired.append(worker.pid)

    @contextlib.contextmanager
    def killed_on_failure(self, worker: Worker) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.kill(worker)
            raise


class FakeLog:
    def info(self, _: str) -> None: ...

    def warning(self, _: str) -> None: ...


class Scene:
    def __init__(self) -> None:
        spec = MountSpec(mountpoint="/nowhere", fsname="s3://bucket", allow_other=False)
        self.connection = Connection(spec, lambda _: None)
        self.connection.init_reply = INIT_REPLY
        self.connection.journal_fd = os.memfd_create("journal")
        self.workers = FakeWorkers()
        request = MountRequest(config={})
        self.replacement = Replacement(self.connection, self.workers, FakeLog(), request)  # type: ignore[arg-type]
        self.replacement.succession.can_resend = True

    def rewrite(self) -> None:
        """What the worker that serves does with a journal that has grown too long."""
        self.connection.keep_journal(os.memfd_create("journal"))


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.connection.close()


@pytest.mark.parametrize("stage", ["attach", "release"])
def test_a_journal_that_is_written_anew_while_its_successor_gets_ready_is_handed_over(scene: Scene, stage: str) -> None:
    """Else the successor would go on with the old one: ids met since would be unknown to it, and to all after it."""
    scene.workers.happens[stage] = scene.rewrite

    assert scene.replacement.hand_over("was told to end") == ""
    assert scene.workers.successor.served == [((scene.connection.journal_fd,), True)]


def test_a_journal_that_is_the_same_is_handed_over_once(scene: Scene) -> None:
    """One that was written anew before the successor got it is the one that it got."""
    scene.workers.happens["start"] = scene.rewrite

    assert scene.replacement.hand_over("was told to end") == ""
    assert scene.workers.successor.attached == scene.connection.journal_fd
    assert scene.workers.successor.served == [((), True)]


@pytest.mark.parametrize("can_resend", [True, False])
def test_what_a_killed_worker_had_begun_is_sent_again_or_ends_in_an_error(scene: Scene, *, can_resend: bool) -> None:
    """A successor on the same connection would never hear of it, and whoever asked would wait for ever."""

    def hang() -> None:
        raise StartError("did not let go")

    scene.workers.happens["release"] = hang
    scene.replacement.succession.can_resend = can_resend

    failure = scene.replacement.hand_over("was told to end")
    assert 1 in scene.workers.killed
    assert scene.workers.successor.served == ([((), True)] if can_resend else [])
    assert bool(failure) is not can_resend


@pytest.mark.parametrize("way", ["hand over", "take over"])
def test_what_no_worker_came_to_serve_with_is_given_to_no_other(scene: Scene, way: str) -> None:
    """Mutation: a mistake in a configuration that was read again waits for the next crash, and ends the mount there."""
    replacement, given = scene.replacement, scene.workers.successor.given
    replacement.config, replacement.served = {"s3": "changed"}, {"s3": "served"}

    def fail() -> None:
        if given[-1] == {"s3": "changed"}:
            raise StartError("no such profile")

    scene.workers.happens["start"] = fail
    scene.connection.is_connected = lambda: True  # type: ignore[method-assign]
    if way == "hand over":
        assert replacement.hand_over("was replaced") == "no such profile"
    assert replacement.take_over("was killed") == ""
    assert given == [{"s3": "changed"}, {"s3": "served"}]
    assert scene.workers.current is scene.workers.successor.worker


def test_a_worker_is_told_what_the_one_before_it_was_given_where_that_is_something_else(scene: Scene) -> None:
    """Mutation: the kernel goes by the rights that it was told first, for as long as it remembers a file."""
    replacement = scene.replacement
    replacement.config, replacement.served = {"vfs": {"file_mode": 0o440}}, {"vfs": {"file_mode": 0o444}}
    for _ in range(2):
        assert replacement.hand_over("was replaced for an upgrade or a reload") == ""
    assert scene.workers.successor.told_before == [{"vfs": {"file_mode": 0o444}}, None]
