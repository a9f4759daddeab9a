"""How a mount begins and ends, also when it is killed: an error at worst, never a hang, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from tigrismount.demo.command import run_child, wait_until
from tigrismount.testing.mount import is_mounted, marked_processes

_STAT = """
try:
    print(os.listdir(path))
except OSError as exc:
    print(errno.errorcode[exc.errno])
"""
_DEAD = ("ENOTCONN\n", "ECONNABORTED\n")


@pytest.fixture
def source(bucket, noise):
    bucket.put("file", noise(3 << 20, 1))
    return f"s3://{bucket.name}"


@pytest.fixture
def reader():
    """A child that keeps a file open: ``reader(path)``; it reads on when told so, and says how that went."""
    code = """
import errno, os, sys
file = open(sys.argv[1], "rb", buffering=0)
os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
file.read(10)
print("opened", flush=True)
sys.stdin.readline()
try:
    print(len(os.pread(file.fileno(), 10, 2 << 20)), flush=True)
except OSError as exc:
    print(errno.errorcode[exc.errno], flush=True)
"""
    with contextlib.ExitStack() as stack:

        def start(path):
            command = [sys.executable, "-c", code, path]
            child = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(child.kill)
            assert child.stdout.readline() == "opened\n"
            return child

        yield start


def test_mount_returns_once_it_serves(mount, source, python):
    with mount(source) as mounted:
        assert python(_STAT, mounted.path) == "['file']\n"
        assert len(mounted.pids) == 2


@pytest.mark.parametrize("streams", ["2>&-", "<&- >&- 2>&-", "<&- >/dev/full 2>/dev/full"])
def test_a_mount_stays_whoever_can_hear_of_it(env, source, python, tmp_path, streams):
    """Mutation: the kernel's connection has the number of standard error, and the mount ends as it "is mounted"."""
    (tmp_path / "models").mkdir()
    path = str(tmp_path / "models")
    command = [sys.executable, "-m", "tigrismount", "mount", source, path, "--cache-dir", "off"]
    shell = ["sh", "-c", f'exec "$0" "$@" {streams}', *command]
    assert subprocess.run(shell, env=env, stdout=subprocess.DEVNULL, timeout=60, check=False).returncode == 0
    try:
        assert python(_STAT, path) == "['file']\n"
    finally:
        ended = subprocess.run(
            ["sh", "-c", f'exec "$0" "$@" {streams}', *command[:3], "unmount", path], env=env, check=False
        )
    assert ended.returncode == 0


def test_unmount_ends_everything(mount, source, python):
    with mount(source) as mounted:
        mounted.unmount()
        assert python(_STAT, mounted.path) == "[]\n"
        assert marked_processes(mounted.mark) == []


def test_umount_of_the_system_ends_the_daemon(mount, source):
    with mount(source) as mounted:
        command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
        run_child(*command, mounted.path).check()
        mounted.wait_until_gone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_to_the_supervisor_unmounts(mount, source, number):
    with mount(source) as mounted:
        os.kill(mounted.status()["supervisor_pid"], number)
        mounted.wait_until_gone()


def test_a_busy_mount_is_not_unmounted_but_for_lazy(mount, source, reader):
    with mount(source) as mounted:
        child = reader(f"{mounted.path}/file")

        refused = mount.run("unmount", mounted.path, "--timeout=1")
        assert refused.status == 1
        assert len(refused.errors.splitlines()) == 1
        assert is_mounted(mounted.path)

        assert mount.run("unmount", "--lazy", mounted.path).status == 0
        assert not is_mounted(mounted.path)
        assert child.communicate("go\n", timeout=90)[0] == "10\n"
        mounted.wait_until_gone()


def test_in_the_foreground_it_stays_until_it_is_told(mount, source, python):
    command = [sys.executable, "-m", "tigrismount", "mount", "-f", source, str(mount.mountpoint), *mount.flags]
    with subprocess.Popen(command, env=mount.env, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
        try:
            assert wait_until(lambda: "file" in python(_STAT, mount.mountpoint))
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()

    assert not is_mounted(str(mount.mountpoint))


def test_kill_9_of_both_is_an_error_for_readers_and_mount_again_repairs(mount, source, python, reader):
    with mount(source) as mounted:
        child = reader(f"{mounted.path}/file")
        for pid in mounted.pids:
            os.kill(pid, signal.SIGKILL)

        assert child.communicate("go\n", timeout=90)[0].strip() + "\n" in _DEAD
        assert python(_STAT, mounted.path, timeout_s=90) in _DEAD
        assert is_mounted(mounted.path), "an empty directory must not take its place"

        with mount(source) as again:
            assert python(_STAT, again.path) == "['file']\n"
        assert not is_mounted(mounted.path)


def test_kill_9_of_the_worker_is_a_pause_for_readers(mount, source, python, reader):
    with mount(source) as mounted:
        child = reader(f"{mounted.path}/file")
        os.kill(mounted.status()["pid"], signal.SIGKILL)

        assert child.communicate("go\n", timeout=90)[0] == "10\n"
        assert python(_STAT, mounted.path, timeout_s=90) == "['file']\n"


def test_kill_9_of_the_supervisor_hangs_nobody(mount, source, python, reader):
    with mount(source) as mounted:
        child = reader(f"{mounted.path}/file")
        os.kill(mounted.status()["supervisor_pid"], signal.SIGKILL)

        assert child.communicate("go\n", timeout=90)[0].strip() in ("10", "ENOTCONN", "ECONNABORTED")
        python(_STAT, mounted.path, timeout_s=90)
        mount.run("unmount", "--lazy", mounted.path)
        mounted.wait_until_gone()


def test_a_stopped_daemon_delays_and_loses_nothing(mount, source, reader):
    with mount(source, "--prefetch=off") as mounted:
        child = reader(f"{mounted.path}/file")
        worker = mounted.status()["pid"]
        os.kill(worker, signal.SIGSTOP)
        child.stdin.write("go\n")
        child.stdin.flush()
        os.kill(worker, signal.SIGCONT)

        assert child.communicate(timeout=90)[0] == "10\n"


def test_two_mounts_share_a_cache_directory(mount, source, python, env, tmp_path, s3):
    other = tmp_path / "other"
    other.mkdir()
    code = "print(len(open(f'{path}/file', 'rb').read()))"
    with mount(source) as first, type(mount)(env, other, mount.cache_dir)(source) as second:
        s3.reset_requests()
        assert python(code, first.path) == python(code, second.path) == f"{3 << 20}\n"


def test_status_lists_mounts_and_exits_3_without_one(mount, source):
    assert mount.run("status", str(mount.mountpoint)).status == 3
    with mount(source) as mounted:
        listed = json.loads(mount.run("status", "--json").check().output)["mounts"]
        assert mounted.path in [entry["mountpoint"] for entry in listed]


def test_unmount_of_nothing_exits_3(mount):
    finished = mount.run("unmount", str(mount.mountpoint))

    assert finished.status == 3
    assert len(finished.errors.splitlines()) == 1


def test_the_daemon_keeps_no_output_of_the_callers_open(mount, source):
    """A pipe that the daemon inherited would keep whoever reads it waiting for ever."""
    command = [sys.executable, "-m", "tigrismount", "mount", source, str(mount.mountpoint), *mount.flags]
    finished = subprocess.run(command, env=mount.env, capture_output=True, timeout=60, check=False)

    assert finished.returncode == 0
    mount.run("unmount", str(mount.mountpoint)).check()
