"""What follows when a worker ends that was not asked to, on real mounts with a worker that does what the test says."""

from __future__ import annotations

import os
import select
import signal
import struct

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.holder.mountinfo import mount_at, read_mounts
from tigrismount.holder.mounting import unmount
from tigrismount.holder.probe import Health, Probe, probe
from tigrismount.holder.request import Deadlines

pytestmark = pytest.mark.fuse

SHORT = Deadlines(start_s=20, unmount_grace_s=0, stop_s=2, takeover_s=1.5)


def health(mountpoint) -> Health:
    return probe(str(mountpoint), timeout_s=120, listing=True).health


def worker_of(supervised) -> int:
    """The pid of the worker that took over last."""
    assert supervised.outcome.ok, supervised.outcome
    lines = [line for line in supervised.log.read_text().splitlines() if "has taken over after" in line]
    return int(lines[-1].split("worker ")[1].split()[0]) if lines else supervised.outcome.worker_pid


def takeovers(supervised) -> int:
    return supervised.log.read_text().count("has taken over after")


def kill(supervised, number: int = signal.SIGKILL) -> None:
    """End the worker, and wait for its successor."""
    before = takeovers(supervised)
    os.kill(worker_of(supervised), number)
    assert wait_until(lambda: takeovers(supervised) == before + 1)


def end(supervised, mountpoint) -> None:
    os.kill(supervised.pid, signal.SIGTERM)
    assert supervised.wait() == 0
    assert mount_at(str(mountpoint)) is None


def test_a_killed_worker_gets_a_successor(supervise, mountpoint):
    supervised = supervise()
    kill(supervised)
    assert health(mountpoint) is Health.OK
    assert "takeover 1: was killed by SIGKILL" in supervised.log.read_text()
    kill(supervised)
    assert health(mountpoint) is Health.OK
    assert "takeover 2: was killed by SIGKILL" in supervised.log.read_text()
    end(supervised, mountpoint)


def test_a_worker_that_somebody_tells_to_end_gets_one_too(supervise, mountpoint):
    supervised = supervise()
    kill(supervised, signal.SIGTERM)
    assert health(mountpoint) is Health.OK
    end(supervised, mountpoint)


def test_a_request_that_a_dead_worker_took_is_answered_by_its_successor(supervise, mountpoint, tmp_path):
    flag = tmp_path / "swallow"
    supervised = supervise(swallows_while=str(flag), successor={"swallows_while": ""})
    flag.touch()
    waiting = Probe(str(mountpoint), listing=True)
    assert probe(str(mountpoint), timeout_s=0.5).health is Health.HUNG
    kill(supervised)
    assert wait_until(lambda: _readable(waiting))
    assert waiting.finish().health is Health.OK
    end(supervised, mountpoint)


def _readable(waiting: Probe) -> bool:
    return bool(select.select([waiting], [], [], 0)[0])


def test_the_journal_goes_from_worker_to_worker(supervise, mountpoint):
    supervised = supervise()
    for _ in range(3):
        kill(supervised)
    assert [line for line in supervised.log.read_text().splitlines() if line.startswith("journal: ")] == [
        "journal: x",
        "journal: xx",
        "journal: xxx",
        "journal: xxxx",
    ]
    end(supervised, mountpoint)


def test_a_journal_written_anew_takes_the_place_of_the_old_one(supervise, mountpoint):
    supervised = supervise(rewrites_journal=True)
    fds = len(os.listdir(f"/proc/{supervised.pid}/fd"))
    kill(supervised)
    kill(supervised)
    assert "journal: xxx" in supervised.log.read_text().splitlines()
    assert wait_until(lambda: len(os.listdir(f"/proc/{supervised.pid}/fd")) == fds), "descriptors leak"
    end(supervised, mountpoint)


def test_a_snapshot_is_resolved_by_the_first_worker_for_all(supervise, mountpoint):
    supervised = supervise(ready={"snapshot_version": "17"}, successor={"ready": {"snapshot_version": "99"}})
    kill(supervised)
    kill(supervised)
    started = [line for line in supervised.log.read_text().splitlines() if line.startswith("fake worker started")]
    assert ["'snapshot_version': '17'" in line for line in started] == [False, True, True]
    end(supervised, mountpoint)


def test_a_successor_that_fails_is_followed_by_another(supervise, mountpoint, tmp_path):
    flag = tmp_path / "die"
    flag.touch()
    supervised = supervise(successor={"dies": "attached", "dies_while": str(flag)})
    os.kill(worker_of(supervised), signal.SIGKILL)
    assert wait_until(lambda: "did not come to serve" in supervised.log.read_text())
    flag.unlink()
    assert health(mountpoint) is Health.OK
    assert "takeover 1: was killed by SIGKILL" in supervised.log.read_text()
    end(supervised, mountpoint)


