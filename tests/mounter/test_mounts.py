"""The driver's mounts from start to stop, over a real mounter and real workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tigrismount.csi.mounts import MountFailure, MountState
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


def test_a_volume_from_start_to_stop(node, store, read):
    """Each kind of failure leaves nothing; then one that serves: its key is replaced in place, and it ends."""
    mounts = node.open()
    node.mounter("--log-level=debug")
    assert wait_until(lambda: mounts.ready() is None)
    assert mounts.known() == {}
    assert not mounts.state("one").served
    fails = {
        "no_bucket": {"source": "s3://none-such"},
        "bad_credentials": {"secret": {"AWS_ACCESS_KEY_ID": "tid_other", "AWS_SECRET_ACCESS_KEY": "wrong"}},
        "bad_option": {"no_such_option": "1"},
        "unreachable": {"endpoint_url": "http://127.0.0.1:9", "max_retries": "0"},
    }
    for kind, arguments in fails.items():
        with pytest.raises(MountFailure) as failure:
            node.start("one", **{"source": "s3://models", **arguments})
        assert failure.value.kind == kind
        assert nothing_is_left(node)
    store.refusal = (403, "AccessDenied")
    with pytest.raises(MountFailure) as failure:
        node.start("one", "s3://models", secret={"AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "x"})
    assert failure.value.kind == "denied"
    assert nothing_is_left(node)

    at = node.start("one", "s3://models")
    assert mounts.state("one").served
    assert read(at / "file") == "bytes"
    mounts.start("one", at, *unused())  # it serves, and is left as it is
    new = {"AWS_ACCESS_KEY_ID": "tid_two", "AWS_SECRET_ACCESS_KEY": "tsec_two_hidden"}
    store.keys = {"tid_two"}
    store.put("models", "later", b"more")
    mounts.rotate("one", new)
    assert read(at / "later") == "more"
    before = node.workers()
    node.kill_worker()
    assert node.workers() != before
    store.put("models", "last", b"most")
    assert read(at / "last") == "most", "its successor has the new key"
    assert_nobody_shows(node, "hidden")
    mounts.stop("one")
    assert nothing_is_left(node)
    assert not at.exists()
    mounts.stop("one")


def unused() -> tuple:
    from tigrismount.csi.mounts import MountSpec

    return MountSpec("s3://none-such"), {}, 10.0


def nothing_is_left(node) -> bool:
    no_workers = wait_until(lambda: not node.workers())
    records = list((node.directory / "state" / "mounts").glob("*"))
    return no_workers and not node.mounted() and not node.mounts.known() and not records and not node.at("one").exists()


def assert_nobody_shows(node, secret: str) -> None:
    """The secret is in no argument, environment, log or file."""
    pids = [*node.workers(), *(process.pid for process in node.mounters)]
    assert len(pids) >= 2
    for pid in pids:
        for name in ("cmdline", "environ"):
            assert secret.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    for where, _, names in os.walk(node.directory):
        for name in names:
            path = Path(where, name)
            if not str(path).startswith(str(node.directory / "volumes")) and path.is_file():
                assert secret.encode() not in path.read_bytes(), path


def test_without_a_mounter_nothing_is_mounted(node):
    mounts = node.open()
    assert "tigrismount mounter" in mounts.ready()
    with pytest.raises(MountFailure) as failure:
        mounts.start("one", node.at("one"), *unused()[:2], 0.2)
    assert failure.value.kind == "no_mounter"
    assert nothing_is_left(node)


def test_a_mount_that_nobody_serves_ends_in_an_error_and_is_made_anew(node, read):
    """No mounter comes: who waits gets an error, and the directory below is never seen; then it is mended."""
    mounts = node.open(takeover_s=3.0)
    node.mounter()
    at = node.start("one", "s3://models")
    node.kill_mounter()
    assert "Error" in read(at / "file") or "not connected" in read(at / "file")
    state = mounts.state("one")
    assert not state.served
    assert "nobody came to serve it" in state.reason
    assert str(at) in node.mounted(), "a dead mount, and no empty directory"
    node.mounter()
    assert node.start("one", "s3://models") == at
    assert read(at / "file") == "bytes"


def test_a_worker_that_is_stopped_is_replaced(node, read):
    """It does not answer the kernel, nor its mounter."""
    node.open(hang_s=1.0, look_every_s=0.5)
    node.mounter()
    at = node.start("one", "s3://models")
    (worker,) = node.workers()
    os.kill(worker, signal.SIGSTOP)
    assert read(at / "file") == "bytes"
    assert node.workers() != [worker]


@pytest.mark.slow  # as long as it takes to give a mount up
def test_a_mount_that_is_looked_through_again_and_again_stays_as_it_is(node, read):
    """With the driver's real looks. Mutation: one that never has an answer takes each volume from its pod in time."""
    mounts = node.open(hang_s=5.0, takeover_s=8.0, look_every_s=0.5)
    node.mounter()
    at = node.start("one", "s3://models")
    before = node.workers()
    time.sleep(10.0)
    assert node.workers() == before
    assert mounts.state("one") == MountState(served=True)
    assert read(at / "file") == "bytes"


def test_where_no_worker_can_take_over_the_mount_is_made_anew_on_top(node, read):
    """As behind an upgrade of the FUSE library, which answers the kernel in another way.

    A worker that is stuck, and that even a kill does not end, still holds the connection: nobody may wait for it.
    """
    mounts = node.open()
    node.mounter()
    at = node.start("one", "s3://models")
    stuck = os.dup(mounts._mounts["one"].fuse_fd)
    mounts._mounts["one"].init_reply = "00" * 80
    node.kill_mounter()
    node.mounter()
    try:
        assert wait_until(lambda: node.remounted == ["one"], timeout_s=60)
    finally:
        os.close(stuck)
    assert mounts.state("one").served
    assert read(at / "file") == "bytes"
    assert node.mounted() == [str(at)] * 2, "at no time was the directory below seen"


def test_a_worker_that_is_told_to_end_hands_over(node, read):
    mounts = node.open()
    node.mounter()
    at = node.start("one", "s3://models")
    (worker,) = node.workers()
    os.kill(worker, signal.SIGTERM)
    assert wait_until(lambda: node.workers() and worker not in node.workers(), timeout_s=60)
    assert read(at / "file") == "bytes"
    assert wait_until(lambda: "was told to end" in mounts.state("one").reason)


def test_a_mounter_that_is_told_to_end_leaves_its_mounts_to_the_next(node, read):
    node.open()
    node.mounter()
    at = node.start("one", "s3://models")
    with open(at / "file", "rb", buffering=0) as file:
        waiting, process = node.mounters.pop(), node.mounter()
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(30) == 0
        assert wait_until(lambda: node.workers() and node.served())
        assert process.poll() is None
        assert os.fstat(file.fileno()).st_size == 5
    assert read(at / "file") == "bytes"
