"""A worker that serves is replaced by one that was made ready beside it: real mounts, a worker that does as told."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.holder.mountinfo import mount_at
from tigrismount.holder.probe import Health, probe
from tigrismount.holder.request import Deadlines

pytestmark = pytest.mark.fuse


def health(mountpoint) -> Health:
    return probe(str(mountpoint), timeout_s=60, listing=True).health


def has_said(supervised, text: str, times: int = 1) -> bool:
    return wait_until(lambda: supervised.log.read_text().count(text) >= times)


def end(supervised, mountpoint) -> None:
    os.kill(supervised.pid, signal.SIGTERM)
    assert supervised.wait() == 0
    assert mount_at(str(mountpoint)) is None


def test_sighup_executes_the_supervisor_anew_and_replaces_the_worker(supervise, mountpoint):
    supervised = supervise()
    for number in (1, 2):
        os.kill(supervised.pid, signal.SIGHUP)
        assert has_said(supervised, "has taken over from", number)
        assert health(mountpoint) is Health.OK
    log = supervised.log.read_text()
    assert log.count("the supervisor was executed anew") == 2
    assert "takeover 2: was replaced for an upgrade or a reload" in log
    assert [line for line in log.splitlines() if line.startswith("journal: ")][-1] == "journal: xxx"
    with open(f"/proc/{supervised.pid}/cmdline") as file:
        assert "--state-fd" in file.read()
    assert wait_until(lambda: len(children(supervised.pid)) == 1), "the old worker is still there"
    end(supervised, mountpoint)


def children(pid: int) -> list[str]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def test_descriptors_do_not_pile_up_over_upgrades(supervise, mountpoint):
    supervised = supervise(rewrites_journal=True)
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "has taken over from")
    assert wait_until(lambda: len(children(supervised.pid)) == 1)
    fds = len(os.listdir(f"/proc/{supervised.pid}/fd"))
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "has taken over from", 2)
    assert wait_until(lambda: len(os.listdir(f"/proc/{supervised.pid}/fd")) == fds), "descriptors leak"
    end(supervised, mountpoint)


def test_a_child_that_looks_at_the_mount_is_waited_for_before_an_upgrade(supervise, mountpoint):
    """Mutation: of each third upgrade a process is left that has ended, for as long as the mount lasts."""
    supervised = supervise(deadlines=Deadlines(hang_s=5))
    assert wait_until(lambda: len(children(supervised.pid)) == 2), "a probe, for half a second"
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "has taken over from")
    assert wait_until(lambda: len(children(supervised.pid)) == 1, timeout_s=10)
    end(supervised, mountpoint)


def test_a_worker_killed_after_an_upgrade_gets_a_successor(supervise, mountpoint):
    supervised = supervise()
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "has taken over from")
    assert wait_until(lambda: len(children(supervised.pid)) == 1)
    os.kill(int(children(supervised.pid)[0]), signal.SIGKILL)
    assert health(mountpoint) is Health.OK
    assert "takeover 2: was killed by SIGKILL" in supervised.log.read_text()
    end(supervised, mountpoint)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"dies": "ready"}, "ended with exit status 7: something terrible"),
        ({"dies": "attached"}, "ended with exit status 7: something terrible"),
        ({"fails": {"exit_code": 1, "message": "no such key"}}, "no such key"),
        ({"hangs": "ready"}, "did not become ready within 3 s"),
        ({"max_write": 65536}, "speaks to the kernel in another way"),
    ],
    ids=str,
)
def test_where_the_successor_does_not_come_up_the_worker_goes_on(supervise, mountpoint, fault, why):
    deadlines = Deadlines(start_s=3 if "hangs" in fault else 20, unmount_grace_s=0, stop_s=2)
    supervised = supervise(successor=fault, deadlines=deadlines)
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "goes on, as no other could be put in its place")
    assert has_said(supervised, "note: ")
    assert why in supervised.log.read_text().split("note: ")[1].splitlines()[0]
    assert health(mountpoint) is Health.OK
    assert children(supervised.pid) == [str(supervised.outcome.worker_pid)]
    end(supervised, mountpoint)


def test_a_worker_that_does_not_let_go_is_killed(supervise, mountpoint):
    supervised = supervise(hangs="release", deadlines=Deadlines(start_s=20, release_s=0.5, stop_s=2))
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "did not let go of the connection within 0.5 s")
    assert has_said(supervised, "has taken over from")
    assert health(mountpoint) is Health.OK
    end(supervised, mountpoint)


def test_an_old_kernels_worker_that_does_not_let_go_takes_the_connection_with_it(supervise, mountpoint):
    """What it had begun can be answered by nobody, so whoever waits for that gets an error."""
    deadlines = Deadlines(start_s=20, unmount_grace_s=0, release_s=0.5, stop_s=2)
    supervised = supervise(hangs="release", use_resend=False, deadlines=deadlines)
    directory = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.kill(supervised.pid, signal.SIGHUP)
        assert has_said(supervised, "did not let go of the connection within 0.5 s")
        assert has_said(supervised, "mounting anew")
        assert wait_until(lambda: health(mountpoint) is Health.OK)
        with pytest.raises(OSError, match=r"not connected|connection abort"):
            os.listdir(directory)
    finally:
        os.close(directory)
    end(supervised, mountpoint)


def test_a_successor_that_fails_when_its_turn_has_come_is_followed_by_another(supervise, mountpoint, tmp_path):
    flag = tmp_path / "die"
    flag.touch()
    supervised = supervise(successor={"dies": "serve", "dies_while": str(flag)})
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "something terrible")
    flag.unlink()
    assert health(mountpoint) is Health.OK
    end(supervised, mountpoint)


def test_an_old_kernel_has_the_worker_finish_what_it_began(supervise, mountpoint):
    supervised = supervise(use_resend=False)
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "release, cancel: False")
    assert has_said(supervised, "has taken over from")
    assert health(mountpoint) is Health.OK
    end(supervised, mountpoint)


def test_a_mount_that_was_made_anew_is_gone_with_the_lost_one_below_after_an_upgrade(supervise, mountpoint):
    """Root mounts on top of the lost one: who unmounts must find it there, or it is what everybody sees."""
    supervised = supervise(use_resend=False)
    os.kill(supervised.outcome.worker_pid, signal.SIGKILL)
    assert has_said(supervised, "mounting anew")
    assert wait_until(lambda: health(mountpoint) is Health.OK)
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "has taken over from")
    end(supervised, mountpoint)


def test_a_signal_during_an_upgrade_unmounts(supervise, mountpoint):
    supervised = supervise(successor={"hangs": "ready"})
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "fake worker started", 2)
    end(supervised, mountpoint)


def test_a_program_that_does_not_run_is_not_executed(supervise, mountpoint):
    command = (sys.executable, "-c", "raise SystemExit('half an installation')")
    supervised = supervise(reload_command=command)
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "not upgraded: the installed program does not run: half an installation")
    assert has_said(supervised, "note: the installed program does not run")
    assert health(mountpoint) is Health.OK
    end(supervised, mountpoint)


def test_the_configuration_is_read_again(supervise, mountpoint, tmp_path):
    fresh = tmp_path / "request.json"
    command = (sys.executable, "-c", f"print('a warning'); print(open({str(fresh)!r}).read())")
    supervised = supervise(reload_command=command, ready={"snapshot_version": "17"})
    request = supervised.request
    request.config["s3"]["region"] = "elsewhere"
    fresh.write_bytes(request.to_json())
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "has taken over from")
    assert "'snapshot_version': '17', 'region': 'elsewhere'" in supervised.log.read_text()
    request.config["fsname"] = "s3://other"
    fresh.write_bytes(request.to_json())
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "not upgraded: fsname is another one now; unmount, and mount again")
    end(supervised, mountpoint)


def test_a_hangup_during_an_upgrade_is_not_lost(supervise, mountpoint, tmp_path):
    """Somebody has changed the configuration meanwhile: the successor on its way has read the old one."""
    flag = tmp_path / "wait"
    flag.touch()
    supervised = supervise(successor={"waits_while": str(flag)})
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "fake worker started", 2)
    os.kill(supervised.pid, signal.SIGHUP)
    flag.unlink()
    assert has_said(supervised, "has taken over from", 2)
    assert health(mountpoint) is Health.OK
    assert supervised.log.read_text().count("executed anew") == 2
    end(supervised, mountpoint)


def test_a_hangup_while_the_configuration_is_read_is_not_lost(supervise, mountpoint, tmp_path):
    """Mutation: what somebody has changed behind the first reading is in force after the next upgrade alone."""
    fresh, asked, flag = tmp_path / "request.json", tmp_path / "asked", tmp_path / "wait"
    flag.touch()
    script = f"cat {fresh}; touch {asked}; while [ -e {flag} ]; do sleep 0.05; done"
    supervised = supervise(reload_command=("/bin/sh", "-c", script))
    fresh.write_bytes(supervised.request.to_json())
    os.kill(supervised.pid, signal.SIGHUP)
    assert wait_until(asked.exists)
    supervised.request.config["s3"]["region"] = "elsewhere"
    fresh.write_bytes(supervised.request.to_json())
    os.kill(supervised.pid, signal.SIGHUP)
    assert wait_until(lambda: not pending(supervised.pid, signal.SIGHUP))
    flag.unlink()
    assert has_said(supervised, "has taken over from", 2)
    assert "'region': 'elsewhere'" in supervised.log.read_text()
    end(supervised, mountpoint)


def test_a_configuration_that_no_worker_came_up_with_is_given_to_no_other(supervise, mountpoint, tmp_path):
    """Mutation: the worker that goes on is the last one, as each after it meets the mistake that was refused before."""
    fresh = tmp_path / "request.json"
    command = (sys.executable, "-c", f"print(open({str(fresh)!r}).read())")
    deadlines = Deadlines(start_s=20, takeover_s=5, unmount_grace_s=0, stop_s=2)
    supervised = supervise(reload_command=command, deadlines=deadlines)
    changed = {**supervised.request.config, "fake": {"fails": {"exit_code": 2, "message": "no such profile"}}}
    fresh.write_bytes(dataclasses.replace(supervised.request, config=changed).to_json())
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "goes on, as no other could be put in its place: no such profile")
    os.kill(supervised.outcome.worker_pid, signal.SIGKILL)
    assert has_said(supervised, "has taken over after")
    assert health(mountpoint) is Health.OK
    end(supervised, mountpoint)


def pending(pid: int, number: int) -> bool:
    with open(f"/proc/{pid}/status") as file:
        masks = [int(line.split()[1], 16) for line in file if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def test_an_upgrade_waits_for_the_worker_before_and_a_signal_does_not(supervise, mountpoint, tmp_path):
    """A replaced worker that does not end, and then somebody who wants all of it to end."""
    supervised = supervise(lingers=True, deadlines=Deadlines(start_s=20, unmount_grace_s=0, stop_s=20))
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "has taken over from")
    os.kill(supervised.pid, signal.SIGHUP)
    assert health(mountpoint) is Health.OK
    assert supervised.log.read_text().count("executed anew") == 1
    os.kill(supervised.pid, signal.SIGTERM)
    assert has_said(supervised, "SIGTERM: unmounting")
    assert wait_until(lambda: mount_at(str(mountpoint)) is None)
    assert supervised.log.read_text().count("executed anew") == 1


def test_a_log_that_cannot_be_opened_refuses_the_upgrade(supervise, mountpoint, tmp_path):
    fresh = tmp_path / "request.json"
    command = (sys.executable, "-c", f"print(open({str(fresh)!r}).read())")
    supervised = supervise(reload_command=command)
    supervised.request.config["log_file"] = str(tmp_path / "absent" / "log")
    fresh.write_bytes(supervised.request.to_json())
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "not upgraded: log file")
    assert health(mountpoint) is Health.OK
    end(supervised, mountpoint)


def test_a_directory_that_is_gone_is_named(supervise, mountpoint, tmp_path):
    supervised = supervise(reload_command=(sys.executable, "-c", ""), directory=str(tmp_path / "gone"))
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, f"not upgraded: the installed program cannot be started: {tmp_path / 'gone'}: No such")
    assert health(mountpoint) is Health.OK
    end(supervised, mountpoint)


def test_a_worker_killed_while_its_successor_hangs_costs_one_deadline(supervise, mountpoint):
    deadlines = Deadlines(start_s=3, takeover_s=3, unmount_grace_s=0, stop_s=2)
    supervised = supervise(successor={"hangs": "ready"}, deadlines=deadlines)
    os.kill(supervised.pid, signal.SIGHUP)
    assert has_said(supervised, "fake worker started", 2)
    os.kill(supervised.outcome.worker_pid, signal.SIGKILL)
    supervised.wait()
    log = supervised.log.read_text()
    assert "no other worker came to serve within 3 s" in log
    assert log.count("did not become ready within 3 s") == 1, "the deadline began anew"
    assert health(mountpoint) is Health.DEAD


HANG = Deadlines(start_s=20, unmount_grace_s=0, stop_s=2, hang_s=1)


def test_a_stopped_worker_is_killed_and_replaced(supervise, mountpoint):
    supervised = supervise(deadlines=HANG)
    os.kill(supervised.outcome.worker_pid, signal.SIGSTOP)
    assert health(mountpoint) is Health.OK
    assert "takeover 1: did not answer its supervisor for 1 s and was killed" in supervised.log.read_text()
    end(supervised, mountpoint)


def test_a_worker_that_answers_only_its_supervisor_is_killed_and_replaced(supervise, mountpoint, tmp_path):
    flag = tmp_path / "swallow"
    supervised = supervise(
        deadlines=dataclasses.replace(HANG, hang_s=2), swallows_while=str(flag), successor={"swallows_while": ""}
    )
    flag.touch()
    assert health(mountpoint) is Health.OK
    assert "takeover 1: did not answer the kernel for 2 s and was killed" in supervised.log.read_text()
    end(supervised, mountpoint)


def test_a_worker_of_which_the_kernel_keeps_a_thread_is_replaced_at_once(supervise, mountpoint, tmp_path):
    """Its end is no news that reaches anybody; what its thread waits for, its successor may have to answer."""
    flag = tmp_path / "hollow"
    supervised = supervise(hollow_while=str(flag), successor={"hollow_while": ""})
    flag.touch()
    assert health(mountpoint) is Health.OK
    assert "takeover 1: was killed by SIGKILL" in supervised.log.read_text()
    assert wait_until(lambda: not has_zombie(supervised.pid))
    end(supervised, mountpoint)


def has_zombie(pid: int) -> bool:
    """Tell whether a child of *pid* has ended without being waited for."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any(b") Z " in Path(f"/proc/{child}/stat").read_bytes() for child in children)


def test_a_worker_that_answers_late_is_left_alone(supervise, mountpoint):
    supervised = supervise(deadlines=dataclasses.replace(HANG, hang_s=10))
    for _ in range(3):
        os.kill(supervised.outcome.worker_pid, signal.SIGSTOP)
        assert probe(str(mountpoint), timeout_s=0.5).health is Health.HUNG
        os.kill(supervised.outcome.worker_pid, signal.SIGCONT)
        assert health(mountpoint) is Health.OK
    assert "killed" not in supervised.log.read_text()
    end(supervised, mountpoint)
