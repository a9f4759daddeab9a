"""A worker that is killed is a pause for whoever reads, not an error: real mounts, real files, ``kill -9``."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import zlib

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.demo.faults import FaultRule
from tigrismount.holder.launch import start_in_background
from tigrismount.holder.request import MountRequest
from tigrismount.testing.mount import Mounted, is_mounted, marked_processes, sweep

MIB = 1 << 20
SIZE = 6 * MIB

READER = """
import hashlib, json, mmap, os, random, select, sys, time
path, how, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
fd = os.open(path, os.O_RDONLY)
size = os.fstat(fd).st_size
table = mmap.mmap(fd, size, prot=mmap.PROT_READ) if how == "mmap" else None
draw, reads, worst_s, wrong, errors = random.Random(seed), 0, 0.0, 0, []
expected = json.loads(sys.stdin.readline())
print("ready", flush=True)
piece = 64 << 10
while not select.select([0], [], [], 0)[0]:
    index = draw.randrange(size // piece)
    if table is not None:
        table.madvise(mmap.MADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # ask the mount, not the page cache
    began_s = time.monotonic()
    try:
        data = table[index * piece : (index + 1) * piece] if table is not None else os.pread(fd, piece, index * piece)
        wrong += hashlib.sha256(data).hexdigest() != expected[index]
    except OSError as exc:
        errors.append(str(exc))
        if len(errors) > 100:
            break
    worst_s = max(worst_s, time.monotonic() - began_s)
    reads += 1
print(json.dumps({"reads": reads, "wrong": wrong, "errors": errors, "worst_s": worst_s}), flush=True)
"""

HOLD = """
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


@pytest.fixture
def body(noise):
    return noise(SIZE, 7)


@pytest.fixture
def source(bucket, body):
    bucket.put("file", body)
    bucket.put("dir/inner", b"inner")
    for number in range(8):  # a page that somebody else has mapped cannot be dropped: each reader has its own
        bucket.put(f"busy/{number}", body)
    return f"s3://{bucket.name}"


@pytest.fixture
def child():
    """Start ``child(code, *arguments)`` with pipes; killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(code, *arguments):
            command = [sys.executable, "-c", code, *map(str, arguments)]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def readers(child, body):
    """Start readers of random pieces, each of a file of its own: ``readers(mountpoint, ["read", "mmap", …])``."""
    sums = [hashlib.sha256(body[start : start + (64 << 10)]).hexdigest() for start in range(0, SIZE, 64 << 10)]

    def start(path, ways):
        started = [child(READER, f"{path}/busy/{seed}", how, seed) for seed, how in enumerate(ways)]
        for process in started:
            process.stdin.write(json.dumps(sums) + "\n")
            process.stdin.flush()
        assert all(process.stdout.readline() == "ready\n" for process in started)
        return started

    return start


def finish(readers) -> list[dict]:
    """Stop the readers and return their findings."""
    return [json.loads(process.communicate("done\n", timeout=90)[0]) for process in readers]


def kill_worker(mounted, number: int = signal.SIGKILL) -> dict:
    """Kill the worker and return the successor's status."""
    before = mounted.status()
    os.kill(before["pid"], number)
    after = {}

    def answers() -> bool:
        with contextlib.suppress(Exception):
            after.update(mounted.status())
        return after.get("pid") not in (None, before["pid"])

    assert wait_until(answers), "no successor"
    assert after["supervisor_pid"] == before["supervisor_pid"]
    return after


def reads_answered(status: dict) -> int:
    return sum(status["hits"][how] for how in ("memory", "joined", "missed"))


def assert_no_read_failed(findings, record_property):
    assert [(found["wrong"], found["errors"]) for found in findings] == [(0, [])] * len(findings)
    assert all(found["reads"] for found in findings)
    worst_s = max(found["worst_s"] for found in findings)
    record_property("worst_stall_s", worst_s)
    print(f"worst stall {worst_s:.2f} s in {sum(found['reads'] for found in findings)} reads")


def test_two_kills_during_reads_fail_no_read(mount, source, readers, record_property):
    with mount(source) as mounted:
        busy = readers(mounted.path, ["read", "mmap", "read"])
        kill_worker(mounted)
        assert wait_until(lambda: reads_answered(mounted.status()) > 0)
        status = kill_worker(mounted)
        assert_no_read_failed(finish(busy), record_property)
        assert status["takeovers"]["count"] == 2
        assert "was killed by SIGKILL" in status["takeovers"]["last_reason"]
        assert "takeovers" in mount.run("status", mounted.path).check().output


@pytest.mark.slow
def test_twenty_kills_in_a_row_fail_no_read(mount, source, readers, record_property):
    with mount(source) as mounted:
        busy = readers(mounted.path, ["read", "mmap"] * 4)
        for _ in range(20):
            status = kill_worker(mounted)
            assert wait_until(lambda: reads_answered(mounted.status()) > 0)
        assert_no_read_failed(finish(busy), record_property)
        assert status["takeovers"]["count"] == 20


def test_a_read_that_the_dead_worker_was_serving_is_answered(mount, source, body, s3, child):
    """The worker dies while it waits for the store; the reader is one that never hears of it."""
    code = "import sys, zlib; print(zlib.crc32(open(sys.argv[1], 'rb').read()), flush=True)"
    with mount(source) as mounted:
        s3.inject(FaultRule(match="GET /[^/]*/file", action="delay", delay_s=60, count=-1))
        reader = child(code, f"{mounted.path}/file")
        assert wait_until(lambda: mounted.status()["flights"]["remote"] > 0)
        s3.inject()
        kill_worker(mounted)
        assert int(reader.communicate(timeout=60)[0]) == zlib.crc32(body)


def test_what_was_open_before_stays_open(mount, source, child):
    with mount(source, "--prefetch=off") as mounted:
        holder = child(HOLD, f"{mounted.path}/file")
        assert holder.stdout.readline() == "opened\n"
        kill_worker(mounted)
        kill_worker(mounted)
        assert holder.communicate("go\n", timeout=60)[0] == "10\n"


def test_a_listing_that_was_begun_goes_on(mount, bucket, python):
    """More names than one reply of the kernel's holds, so that reading goes on behind the takeover.

    Names that were given go meanwhile, and others come before them, so that no place is where it was.
    """
    names = [f"{number:05}-{'x' * 200}" for number in range(500)]
    for name in names:
        bucket.put(f"dir/{name}", b"")
    code = """
with os.scandir(path) as entries:
    found = [next(entries).name]
    print(flush=True)
    sys.stdin.readline()
    found += [entry.name for entry in entries]
print(json.dumps(found))
"""
    with mount(f"s3://{bucket.name}") as mounted:
        command = [sys.executable, "-c", f"import json, os, sys\npath = sys.argv[1]\n{code}", f"{mounted.path}/dir"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                process.stdout.readline()
                bucket.client.delete_object(Bucket=bucket.name, Key=f"dir/{names[0]}")
                for number in range(3):
                    bucket.put(f"dir/00000-{number}", b"")
                kill_worker(mounted)
                assert json.loads(process.communicate("go\n", timeout=60)[0]) == names
            finally:
                process.kill()


def test_names_are_looked_up_while_the_worker_is_killed(mount, source, child):
    with mount(source) as mounted:
        os.kill(mounted.status()["pid"], signal.SIGKILL)
        code = "import os, sys; print(sorted(os.listdir(sys.argv[1])), os.stat(sys.argv[1] + '/dir/inner').st_size)"
        assert child(code, mounted.path).communicate(timeout=60)[0] == "['busy', 'dir', 'file'] 5\n"


def test_ids_are_the_same_behind_a_takeover(mount, source, python):
    code = "print([os.stat(f'{path}/{name}').st_ino for name in ('file', 'dir', 'dir/inner')])"
    with mount(source, "--metadata-ttl=0") as mounted:
        before = python(code, mounted.path)
        kill_worker(mounted)
        assert python(code, mounted.path) == before


def test_a_store_that_is_away_at_a_takeover_does_not_lose_the_mount(mount, source, python, s3):
    code = "import zlib; print(zlib.crc32(open(f'{path}/file', 'rb').read()))"
    fresh = """
try:
    print(os.stat(f'{path}/never-seen'))
except OSError as exc:
    print(errno.errorcode[exc.errno])
"""
    with mount(source, "--metadata-ttl=inf") as mounted:
        before = python(code, mounted.path)
        s3.inject(FaultRule(match="", action="status", status=403, code="AccessDenied", count=-1))
        try:
            kill_worker(mounted)
            assert python(code, mounted.path) == before
            assert wait_until(lambda: any("store: " in why for why in mounted.status()["degraded"]))
            assert python(fresh, mounted.path) == "EACCES\n"
        finally:
            s3.inject()
        assert wait_until(lambda: mounted.status()["degraded"] == [], timeout_s=90)


def test_unmounting_after_takeovers_leaves_nothing(mount, source):
    with mount(source) as mounted:
        kill_worker(mounted)
        kill_worker(mounted)
        mounted.unmount()
        assert marked_processes(mounted.mark) == []
        assert not is_mounted(mounted.path)


def test_unmounting_right_after_a_kill_leaves_nothing(mount, source):
    with mount(source) as mounted:
        os.kill(mounted.status()["pid"], signal.SIGKILL)
        mount.run("unmount", mounted.path).check()
        mounted.wait_until_gone()


def test_a_worker_that_is_told_to_end_hands_over(mount, source, readers, record_property):
    with mount(source) as mounted:
        busy = readers(mounted.path, ["read", "mmap"])
        status = kill_worker(mounted, signal.SIGTERM)
        assert_no_read_failed(finish(busy), record_property)
        assert status["takeovers"] == {
            "count": 1,
            "last_reason": "was told to end",
            "attempts": 0,
            "last_failure": None,
        }


def test_upgrades_under_load_fail_no_read(mount, source, readers, record_property):
    with mount(source) as mounted:
        before = mounted.status()
        busy = readers(mounted.path, ["read", "mmap", "read"])
        for number in (1, 2, 3):
            done = mount.run("upgrade", mounted.path).check()
            assert "has taken over" in done.output
            assert wait_until(lambda: reads_answered(mounted.status()) > 0)
            assert mounted.status()["takeovers"]["count"] == number
        status = mounted.status()
        assert status["supervisor_pid"] == before["supervisor_pid"]
        assert status["pid"] != before["pid"]
        assert_no_read_failed(finish(busy), record_property)
        assert wait_until(lambda: len(marked_processes(mounted.mark)) == 2), "an old worker is still there"


@pytest.fixture
def old_kernel(mount, source, monkeypatch):
    """A mount whose supervisor does as on a kernel that cannot send requests again; gives its path and pids."""
    line = mount.run("mount", source, str(mount.mountpoint), *mount.flags, "--print-request").check().output
    mark = "_TIGRISMOUNT_STARTED_BY=old-kernel"
    for name, value in {**mount.env, **dict([mark.split("=")])}.items():
        monkeypatch.setenv(name, value)
    request = dataclasses.replace(MountRequest.from_json(line.encode()), use_resend=False, reload_command=())
    outcome = start_in_background(request)
    assert outcome.ok, outcome
    mounted = Mounted(str(mount.mountpoint), {**mount.env, "_TIGRISMOUNT_STARTED_BY": "old-kernel"})
    yield mounted
    sweep(mounted)
    mount.run("status")  # clears the control sockets of dead workers


def test_an_old_kernel_hands_over_without_a_failed_read_too(old_kernel, mount, readers, record_property):
    busy = readers(old_kernel.path, ["read", "mmap", "read"])
    for number in (1, 2, 3):
        mount.run("upgrade", old_kernel.path).check()
        assert wait_until(lambda: reads_answered(old_kernel.status()) > 0)
        assert old_kernel.status()["takeovers"]["count"] == number
    assert_no_read_failed(finish(busy), record_property)


def test_an_old_kernel_mounts_anew_after_a_crash(old_kernel, child, python):
    holder = child(HOLD, f"{old_kernel.path}/file")
    assert holder.stdout.readline() == "opened\n"
    os.kill(old_kernel.status()["pid"], signal.SIGKILL)
    code = """
try:
    print(len(open(f"{path}/dir/inner").read()))
except OSError as exc:
    print(errno.errorcode[exc.errno])
"""
    seen = set()
    assert wait_until(lambda: seen.add(found := python(code, old_kernel.path)) or found == "5\n")
    assert seen <= {"5\n", "ENOTCONN\n", "ECONNABORTED\n"}, "never an empty directory"
    assert holder.communicate("go\n", timeout=60)[0].strip() in ("ENOTCONN", "ECONNABORTED")
    assert "made anew" in old_kernel.status()["takeovers"]["last_reason"]


def test_a_read_that_waits_for_the_store_is_answered_by_the_successor(mount, source, body, s3, child):
    code = "import sys, zlib; print(zlib.crc32(open(sys.argv[1], 'rb').read()), flush=True)"
    with mount(source) as mounted:
        s3.inject(FaultRule(match="GET /[^/]*/file", action="delay", delay_s=60, count=-1))
        reader = child(code, f"{mounted.path}/file")
        assert wait_until(lambda: mounted.status()["flights"]["remote"] > 0)
        s3.inject()
        mount.run("upgrade", mounted.path).check()
        assert int(reader.communicate(timeout=90)[0]) == zlib.crc32(body)


def test_rights_that_were_changed_hold_behind_an_upgrade(mount, source, python, tmp_path):
    """Mutation: the kernel keeps what it was told for ever, and lets in whom the configuration keeps out by now."""
    config = tmp_path / "mount.toml"
    config.write_text('metadata-ttl = "inf"\n')
    code = "print(*(oct(os.stat(name).st_mode & 0o777) for name in (path, path + '/dir', path + '/file')))"
    with mount(source, f"--config={config}") as mounted:
        assert python(code, mounted.path) == "0o555 0o555 0o444\n"
        config.write_text('metadata-ttl = "inf"\nfile-mode = "0440"\ndir-mode = "0550"\n')
        mount.run("upgrade", mounted.path).check()
        assert wait_until(lambda: python(code, mounted.path) == "0o550 0o550 0o440\n")


def test_an_upgrade_that_cannot_start_leaves_the_worker_serving(mount, source, python, tmp_path):
    config = tmp_path / "mount.toml"
    config.write_text('log-level = "info"\n')
    with mount(source, f"--config={config}") as mounted:
        before = mounted.status()
        config.write_text('no-such-option = "info"\n')
        done = mount.run("upgrade", mounted.path)
        assert done.status == 1
        assert "no-such-option" in done.errors
        status = mounted.status()
        assert (status["pid"], status["supervisor_pid"]) == (before["pid"], before["supervisor_pid"])
        config.write_text('log-level = "debug"\n')
        mount.run("upgrade", mounted.path).check()
        assert mounted.status()["config"]["log_level"]["value"] == "debug"


@pytest.mark.slow
def test_a_stopped_worker_is_replaced(mount, source, python):
    with mount(source) as mounted:
        before = mounted.status()
        os.kill(before["pid"], signal.SIGSTOP)
        assert python("print(len(open(f'{path}/dir/inner').read()))", mounted.path, timeout_s=90) == "5\n"
        status = mounted.status()
        assert status["takeovers"]["last_reason"] == "did not answer its supervisor for 20 s and was killed"


@pytest.mark.slow
def test_without_a_successor_readers_get_an_error(mount, source, child):
    """Killing every worker as soon as it is there: the crash loop ends, and nobody hangs."""
    with mount(source) as mounted:
        holder = child(HOLD, f"{mounted.path}/file")
        assert holder.stdout.readline() == "opened\n"
        supervisor = mounted.status()["supervisor_pid"]
        killing, stop = threading.Event(), threading.Event()

        def kill_all() -> None:
            while not stop.is_set():
                for pid in marked_processes(mounted.mark):
                    if pid != supervisor:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                killing.set()

        killer = threading.Thread(target=kill_all)
        killer.start()
        try:
            assert killing.wait(30)
            assert holder.communicate("go\n", timeout=100)[0].strip() in ("ENOTCONN", "ECONNABORTED")
            assert wait_until(lambda: marked_processes(mounted.mark) == [])
        finally:
            stop.set()
            killer.join()
        assert is_mounted(mounted.path), "an empty directory must not take its place"
        mount.run("unmount", mounted.path).check()
        mount.run("status")  # clears the control sockets of dead workers
