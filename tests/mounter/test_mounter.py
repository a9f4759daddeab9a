"""What a mounter may be (any user, without privilege), and what it may do to readers when it hangs (no harm)."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tigrismount.csi.mounts import MountSpec
from tigrismount.csi.volumes import _PROOF_S, _UNDO_S, BUDGET_S
from tigrismount.demo.command import wait_until

READ = "import sys; sys.stdout.write(open(sys.argv[1]).read())"


@pytest.fixture
def read():
    """Read a file in a child, which may hang or fail without taking the test along."""

    def run(path) -> str:
        done = subprocess.run(
            [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout if done.returncode == 0 else done.stderr.splitlines()[-1]

    return run


def test_a_mounter_of_another_user_serves_without_any_privilege(node_of_another_user, read):
    node = node_of_another_user
    node.open()
    node.mounter()
    at = node.start("one", "s3://models")
    node.kill_worker()
    assert read(at / "file") == "bytes"
    for pid in (*node.workers(), node.mounters[0].pid):
        status = Path(f"/proc/{pid}/status").read_text()
        assert "Uid:\t10001\t10001\t10001\t10001" in status
        assert "CapEff:\t0000000000000000" in status
    assert os.stat(node.directory / "comm").st_uid == 10001


def test_a_mounter_that_hangs_with_its_worker_is_an_error_and_no_hang(node, read):
    """It holds the connection as well, so only the kernel can end it."""
    mounts = node.open(hang_s=1.0, takeover_s=2.0, look_every_s=0.5)
    node.mounter()
    at = node.start("one", "s3://models")
    hung = [node.mounters[0].pid, *node.workers()]
    for pid in hung:
        os.kill(pid, signal.SIGSTOP)
    assert "Error" in read(at / "file")
    assert mounts.ready() == "the mounter did not answer within 2 s"
    assert str(at) in node.mounted()
    for pid in hung:
        os.kill(pid, signal.SIGCONT)
    assert "nobody came to serve it" in mounts.state("one").reason


def test_a_mount_that_was_lost_on_the_way_to_the_mounter_is_given_again(node, read):
    """As where a machine is so busy that the mounter reads no message for seconds."""
    mounts = node.open(hang_s=1.0, look_every_s=0.5)
    node.mounter()
    at = node.start("one", "s3://models")
    reply, mounts._mounts["one"].init_reply = mounts._mounts["one"].init_reply, ""  # so that it is not given at first
    node.kill_mounter()
    node.mounter()
    assert wait_until(lambda: mounts.ready() is None, timeout_s=60)
    assert node.workers() == []
    mounts._mounts["one"].init_reply = reply
    assert read(at / "file") == "bytes"


def test_a_volume_begins_without_the_cache_while_that_cannot_be_opened(node, read):
    """As beside a worker that hangs in the index, or on a disk that does. Opening may take longer than a call may.

    Mutation: no pod of the node gets a volume for as long as that lasts, though the store has it all.
    """
    mounts = node.open()
    node.mounter()
    (node.directory / "cache").mkdir(mode=0o700)
    with open(node.directory / "cache" / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        at = node.at("one")
        mounts.start(
            "one",
            at,
            MountSpec("s3://models", {"block-size": "1MiB", "memory-limit": "64MiB"}),
            node.secret,
            BUDGET_S - _PROOF_S - _UNDO_S,
        )
        assert read(at / "file") == "bytes"
        assert wait_until(lambda: "cache" in (mounts.state("one").degraded or ""))


SLOW_TO_BEGIN = """
import sys, time
time.sleep(8 if "tigrismount.app" in sys.orig_argv else 0)
"""


def test_a_volume_begins_without_the_cache_also_where_its_worker_was_slow_to_begin(node, read, tmp_path):
    """As where all pods of a node that has just booted ask for theirs together: workers share the cores.

    Mutation: the cache is waited for as if the whole time were left, and none of them is in time, again and again.
    """
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW_TO_BEGIN)
    mounts = node.open()
    node.mounter(PYTHONPATH=os.pathsep.join([str(tmp_path / "slow"), *sys.path]))
    (node.directory / "cache").mkdir(mode=0o700)
    with open(node.directory / "cache" / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        at = node.at("one")
        spec = MountSpec("s3://models", {"block-size": "1MiB", "memory-limit": "64MiB"})
        mounts.start("one", at, spec, node.secret, BUDGET_S - _PROOF_S - _UNDO_S)
        assert read(at / "file") == "bytes"