@pytest.mark.parametrize(
    "fault",
    [
        {"dies": "ready"},
        {"dies": "attached"},
        {"hangs": "ready"},
        {"hangs": "attached"},
        {"fails": {"exit_code": 1, "message": "no"}},
        {"init_reply": "zz"},
    ],
    ids=str,
)
def test_without_a_successor_reads_end_in_an_error_and_never_an_empty_directory(supervise, mountpoint, fault):
    supervised = supervise(successor=fault, deadlines=SHORT)
    os.kill(worker_of(supervised), signal.SIGKILL)
    waiting = Probe(str(mountpoint), listing=True)
    assert supervised.wait() == 1
    assert wait_until(lambda: _readable(waiting))
    assert waiting.finish().health is Health.DEAD
    assert health(mountpoint) is Health.DEAD
    log = supervised.log.read_text()
    assert "the worker was killed by SIGKILL" in log
    assert "no other worker came to serve within 1.5 s; reads of" in log
    assert "fail until it is mounted again" in log


def test_a_successor_that_would_answer_the_kernel_differently_is_not_let_in(supervise, mountpoint):
    supervised = supervise(successor={"init_reply": struct.pack("=IiQ", 16, 0, 2).hex()})
    os.kill(worker_of(supervised), signal.SIGKILL)
    assert supervised.wait() == 1
    assert health(mountpoint) is Health.DEAD
    log = supervised.log.read_text()
    assert "speaks to the kernel in another way; mounting anew" in log
    assert "could not be mounted anew" in log
    assert takeovers(supervised) == 0


@pytest.mark.parametrize("reason", ["old kernel", "other answer"])
def test_where_no_worker_can_take_over_the_mount_is_made_anew_over_the_old_one(supervise, mountpoint, reason):
    old = reason == "old kernel"
    supervised = supervise(use_resend=False) if old else supervise(successor={"max_write": 65536})
    directory = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.kill(supervised.outcome.worker_pid, signal.SIGKILL)
        assert wait_until(lambda: "mounting anew" in supervised.log.read_text())
        assert wait_until(lambda: health(mountpoint) is Health.OK)
        with pytest.raises(OSError, match=r"not connected|connection abort"):
            os.listdir(directory)
    finally:
        os.close(directory)
    assert len([entry for entry in read_mounts() if entry.mountpoint == str(mountpoint)]) == 2
    end(supervised, mountpoint)


def test_a_request_that_kills_every_worker_ends_in_an_error(supervise, mountpoint, tmp_path):
    flag = tmp_path / "poison"
    supervised = supervise(dies_of_requests_while=str(flag))
    flag.touch()
    assert health(mountpoint) is Health.DEAD
    assert supervised.wait() == 1
    assert "31 workers ended within 300 s, so no other is started" in supervised.log.read_text()


def test_a_signal_during_a_takeover_unmounts(supervise, mountpoint):
    supervised = supervise(successor={"hangs": "ready"})
    os.kill(worker_of(supervised), signal.SIGKILL)
    assert wait_until(lambda: "starting another one" in supervised.log.read_text())
    end(supervised, mountpoint)


def test_a_mount_that_was_taken_away_meanwhile_was_unmounted(supervise, mountpoint):
    supervised = supervise(successor={"dies": "ready"})
    os.kill(worker_of(supervised), signal.SIGKILL)
    assert wait_until(lambda: "did not come to serve" in supervised.log.read_text())
    unmount(str(mountpoint))
    assert supervised.wait() == 0
    assert "was unmounted" in supervised.log.read_text()


def test_unmounting_after_takeovers_ends_everything(supervise, mountpoint):
    supervised = supervise()
    kill(supervised)
    unmount(str(mountpoint))
    assert supervised.wait() == 0
    assert "was unmounted" in supervised.log.read_text()


def test_a_lazily_unmounted_mount_in_use_is_taken_over_too(supervise, mountpoint):
    supervised = supervise()
    directory = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unmount(str(mountpoint), lazy=True)
        kill(supervised)
        assert os.listdir(directory) == []
    finally:
        os.close(directory)
    assert supervised.wait() == 0


def test_a_mount_that_was_unmounted_lazily_is_not_made_anew(supervise, mountpoint):
    """Mutation: what somebody has taken away is there again, once the worker ends that served what was still open."""
    supervised = supervise(use_resend=False)
    directory = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unmount(str(mountpoint), lazy=True)
        os.kill(supervised.outcome.worker_pid, signal.SIGKILL)
        assert supervised.wait() == 0
    finally:
        os.close(directory)
    assert "was unmounted" in supervised.log.read_text()
    assert mount_at(str(mountpoint)) is None
