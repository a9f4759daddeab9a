"""What ends a mounter, which is the end of all workers of a node: no trouble with one mount."""

from __future__ import annotations

import os
import sys

import pytest

from tigrismount.demo.command import run_child
from tigrismount.holder.log import DaemonLog
from tigrismount.holder.protocol import Message
from tigrismount.mounter.log import MountLog
from tigrismount.mounter.service import Mounter
from tigrismount.mounter.volumes import Installation
from tigrismount.mounter.wire import Order


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def no_descriptor(*_: object) -> None:
    raise OSError(24, "Too many open files")


@pytest.mark.parametrize(
    ("what", "fault"),
    [("threading.Thread.start", no_thread), ("os.dup", no_descriptor)],
    ids=["no thread", "no descriptor"],
)
@pytest.mark.parametrize("asked", ["start", "adopt"])
def test_what_there_is_not_left_for_one_mount_ends_no_other(tmp_path, monkeypatch, asked, what, fault):
    said = []
    log = DaemonLog(path=str(tmp_path / "log"), foreground=True, level="info", json_lines=False)
    installation = Installation(environment={}, flags={}, worker_command=(sys.executable,))
    mounter = Mounter(str(tmp_path), installation, log, lambda name: MountLog(name, level="error", json_lines=False))
    monkeypatch.setattr(mounter, "_say", lambda type_, fds=(), /, **body: said.append((type_, body.get("order"))))
    order = Order(mount_id="one", source="s3://models/llama", options={}, mountpoint=str(tmp_path), secret={})
    number = {"order": 7} if asked == "start" else {}
    fds = () if asked == "start" else (os.memfd_create("fuse"), os.memfd_create("journal"))
    monkeypatch.setattr(what, fault)
    mounter._obey(Message(asked, {**order.to_values(), **number}, fds))
    monkeypatch.undo()
    assert said == ([("failed", 7)] if asked == "start" else [])
    assert "one: cannot be served for now" in (tmp_path / "log").read_text()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    mounter._obey(Message("kill", {"id": "one"}))
    assert mounter._all() == []
    mounter._events.close()
    log.close()


ONE_OF_MANY = """
import os, sys
os.cpu_count, os.sched_getaffinity = lambda: 128, lambda _: {0}
from tigrismount.demo.command import run_child
from tigrismount.holder.log import DaemonLog
from tigrismount.mounter.service import Mounter
from tigrismount.mounter.volumes import Installation
log = DaemonLog(path=None, foreground=True, level="info", json_lines=False)
mounter = Mounter(sys.argv[1], Installation(environment={}), log, None)
print(sum(mounter._turns.acquire(blocking=False) for _ in range(1000)))
"""


def test_a_mounter_of_one_core_has_no_more_workers_take_over_at_once_for_the_others_of_its_node(tmp_path):
    """Mutation: 512 of them at once, and none is ready before its readers are given up."""
    assert run_child(sys.executable, "-c", ONE_OF_MANY, str(tmp_path)).check().output == "8\n"
