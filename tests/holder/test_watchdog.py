"""When the watchdog looks at the mountpoint itself."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest

from tigrismount.errors import MountError
from tigrismount.holder import watchdog
from tigrismount.holder.mountinfo import parse_mounts
from tigrismount.holder.probe import Probe
from tigrismount.holder.watchdog import Watchdog

NULL = os.open(os.devnull, os.O_RDONLY)
ANSWERED = SimpleNamespace(fileno=lambda: NULL, finish=lambda: None)
"""A probe of a directory that answers."""


class FakeWorker:
    """Answers at once, or never."""

    def __init__(self, *, answers: bool) -> None:
        self.unanswered = 0
        self._answers = answers

    def ping(self) -> None:
        self.unanswered += not self._answers


@pytest.mark.parametrize(("answers", "turns"), [(True, 5), (False, 2)], ids=["answers", "silent"])
def test_a_loop_that_does_not_answer_is_probed_at_once(tmp_path, answers, turns):
    """Its library may wait for a request that was taken back; the probe is one."""
    probed = []

    def start_probe(path: str) -> Probe:
        probed.append(path)
        return Probe(path)

    dog = Watchdog(str(tmp_path), hang_s=0.0, start_probe=start_probe)
    worker = FakeWorker(answers=answers)
    for turn in range(1, turns + 1):
        assert probed == [], turn
        assert dog.turn(worker) == ""
    assert probed == [str(tmp_path)]
    dog.reset()


def test_a_machine_without_a_process_left_ends_no_mount(tmp_path, monkeypatch):
    """The supervisor would end for it, and take the mount with it; it has only to ask again."""
    left = [False, False, True]

    def start_probe(path: str) -> Probe:
        if not left.pop(0):
            monkeypatch.setattr("os.fork", no_process_left)
        try:
            return Probe(path)
        finally:
            monkeypatch.undo()

    dog = Watchdog(str(tmp_path), hang_s=0.0, start_probe=start_probe)
    before = os.listdir("/proc/self/fd")
    for turn in range(14):
        assert dog.turn(FakeWorker(answers=True)) == "", turn
    assert os.listdir("/proc/self/fd") == before, "descriptors leak"
    assert left == [True]
    dog.turn(FakeWorker(answers=True))
    assert left == [], "it was not asked again"
    dog.reset()


@pytest.mark.parametrize("left", range(2))
def test_a_machine_without_a_descriptor_left_ends_no_mount(tmp_path, descriptors_left, left):
    dog = Watchdog(str(tmp_path), hang_s=0.0)
    before = os.listdir("/proc/self/fd")
    with descriptors_left(left):
        for turn in range(10):
            assert dog.turn(FakeWorker(answers=True)) == "", turn
    assert os.listdir("/proc/self/fd") == before, "descriptors leak"


def test_who_asks_about_a_mount_hears_that_no_process_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fork", no_process_left)
    with pytest.raises(MountError, match="no process can be started: Resource temporarily unavailable"):
        Probe(str(tmp_path))


def no_process_left() -> int:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@pytest.mark.parametrize("kind", ["fuse.tigrismount", "nfs4"])
def test_a_worker_is_not_blamed_for_a_filesystem_on_top(monkeypatch, kind):
    """Mutation: while the other one hangs each worker is killed after twenty seconds, and readers wait for the next."""
    entry = parse_mounts(f"91 27 0:51 / /models ro - {kind} somebody ro\n".encode())[0]
    monkeypatch.setattr(watchdog, "mount_at", lambda _: entry)
    answer_fd, unanswered_fd = os.pipe()
    probe = SimpleNamespace(fileno=lambda: answer_fd, finish=lambda: None)
    dog = Watchdog("/models", hang_s=0.0, start_probe=lambda path: probe if path == "/models" else ANSWERED)
    said, progress = set(), []
    for _ in range(40):
        said.add(dog.turn(FakeWorker(answers=True)))
        progress.append(dog.has_progress)
    assert any("did not answer the kernel" in text for text in said) == entry.is_ours
    assert any(progress[20:]) != entry.is_ours, "a unit whose supervisor reports none is killed"
    dog.reset()
    os.close(answer_fd)
    os.close(unanswered_fd)


def test_a_filesystem_on_top_that_hangs_is_asked_once(monkeypatch):
    """Mutation: each probe leaves a child that hangs as long as the other one does, until there can be no worker."""
    ours, theirs = parse_mounts(
        b"90 27 0:50 / /models ro - fuse.tigrismount s3://m ro\n91 27 0:51 / /models ro - nfs4 somebody ro\n"
    )
    seen, started = [theirs], []
    monkeypatch.setattr(watchdog, "mount_at", lambda _: seen[0])
    answer_fd, unanswered_fd = os.pipe()
    probe = SimpleNamespace(fileno=lambda: answer_fd, finish=lambda: None)

    def start_probe(path: str) -> SimpleNamespace:
        if path != "/models":
            return ANSWERED
        started.append(path)
        return probe

    dog = Watchdog("/models", hang_s=0.0, start_probe=start_probe)
    for _ in range(60):
        assert not dog.turn(FakeWorker(answers=True))
    assert len(started) == 1
    seen[0] = ours
    said = [dog.turn(FakeWorker(answers=True)) for _ in range(20)]
    assert any("did not answer the kernel" in text for text in said), "it is on top no longer"
    dog.reset()
    os.close(answer_fd)
    os.close(unanswered_fd)


def test_a_worker_is_not_blamed_for_a_filesystem_on_the_way(monkeypatch):
    """As where the mountpoint lies in a home directory on a server that is away.

    Mutation: each worker is killed after twenty seconds, and what is open fails where nobody can take over.
    """
    ours = parse_mounts(b"90 27 0:50 / /home/anna/models ro - fuse.tigrismount s3://m ro\n")[0]
    monkeypatch.setattr(watchdog, "mount_at", lambda _: ours)
    started: list[str] = []
    ends = {path: os.pipe() for path in ("/home/anna/models", "/home/anna")}

    def start_probe(path: str) -> SimpleNamespace:
        started.append(path)
        return SimpleNamespace(fileno=lambda: ends[path][0], finish=lambda: None)

    dog = Watchdog("/home/anna/models", hang_s=0.0, start_probe=start_probe)
    for _ in range(60):
        assert not dog.turn(FakeWorker(answers=True))
    assert dog.has_progress
    assert sorted(started) == ["/home/anna", "/home/anna/models"], "each child hangs as long as that one does"
    os.write(ends["/home/anna"][1], b"ok")
    said = [dog.turn(FakeWorker(answers=True)) for _ in range(20)]
    assert any("did not answer the kernel" in text for text in said), "the way is free again"
    dog.reset()
    for pair in ends.values():
        for fd in pair:
            os.close(fd)
