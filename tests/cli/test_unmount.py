from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading

import pytest

from tigrismount.cli import unmount as command
from tigrismount.holder.mountinfo import FUSE_TYPE, MountEntry


def test_who_may_unmount_a_mount_of_somebody_else_is_said(fails, monkeypatch):
    """Mutation: "fusermount3: entry for /models not found in /etc/mtab" of a mount that is there."""
    entry = MountEntry(1, "0:1", "/models", FUSE_TYPE, "s3://models", ("user_id=4242",))
    monkeypatch.setattr(command, "mount_at", lambda _: entry)
    monkeypatch.setattr(command.os, "geteuid", lambda: 4243)
    assert fails("unmount", "/models") == (1, "/models: belongs to user 4242: only they, or root, can unmount it")


@pytest.mark.parametrize("lacks", ["python", "kernel"])
def test_the_end_of_a_daemon_is_waited_for_without_a_descriptor_of_it(monkeypatch, lacks):
    """Mutation: an internal error after the mount has gone, or no wait for the last records of the cache."""
    if lacks == "python":
        monkeypatch.delattr(os, "pidfd_open")
    else:
        monkeypatch.setattr(os, "pidfd_open", _no_such_call)
    asked = threading.Event()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as daemon:

        def end() -> None:
            asked.set()
            daemon.stdin.close()
            daemon.wait()

        ending = threading.Timer(0.5, end)
        ending.start()
        command._wait_for_end([daemon.pid, 2**22 + 1])
        assert asked.is_set()
        ending.join()


def _no_such_call(_pid):
    raise OSError(errno.ENOSYS, "Function not implemented")
