from __future__ import annotations

import os
import signal

import pytest

from tigrismount.holder.mounting import MountSpec, mount
from tigrismount.holder.probe import Finding, Health, Probe, probe


def children() -> set[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {int(word) for word in file.read().split()}


def test_a_directory_answers(tmp_path):
    assert probe(str(tmp_path), timeout_s=10, listing=True) == Finding(Health.OK)


def test_an_error_is_told_with_the_call_that_met_it(tmp_path):
    (tmp_path / "file").touch()
    assert probe(str(tmp_path / "missing"), timeout_s=10).detail == "statvfs: No such file or directory"
    finding = probe(str(tmp_path / "file"), timeout_s=10, listing=True)
    assert finding == Finding(Health.FAILED, "listing: Not a directory")


def test_who_was_told_to_ignore_the_ends_of_children_hears_the_same(tmp_path):
    """Mutation: health ends with the status of what is not mounted, below a monitor that sets SIGCHLD aside."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert probe(str(tmp_path), timeout_s=10, listing=True) == Finding(Health.OK)
        assert Probe(str(tmp_path)).finish().health in (Health.OK, Health.HUNG)
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.fuse
def test_a_mount_that_nobody_serves_is_hung_until_its_connection_ends(fuse, mountpoint):
    """And the child, which may not be killable, ends with it: it holds no copy of the connection."""
    fd = mount(MountSpec(mountpoint=str(mountpoint), fsname="s3://m", allow_other=False))
    before = children()
    assert probe(str(mountpoint), timeout_s=0.2).health is Health.HUNG
    os.close(fd)
    assert probe(str(mountpoint), timeout_s=10).health is Health.DEAD
    for pid in children() - before:
        os.waitpid(pid, 0)


def test_probing_leaves_no_descriptor_behind(tmp_path):
    before = os.listdir("/proc/self/fd")
    probe(str(tmp_path), timeout_s=10)
    assert os.listdir("/proc/self/fd") == before
