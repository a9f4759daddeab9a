from __future__ import annotations

import os

from tigrismount.holder.probe import Finding, Health, Probe, probe


def test_a_directory_answers(tmp_path):
    assert probe(str(tmp_path), timeout_s=10, listing=True) == Finding(Health.OK)


def test_an_error_is_told_with_the_call_that_met_it(tmp_path):
    (tmp_path / "file").touch()
    assert probe(str(tmp_path / "missing"), timeout_s=10).detail == "statvfs: No such file or directory"
    finding = probe(str(tmp_path / "file"), timeout_s=10, listing=True)
    assert finding == Finding(Health.FAILED, "listing: Not a directory")


def test_what_has_not_answered_is_hung_and_leaves_no_child(tmp_path):
    """Finished before the child had a chance."""
    os.mkfifo(tmp_path / "x")
    started = Probe("/proc/self/root")
    os.kill(started._pid, 19)  # stopped, as if its call did not return
    os.waitid(os.P_PID, started._pid, os.WSTOPPED | os.WNOWAIT)
    finding = started.finish()
    assert finding.health in (Health.HUNG, Health.OK)  # it may have answered before it was stopped


def test_probing_leaves_no_descriptor_behind(tmp_path):
    before = os.listdir("/proc/self/fd")
    probe(str(tmp_path), timeout_s=10)
    assert os.listdir("/proc/self/fd") == before
