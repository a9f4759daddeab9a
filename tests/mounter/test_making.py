"""How long the steps of making a mount may take together, and that two who are busy with one mount keep apart."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tigrismount.csi import kernel
from tigrismount.csi.held import HeldMounts
from tigrismount.csi.holding import Held, Operations
from tigrismount.csi.link import AnswerTimeoutError
from tigrismount.csi.making import Maker
from tigrismount.csi.mounts import MountFailure, MountSpec
from tigrismount.csi.records import Records
from tigrismount.holder.mountinfo import mount_at
from tigrismount.holder.protocol import Message
from tigrismount.mounter.wire import Order
from tigrismount.testing.mount import require_fuse

STARTING_S = 18.0
"""What the services leave for a start out of the 28 s of a call."""


class HangingWorker:
    """A link to a mounter whose worker finds the store, and then answers nothing."""

    def __init__(self, read_ahead_kib: int | None = None) -> None:
        self.waits_s: dict[str, float] = {}
        self._read_ahead_kib = read_ahead_kib

    def ask(self, type_, fds=(), /, *, timeout_s, **body):
        self.waits_s[type_] = timeout_s
        if type_ == "start":
            return Message("ready", {"fsname": "s3://models", "read_ahead_kib": self._read_ahead_kib})
        raise AnswerTimeoutError


@pytest.fixture
def order(tmp_path):
    require_fuse()
    if os.geteuid() != 0:
        pytest.skip("the driver mounts with the node's privilege")
    at = tmp_path.resolve() / "volumes" / "one"
    return Order(mount_id="one", source="s3://models", options={}, mountpoint=str(at), secret={})


@pytest.mark.fuse
def test_a_worker_that_hangs_after_its_start_leaves_nothing_within_the_time_of_a_call(tmp_path, order):
    link, at = HangingWorker(), Path(order.mountpoint)
    maker = Maker(link, Records(tmp_path / "mounts"))

    with pytest.raises(MountFailure) as failure:
        maker.make(order, time.monotonic() + STARTING_S, lambda held: None, on_top=False)

    assert failure.value.kind == "timeout"
    assert mount_at(str(at)) is None
    assert not at.exists()
    assert STARTING_S + link.waits_s["stop"] < 28, "of a call's 30 s, with a moment for the target"


@pytest.mark.fuse
def test_the_mounter_may_not_have_the_kernel_read_ahead_without_bound(tmp_path, order):
    maker, seen = Maker(HangingWorker(1 << 30), Records(tmp_path / "mounts")), []

    def look(held: Held) -> None:
        seen.append(Path(f"/sys/class/bdi/{mount_at(order.mountpoint).device}/read_ahead_kb").read_text())

    with pytest.raises(MountFailure):
        maker.make(order, time.monotonic() + STARTING_S, look, on_top=False)
    assert list(map(int, seen)) == [1 << 20]


def test_one_at_a_time_is_busy_with_a_mount_and_nobody_waits_for_ever():
    operations = Operations()
    with operations.on("one", 0.0):
        with operations.on("other", 0.0):
            pass
        with pytest.raises(MountFailure, match="tried again by itself"), operations.on("one", 0.01):
            raise AssertionError("two are busy with one mount")
    with operations.on("one", 0.0):
        pass
    assert operations.busy == set(), "volumes come and go for as long as a driver runs"


def test_a_mount_is_not_replaced_because_the_child_that_looked_was_killed(tmp_path, monkeypatch, order):
    """Mutation: a driver that is short of memory ends the mounts of pods when they are published again."""
    mounts = HeldMounts(tmp_path / "comm", tmp_path / "state", mounter_uid=0)
    mounts._register(Held(order))
    monkeypatch.setattr(kernel, "is_mounted", lambda _: True)
    monkeypatch.setattr(kernel, "_LOOK", "import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(mounts, "_make", lambda *_: pytest.fail("another one is made on top"))
    with pytest.raises(MountFailure, match="the look failed: the process that looked ended"):
        mounts.start("one", Path(order.mountpoint), MountSpec(order.source), {}, 30.0)
