"""The supervisor with a worker that does what the test says, on real mounts."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.holder.mountinfo import mount_at
from tigrismount.holder.mounting import unmount
from tigrismount.holder.probe import Health, probe
from tigrismount.holder.request import Deadlines

pytestmark = pytest.mark.fuse

SHORT = Deadlines(start_s=1.5, unmount_grace_s=0, stop_s=1, takeover_s=1.5)


def health(mountpoint) -> Health:
    return probe(str(mountpoint), timeout_s=60, listing=True).health


def patiently(supervise, arrived, **fake):
    """Start with ever longer deadlines, until the worker gets where it is to hang: a busy machine takes its time."""
    for start_s in (1.5, 6, 24):
        supervised = supervise(deadlines=dataclasses.replace(SHORT, start_s=start_s), **fake)
        if arrived(supervised):
            break
    return supervised


def is_alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def test_a_mount_is_reported_once_it_answers(supervise, mountpoint):
    supervised = supervise()
    assert supervised.outcome.ok, supervised.outcome
    assert health(mountpoint) is Health.OK
    entry = mount_at(str(mountpoint))
    assert (entry.type, entry.source) == ("fuse.tigrismount", "s3://models/llama")
    assert children(supervised.pid) == [supervised.outcome.worker_pid]
    assert "fake worker started" in supervised.log.read_text()


def test_what_a_worker_warns_of_is_told_to_who_mounts(supervise):
    """Mutation: what is found out once it serves, as that its address for metrics is taken, is told by status alone."""
    supervised = supervise(ready={"warnings": ["early"]}, serving={"warnings": ["late"]})
    assert supervised.outcome.ok
    assert [warning for warning in supervised.outcome.warnings if warning in ("early", "late")] == ["early", "late"]


def test_the_kernel_refuses_writes_before_they_reach_the_worker(supervise, mountpoint):
    supervise()
    done = subprocess.run(["touch", f"{mountpoint}/x"], capture_output=True, text=True, timeout=30, check=False)
    assert "Read-only file system" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_and_ends_the_worker(supervise, mountpoint, number):
    supervised = supervise()
    os.kill(supervised.pid, number)
    assert supervised.wait() == 0
    assert mount_at(str(mountpoint)) is None
    assert not is_alive(supervised.outcome.worker_pid)


def test_a_busy_mount_is_taken_away_lazily_after_the_grace(supervise, mountpoint):
    supervised = supervise()
    holder = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.kill(supervised.pid, signal.SIGTERM)
        assert supervised.wait() == 0
        assert mount_at(str(mountpoint)) is None
        assert "is in use" in supervised.log.read_text()
    finally:
        os.close(holder)


def test_a_log_rotated_while_a_busy_mount_is_waited_for_cuts_nobody_short(supervise, mountpoint):
    supervised = supervise(deadlines=Deadlines(start_s=20, unmount_grace_s=60))
    holder = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.kill(supervised.pid, signal.SIGTERM)
        assert wait_until(lambda: "SIGTERM: unmounting" in supervised.log.read_text())
        for number in (signal.SIGHUP, signal.SIGUSR1):
            os.kill(supervised.pid, number)
        assert probe(str(mountpoint), timeout_s=20).health is Health.OK
        assert "is in use" not in supervised.log.read_text()
        os.kill(supervised.pid, signal.SIGTERM)
        assert supervised.wait() == 0
        assert "is in use" in supervised.log.read_text()
    finally:
        os.close(holder)


def test_unmounting_by_hand_ends_supervisor_and_worker(supervise, mountpoint):
    supervised = supervise()
    unmount(str(mountpoint))
    assert supervised.wait() == 0
    assert not is_alive(supervised.outcome.worker_pid)
    assert "was unmounted" in supervised.log.read_text()


def test_a_worker_that_outlives_its_mount_is_killed(supervise, mountpoint):
    supervised = supervise(hangs="unmounted", deadlines=Deadlines(start_s=20, stop_s=1))
    unmount(str(mountpoint))
    assert supervised.wait() == 0
    assert not is_alive(supervised.outcome.worker_pid)
    assert "did not end within 1 s and is killed" in supervised.log.read_text()


def test_a_dead_mount_is_replaced(supervise, mountpoint):
    first = supervise(successor={"dies": "ready"}, deadlines=dataclasses.replace(SHORT, start_s=20))
    os.kill(first.outcome.worker_pid, signal.SIGKILL)
    assert first.wait() == 1
    second = supervise()
    assert second.outcome.ok, second.outcome
    assert health(mountpoint) is Health.OK
    assert "detached the mount of s3://models/llama" in second.log.read_text()
    unmount(str(mountpoint))
    assert mount_at(str(mountpoint)) is None  # nothing dead lies below


def test_a_live_mount_is_not_mounted_over(supervise, mountpoint):
    assert supervise().outcome.ok
    outcome = supervise().outcome
    assert (outcome.ok, outcome.exit_code) == (False, 1)
    assert "mounted there already; 'tigrismount unmount" in outcome.message


@pytest.mark.parametrize("exit_code", [1, 2])
def test_what_the_worker_finds_wrong_is_passed_on(supervise, mountpoint, exit_code):
    outcome = supervise(fails={"exit_code": exit_code, "message": "bucket models: no such bucket"}).outcome
    assert (outcome.ok, outcome.exit_code, outcome.message) == (False, exit_code, "bucket models: no such bucket")
    assert mount_at(str(mountpoint)) is None


@pytest.mark.parametrize("stage", ["ready", "attached", "serve"])
def test_a_worker_that_dies_on_the_way_leaves_nothing_mounted(supervise, mountpoint, stage):
    outcome = supervise(dies=stage).outcome
    assert (outcome.ok, outcome.exit_code) == (False, 1)
    assert outcome.message == "the worker ended with exit status 7: something terrible"
    assert mount_at(str(mountpoint)) is None


@pytest.mark.parametrize("stage", ["ready", "attached"])
def test_a_worker_that_is_killed_on_the_way_is_named(supervise, mountpoint, stage):
    outcome = supervise(killed=stage).outcome
    assert outcome.message.startswith("the worker was killed by SIGKILL")
    assert mount_at(str(mountpoint)) is None


@pytest.mark.parametrize(
    ("stage", "complaint"),
    [
        ("ready", "did not become ready within"),
        ("attached", "did not take the connection within"),
        ("serve", "did not answer within"),
        ("serving", "did not answer within"),
    ],
)
def test_a_worker_that_hangs_meets_the_deadline(supervise, mountpoint, stage, complaint):
    supervised = patiently(supervise, lambda it: complaint in it.outcome.message, hangs=stage)
    assert not supervised.outcome.ok
    assert f"{complaint} {supervised.request.deadlines.start_s:g} s" in supervised.outcome.message
    assert mount_at(str(mountpoint)) is None


def test_a_worker_that_will_not_stop_is_killed(supervise, mountpoint):
    supervised = patiently(
        supervise, lambda it: "fake worker started" in it.log.read_text(), hangs="ready", ignores_sigterm=True
    )
    assert not supervised.outcome.ok
    assert "is killed" in supervised.log.read_text()


def test_a_listing_that_fails_fails_the_mount(supervise, mountpoint):
    outcome = supervise(listing_fails=True).outcome
    assert not outcome.ok
    assert outcome.message == "the first look through the mountpoint failed: listing: Input/output error"
    assert mount_at(str(mountpoint)) is None


@pytest.mark.parametrize("reply", ["zz", "", "00"])
def test_an_answer_the_kernel_refuses_fails_the_mount(supervise, mountpoint, reply):
    outcome = supervise(init_reply=reply, deadlines=SHORT).outcome
    assert not outcome.ok
    assert mount_at(str(mountpoint)) is None


def test_a_directory_that_holds_something_is_refused_unless_allowed(supervise, mountpoint):
    (mountpoint / "precious").touch()
    outcome = supervise().outcome
    assert not outcome.ok
    assert "is not empty (there is 'precious')" in outcome.message
    assert mount_at(str(mountpoint)) is None
    assert supervise(nonempty=True).outcome.ok


def test_the_log_is_opened_again_on_hangup(supervise, mountpoint):
    supervised = supervise()
    rotated = supervised.log.rename(supervised.log.with_suffix(".1"))
    os.kill(supervised.pid, signal.SIGHUP)
    assert wait_until(supervised.log.exists)
    os.kill(supervised.pid, signal.SIGTERM)
    assert supervised.wait() == 0
    assert "SIGTERM: unmounting" in supervised.log.read_text()
    assert "SIGTERM" not in rotated.read_text()
