"""Ends and accidents on the way: bounded, nothing left behind, and the right bytes for whoever still reads."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tigrismount.demo.command import run_child, wait_until
from tigrismount.demo.faults import FaultRule
from tigrismount.holder.mountinfo import mount_at
from tigrismount.testing.mount import is_mounted, marked_processes

MIB = 1 << 20
SIZE = 6 * MIB + 5
STALLED_S = 120.0
"""How long a stalled body says nothing: far longer than any end may take."""

READ = """
with open(path, "rb", buffering=0) as file:
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    print(hashlib.sha256(file.readall()).hexdigest())
"""


@pytest.fixture
def data(noise):
    return noise(SIZE, 21)


@pytest.fixture
def source(bucket, data):
    bucket.put("file", data)
    return f"s3://{bucket.name}"


@pytest.fixture
def digest(python, tmp_path, data):
    """What reading all of it prints."""
    (tmp_path / "truth").write_bytes(data)
    return python(READ, tmp_path / "truth")


def stall(s3) -> None:
    """Let no body of an object end."""
    s3.inject(FaultRule(match="GET /.*/file", action="stall", count=-1, after_bytes=1000, delay_s=STALLED_S))


def test_an_unmount_during_a_fetch_ends_the_daemon(mount, source, s3, python):
    """Read-ahead that nobody waits for any more must not keep the worker: the store may take minutes to answer it."""
    with mount(source) as mounted:
        stall(s3)
        will_need = """
with open(path, "rb") as file:
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
"""
        python(will_need, f"{mounted.path}/file")
        assert wait_until(lambda: mounted.status()["flights"]["remote"] > 0)
        mounted.unmount()
    assert not is_mounted(mounted.path)


def test_sigterm_ends_a_mount_whose_reader_waits_for_a_store_that_stalls(mount, source, s3):
    with mount(source) as mounted:
        stall(s3)
        code = """
import errno, sys
try:
    open(sys.argv[1], "rb", buffering=0).read()
except OSError as exc:
    print(errno.errorcode[exc.errno])
"""
        command = [sys.executable, "-c", code, f"{mounted.path}/file"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
            assert wait_until(lambda: mounted.status()["flights"]["remote"] > 0)
            supervisor = mounted.status()["supervisor_pid"]
            os.kill(supervisor, signal.SIGTERM)
            os.kill(supervisor, signal.SIGINT)  # the second one waits for no user of the mount
            assert wait_until(lambda: not is_mounted(mounted.path))
            output, _ = reader.communicate(timeout=60)
        assert output.strip() in ("ENOTCONN", "ECONNABORTED", "EIO")
        mounted.wait_until_gone()


def test_a_cache_directory_removed_underneath_costs_speed_only(mount, source, python, bucket, data, digest):
    with mount(source) as mounted:
        assert python(READ, f"{mounted.path}/file") == digest
        shutil.rmtree(mount.cache_dir)
        assert python(READ, f"{mounted.path}/file") == digest

        mount.cache_dir.mkdir(mode=0o700)  # somebody makes room, and puts an empty one there
        bucket.put("another", data)
        run_child(sys.executable, "-m", "tigrismount", "refresh", mounted.path, env=mounted.env).check()
        assert python(READ, f"{mounted.path}/another") == digest
        assert wait_until(lambda: "removed" in mounted.status()["cache"]["degraded"])
        assert not list(mount.cache_dir.iterdir()), "nothing is put into a directory that is not a cache"
    with mount(source) as again:
        assert python(READ, f"{again.path}/file") == digest


@pytest.fixture
def failing_disk(mount, tmp_path):
    """A filesystem of its own under the cache, and what makes the kernel turn it read-only, as after an error."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None or not Path("/sys/fs/ext4").is_dir():
        pytest.skip("needs root, mkfs.ext4, and a kernel with ext4")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(128 * MIB)
    mount.cache_dir.mkdir()
    run_child("mkfs.ext4", "-q", str(image)).check()
    mounted = run_child("mount", "-o", "loop,errors=remount-ro", str(image), str(mount.cache_dir))
    if mounted.status:
        pytest.skip(f"cannot mount a loop device: {mounted.errors.strip()}")
    (mount.cache_dir / "lost+found").rmdir()
    device = os.path.basename(mount_at(str(mount.cache_dir)).source)
    yield lambda: Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("tigrismount's test\n")
    run_child("umount", str(mount.cache_dir)).check()


def test_a_cache_whose_filesystem_turns_read_only_costs_speed_only(
    mount, source, python, bucket, data, digest, failing_disk
):
    with mount(source) as mounted:
        assert python(READ, f"{mounted.path}/file") == digest
        failing_disk()
        assert python(READ, f"{mounted.path}/file") == digest
        bucket.put("another", data)
        run_child(sys.executable, "-m", "tigrismount", "refresh", mounted.path, env=mounted.env).check()
        assert python(READ, f"{mounted.path}/another") == digest
        assert wait_until(lambda: mounted.status()["cache"]["degraded"] != "")


CLOCK = """
import os, time
_time, _time_ns = time.time, time.time_ns
def _shift():
    try:
        with open(os.environ["_TEST_CLOCK"]) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0
time.time = lambda: _time() + _shift()
time.time_ns = lambda: _time_ns() + _shift() * 10**9
"""


def test_jumps_of_the_wall_clock_change_nothing(mount, source, python, bucket, data, digest, tmp_path):
    """A day ahead, two back: names keep their time to live, nothing hangs, and what is cached stays good."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CLOCK)
    shift = tmp_path / "clock"
    shift.write_text("0")
    paths = f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")
    env = {**mount.env, "PYTHONPATH": paths, "_TEST_CLOCK": str(shift)}
    with type(mount)(env, mount.mountpoint, mount.cache_dir)(source, "--metadata-ttl=1h") as mounted:
        assert python(READ, f"{mounted.path}/file") == digest
        bucket.s3.reset_requests()
        for seconds in (86400, -86400, 0):
            shift.write_text(str(seconds))
            assert python(READ, f"{mounted.path}/file") == digest
            assert 0 < mounted.status()["uptime_s"] < 3600
        assert bucket.s3.requests() == [], "what is known and cached is not asked for again"
        assert wait_until(lambda: marked_processes(mounted.mark) == mounted.pids)


def test_a_storm_of_forks_reads_right_and_loses_no_exit_status(mount, source, python, digest):
    """A loader whose many children share its open file and its mapping, and end in a heap."""
    code = """
file = open(path, "rb", buffering=0)
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
whole = hashlib.sha256(mapped).hexdigest()
os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
pids = []
for number in range(80):
    pid = os.fork()
    if pid == 0:
        try:
            start = number * 30011
            right = os.pread(file.fileno(), 30011, start) == mapped[start : start + 30011]
        finally:
            os._exit(number % 7 if right else 99)
    pids.append(pid)
statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
assert statuses == [number % 7 for number in range(80)], statuses
print(whole)
"""
    with mount(source) as mounted:
        assert python(code, f"{mounted.path}/file") == digest
        assert wait_until(lambda: marked_processes(mounted.mark) == mounted.pids)
        assert wait_until(lambda: not any(map(is_zombie, children(mounted.pids))))


def is_zombie(pid: int) -> bool:
    """Whether nobody has asked how *pid* ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def children(pids: list[int]) -> list[int]:
    """Direct children of *pids*."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
        if parent in pids:
            found.append(int(stat.parent.name))
    return found
