"""A mount seen from other mount namespaces, as containers see it: shared, slave and private propagation."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess

import pytest

from tigrismount.demo.command import run_child, wait_until
from tigrismount.holder.mounting import unmount
from tigrismount.testing.mount import is_mounted, marked_processes, mounted

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces need root"),
    pytest.mark.skipif(shutil.which("nsenter") is None, reason="needs nsenter (util-linux)"),
]


@pytest.fixture
def shared(tmp_path):
    """A directory that is a shared mount, as a node's is where a driver propagates its mounts."""
    path = tmp_path / "shared"
    path.mkdir()
    (path / "mnt").mkdir()
    subprocess.run(["mount", "--bind", path, path], check=True)
    subprocess.run(["mount", "--make-shared", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


@contextlib.contextmanager
def namespace(propagation: str):
    """A container, to the mount table; gives what runs commands there, without any capability.

    It has to end before a mount can: its copies of mounts keep those alive.
    """
    command = ["unshare", "-m", "--propagation", propagation, "sh", "-c", "echo up; exec sleep 600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "up\n"

            def run(*command: str):
                powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
                return run_child("nsenter", "-t", str(process.pid), "-m", "--", *powerless, *command, timeout_s=60)

            yield run
        finally:
            process.kill()


@pytest.fixture
def source(bucket):
    bucket.put("file", b"hello")
    return f"s3://{bucket.name}"


def test_a_mount_made_later_is_seen_by_shared_and_slave_namespaces_and_not_by_private_ones(source, env, shared):
    with contextlib.ExitStack() as stack:
        pods = {name: stack.enter_context(namespace(name)) for name in ("shared", "slave", "private")}
        with mounted(source, shared / "mnt", env, "--cache-dir=off"):
            seen = {name: run("cat", f"{shared}/mnt/file").output for name, run in pods.items()}
            assert seen == {"shared": "hello", "slave": "hello", "private": ""}
            with namespace("private") as late:
                assert late("cat", f"{shared}/mnt/file").output == "hello", "its copy of the table has what was there"
        assert pods["slave"]("cat", f"{shared}/mnt/file").status == 1


def test_a_pod_reads_on_when_the_worker_is_killed(source, env, shared):
    """Also one whose mounts are its own: the connection is the same, and nothing need be mounted again."""
    with mounted(source, shared / "mnt", env, "--cache-dir=off") as mount:
        with namespace("slave") as slave, namespace("private") as private:
            os.kill(mount.status()["pid"], signal.SIGKILL)
            assert [run("cat", f"{shared}/mnt/file").output for run in (slave, private)] == ["hello", "hello"]
        assert wait_until(lambda: mount.status().get("takeovers", {}).get("count") == 1)


def test_a_dead_mount_is_detached_at_the_next_start_everywhere(source, env, shared):
    with namespace("slave") as slave, mounted(source, shared / "mnt", env, "--cache-dir=off") as mount:
        status = mount.status()
        for pid in (status["supervisor_pid"], status["pid"]):
            os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: marked_processes(mount.mark) == [])
        assert slave("stat", "-f", f"{shared}/mnt").status == 1
        assert is_mounted(mount.path)
        with mounted(source, shared / "mnt", env, "--cache-dir=off"):
            assert slave("cat", f"{shared}/mnt/file").output == "hello"
        assert not is_mounted(mount.path), "the dead one is not below"


def test_a_bind_mount_keeps_a_lazily_unmounted_mount_alive(source, env, shared, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    with mounted(source, shared / "mnt", env, "--cache-dir=off") as mount:
        subprocess.run(["mount", "--bind", mount.path, target], check=True)
        try:
            unmount(mount.path, lazy=True)
            assert run_child("cat", f"{target}/file", timeout_s=90).output == "hello"
        finally:
            subprocess.run(["umount", target], check=True)
