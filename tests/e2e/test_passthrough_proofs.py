"""Files that are proven while they are being opened: right bytes of one version, whoever dies or leaves meanwhile.

A slow disk is made by the kernel's fanotify: each read of the cache's file asks the test for leave.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import select
import signal
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.demo.model import plan_model
from tigrismount.testing.mount import mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tigrismount.testing.mount import Mounted

pytestmark = pytest.mark.usefixtures("passthrough")

MIB = 1 << 20
BLOCKS = 12
SIZE = (BLOCKS - 1) * MIB + 123
SUM = "print(hashlib.sha256(open(path, 'rb').read()).hexdigest(), flush=True)"
PIPED = "import hashlib, sys\npath = sys.argv[1]\n" + SUM

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLASS_CONTENT, _CLOEXEC, _NONBLOCK = 4, 1, 2
_MARK_ADD, _ACCESS_PERM, _ALLOW = 1, 0x20000, 1
_EVENT = struct.Struct("=IBBHQii")


class SlowFile:
    """A file each of whose reads, by anybody else, waits its turn: one is let through every *pause_s*.

    It must not be open yet when this begins.
    """

    def __init__(self, path: str, pause_s: float) -> None:
        self._fd = _LIBC.fanotify_init(_CLASS_CONTENT | _CLOEXEC | _NONBLOCK, os.O_RDONLY | os.O_CLOEXEC)
        if self._fd < 0:
            pytest.skip(f"fanotify: {os.strerror(ctypes.get_errno())}")
        marked = _LIBC.fanotify_mark(self._fd, _MARK_ADD, ctypes.c_uint64(_ACCESS_PERM), -100, os.fsencode(path))
        if marked < 0:
            os.close(self._fd)
            pytest.skip(f"fanotify: {os.strerror(ctypes.get_errno())}")
        self._pause_s = pause_s
        self._over = threading.Event()
        self.seen = 0
        """Reads that have asked."""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            if select.select([self._fd], [], [], 0.05)[0]:
                with contextlib.suppress(BlockingIOError):
                    self._let_through(os.read(self._fd, _EVENT.size))

    def _let_through(self, event: bytes) -> None:
        *_, fd, _ = _EVENT.unpack(event)
        self.seen += 1
        self._over.wait(self._pause_s)
        os.write(self._fd, struct.pack("=iI", fd, _ALLOW))
        os.close(fd)

    def close(self) -> None:
        """Let everybody through, those who wait included."""
        if not self._over.is_set():
            self._over.set()
            self._thread.join()
            os.close(self._fd)


@pytest.fixture
def slow(mount) -> Iterator[Callable[..., SlowFile]]:
    """Make the only file of the cache slow."""
    with contextlib.ExitStack() as stack:

        def start(pause_s: float = 0.3) -> SlowFile:
            return stack.enter_context(contextlib.closing(SlowFile(data_file(mount), pause_s)))

        yield start


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that opens a file, reads it and says its checksum."""
    with contextlib.ExitStack() as stack:

        def start(path: str, prologue: str = "") -> subprocess.Popen[str]:
            code = f"{prologue}\n{PIPED}"
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def body(noise) -> bytes:
    return noise(SIZE, 1)


def read_once(mount, source: str, names: list[str], python) -> None:
    """Read files whole by a daemon of their own; afterwards they are in the cache, and known to be read whole."""
    with mount(source) as mounted:
        for name in names:
            path = f"{mounted.path}/{name}"
            size = int(python(f"{SUM}\nprint(os.stat(path).st_size)", path).split()[1])
            assert wait_until(lambda: os.getxattr(path, "user.tigris.cached_bytes") == b"%d" % size)  # noqa: B023
    for path in data_files(mount):
        drop_pages(path)


def drop_pages(path: str) -> None:
    with open(path, "rb") as file:
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def loaded(mount, bucket, body, python) -> str:
    """A file that was read whole in an earlier life of the mount."""
    bucket.put("file", body)
    read_once(mount, f"s3://{bucket.name}", ["file"], python)
    return f"s3://{bucket.name}"


ONCE = ("--passthrough=auto", "--verify=once")


def data_files(mount) -> list[str]:
    return [os.path.join(top, name) for top, _, names in os.walk(mount.cache_dir / "objects") for name in names]


def data_file(mount) -> str:
    (path,) = data_files(mount)
    return path


def seen(mounted: Mounted) -> dict[str, Any]:
    status = mounted.status()
    assert status["passthrough"]["off"] == ""
    return {**status["passthrough"], "reads": status["kernel_reads"]["requests"], "pid": status["pid"]}


def sum_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def await_successor(mounted: Mounted, pid: int) -> None:
    def answers() -> bool:
        with contextlib.suppress(Exception):
            return mounted.status()["pid"] != pid
        return False

    assert wait_until(answers), "no successor"


def end(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=60)[0].strip()


def test_a_new_daemon_is_asked_for_nothing_of_what_was_read_before(mount, loaded, body, python) -> None:
    with mount(loaded, *ONCE) as mounted:
        assert python(SUM, f"{mounted.path}/file").strip() == sum_of(body)
        found = seen(mounted)
        assert (found["opens"], found["reads"], found["proven_bytes"]) == (1, 0, SIZE)
        assert python(SUM, f"{mounted.path}/file").strip() == sum_of(body)
        found = seen(mounted)
        assert (found["opens"], found["reads"], found["proven_bytes"]) == (2, 0, SIZE), "proven once"


def test_a_flipped_bit_is_fetched_again_and_not_left_to_the_kernel(mount, loaded, body, python) -> None:
    with open(data_file(mount), "r+b") as file:
        file.seek(7 * MIB + 5)
        file.write(bytes([body[7 * MIB + 5] ^ 1]))
    with mount(loaded, *ONCE) as mounted:
        assert python(SUM, f"{mounted.path}/file").strip() == sum_of(body)
        found = seen(mounted)
        assert (found["opens"], mounted.status()["cache"]["corrupt_blocks"]) == (0, 1)
        assert found["proven_bytes"] < SIZE
        assert found["reads"] > 0


@pytest.mark.parametrize("verify", ["always", "off"])
def test_nothing_is_proven_where_that_is_not_asked_for(mount, loaded, body, python, verify) -> None:
    """What was closed cleanly is believed with ``off``, and nothing ever with ``always``."""
    with mount(loaded, "--passthrough=on", f"--verify={verify}") as mounted:
        assert python(SUM, f"{mounted.path}/file").strip() == sum_of(body)
        status = mounted.status()["passthrough"]
        assert (status["opens"], status["proven_bytes"]) == (int(verify == "off"), 0)


def test_what_was_warmed_and_never_read_is_proven_too(mount, bucket, body, python) -> None:
    bucket.put("file", body)
    mount.run("warm", f"s3://{bucket.name}", *mount.flags).check()
    with mount(f"s3://{bucket.name}", *ONCE) as mounted:
        assert python(SUM, f"{mounted.path}/file").strip() == sum_of(body)
        found = seen(mounted)
        assert (found["opens"], found["reads"], found["proven_bytes"]) == (1, 0, SIZE)


def test_what_was_read_in_part_is_opened_without_waiting(mount, bucket, noise, python) -> None:
    body = noise(32 * MIB, 1)
    bucket.put("file", body)
    source = f"s3://{bucket.name}"
    with mount(source) as mounted:
        python("print(len(open(path, 'rb', buffering=0).read(6 << 20)))", f"{mounted.path}/file")
    mount.run("warm", source, *mount.flags).check()
    with mount(source, *ONCE) as mounted:
        assert python(SUM, f"{mounted.path}/file").strip() == sum_of(body)
        found = seen(mounted)
        assert (found["opens"], found["proven_bytes"]) == (0, 0)
        assert found["passed_over"] == {"not proven yet": 1}


def test_opening_the_first_shard_proves_the_following_ones(mount, bucket, python) -> None:
    model = plan_model(24 * MIB, shard_bytes=10 * MIB)
    assert len(model.shards) == 3
    names, bodies = [shard.name for shard in model.shards], [bytes(shard.render()[0]) for shard in model.shards]
    for name, body in zip(names, bodies, strict=True):
        bucket.put(name, body)
    read_once(mount, f"s3://{bucket.name}", names, python)
    with mount(f"s3://{bucket.name}", *ONCE) as mounted:
        python("os.close(os.open(path, os.O_RDONLY))", f"{mounted.path}/{names[0]}")
        assert wait_until(lambda: seen(mounted)["proven_bytes"] == sum(map(len, bodies))), "the others are not proven"
        for name, body in zip(names, bodies, strict=True):
            assert python(SUM, f"{mounted.path}/{name}").strip() == sum_of(body)
        found = seen(mounted)
        assert (found["opens"], found["reads"], found["proven_bytes"]) == (4, 0, sum(map(len, bodies)))


def test_thirty_files_are_opened_at_once(mount, bucket, noise, start) -> None:
    bodies = {f"file-{number}": noise(2 * MIB + number, number) for number in range(30)}
    for name, body in bodies.items():
        bucket.put(name, body)
    mount.run("warm", f"s3://{bucket.name}", *mount.flags).check()
    with mount(f"s3://{bucket.name}", *ONCE) as mounted:
        openers = {name: start(f"{mounted.path}/{name}") for name in bodies}
        assert {name: end(opener) for name, opener in openers.items()} == {
            name: sum_of(body) for name, body in bodies.items()
        }
        found = seen(mounted)
        assert (found["opens"], found["reads"]) == (30, 0)
        assert found["proven_bytes"] == sum(map(len, bodies.values()))


def test_each_of_several_cache_directories_proves_what_it_has(mount, bucket, noise, python, tmp_path) -> None:
    bodies = {f"file-{number}": noise(3 * MIB + number, number) for number in range(8)}
    for name, body in bodies.items():
        bucket.put(name, body)
    more = f"--cache-dir={tmp_path / 'cache-2'}"
    mount.run("warm", f"s3://{bucket.name}", *mount.flags, more).check()
    assert 0 < len(data_files(mount)) < 8
    with mount(f"s3://{bucket.name}", *ONCE, more) as mounted:
        for name, body in bodies.items():
            assert python(SUM, f"{mounted.path}/{name}").strip() == sum_of(body)
        found = seen(mounted)
        assert (found["opens"], found["reads"]) == (8, 0)


def test_who_reads_past_the_page_cache_gets_the_same(mount, loaded, body, python) -> None:
    code = """
fd, buffer, done = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 64 << 20), 0
while count := os.preadv(fd, [memoryview(buffer)[done:]], done):
    done += count
print(hashlib.sha256(buffer[:done]).hexdigest())
"""
    with mount(loaded, *ONCE) as mounted:
        assert python(code, f"{mounted.path}/file").strip() == sum_of(body)
        assert (seen(mounted)["opens"], seen(mounted)["reads"]) == (1, 0)


@pytest.mark.parametrize("block", [0, 7, BLOCKS - 1])
def test_two_daemons_prove_a_damaged_file_of_the_cache_they_share(
    mount, loaded, body, slow, start, tmp_path, block: int
) -> None:
    """Both find the bit, and each may mend the file while the other reads it."""
    with open(data_file(mount), "r+b") as file:
        file.seek(block * MIB + 5)
        file.write(bytes([body[block * MIB + 5] ^ 1]))
    (tmp_path / "mnt-2").mkdir()
    disk = slow(0.05)
    with mount(loaded, *ONCE) as one, mounted(loaded, tmp_path / "mnt-2", mount.env, *mount.flags, *ONCE) as two:
        openers = [start(f"{mount_.path}/file") for mount_ in (one, two) for _ in range(2)]
        assert [end(opener) for opener in openers] == [sum_of(body)] * 4
        assert disk.seen >= block
        again = [start(f"{mount_.path}/file") for mount_ in (one, two)]
        assert [end(opener) for opener in again] == [sum_of(body)] * 2


# ------------------------------------------------------------------ while an OPEN waits


def test_nobody_else_waits_for_who_waits_for_a_proof(mount, loaded, bucket, body, python, slow, start) -> None:
    """Neither names nor ``statfs``, with which the supervisor asks whether this process is alive, nor other files."""
    bucket.put("other", b"other")
    disk = slow()
    with mount(loaded, *ONCE) as mounted:
        opener = start(f"{mounted.path}/file")
        assert wait_until(lambda: disk.seen > 1)
        code = "print(os.statvfs(path).f_bsize > 0, sorted(os.listdir(path)), open(f'{path}/other', 'rb').read())"
        assert python(code, mounted.path).strip() == "True ['file', 'other'] b'other'"
        found = seen(mounted)
        assert (found["opens"], found["reads"] > 0) == (0, True), "it waited all the same"
        assert end(opener) == sum_of(body)
        assert (seen(mounted)["opens"], seen(mounted)["proven_bytes"]) == (1, SIZE)


def test_who_opens_what_is_being_proven_waits_with_the_first(mount, loaded, body, slow, start) -> None:
    disk = slow(0.1)
    with mount(loaded, *ONCE) as mounted:
        openers = [start(f"{mounted.path}/file") for _ in range(4)]
        assert wait_until(lambda: disk.seen > 1)
        assert [end(opener) for opener in openers] == [sum_of(body)] * 4
        found = seen(mounted)
        assert (found["opens"], found["reads"], found["proven_bytes"]) == (4, 0, SIZE)


def test_a_disk_that_stops_keeps_who_waits_for_a_moment_only(mount, loaded, body, slow, start) -> None:
    """Nor does it keep the mount from ending: the store has the bytes."""
    slow(600.0)
    with mount(loaded, *ONCE) as mounted:
        assert end(start(f"{mounted.path}/file")) == sum_of(body)
        found = seen(mounted)
        assert (found["opens"], found["proven_bytes"]) == (0, 0)
        mounted.unmount()


@pytest.mark.parametrize("how", ["killed", "told to end", "upgraded"])
def test_another_worker_answers_who_waits(mount, loaded, body, slow, start, how: str) -> None:
    """Where a worker leaves in order, it lets nobody wait any longer, and the file is opened in the usual way."""
    disk = slow()
    with mount(loaded, *ONCE) as mounted:
        opener, pid = start(f"{mounted.path}/file"), seen(mounted)["pid"]
        assert wait_until(lambda: disk.seen > 1)
        if how == "upgraded":
            mount.run("upgrade", mounted.path).check()
        else:
            os.kill(pid, signal.SIGKILL if how == "killed" else signal.SIGTERM)
        await_successor(mounted, pid)
        disk.close()
        assert end(opener) == sum_of(body)
        found = seen(mounted)
        assert (found["opens"], found["reads"] > 0) == ((1, False) if how == "killed" else (0, True))


def test_a_cleared_cache_keeps_what_is_being_proven(mount, loaded, body, slow, start) -> None:
    disk = slow()
    with mount(loaded, *ONCE) as mounted:
        opener = start(f"{mounted.path}/file")
        assert wait_until(lambda: disk.seen > 1)
        mount.run("cache", "clear", "--yes", f"--cache-dir={mount.cache_dir}")
        assert os.stat(data_file(mount)).st_size == SIZE
        assert end(opener) == sum_of(body)
        assert seen(mounted)["opens"] == 1


def test_who_waits_can_be_killed(mount, loaded, body, python, slow, start) -> None:
    """The kernel lets go of a process that is killed once it has the answer, and not before."""
    disk = slow(1.0)
    with mount(loaded, *ONCE) as mounted:
        opener = start(f"{mounted.path}/file")
        assert wait_until(lambda: disk.seen > 1)
        opener.kill()
        opener.wait(timeout=30)
        assert disk.seen < BLOCKS - 2, "it was kept until the end"
        disk.close()
        assert python(SUM, f"{mounted.path}/file").strip() == sum_of(body)


def test_who_waits_and_is_sent_a_signal_that_it_survives_opens_the_file(mount, loaded, body, slow, start) -> None:
    disk = slow()
    with mount(loaded, *ONCE) as mounted:
        opener = start(f"{mounted.path}/file", "import signal; signal.signal(signal.SIGUSR1, lambda *_: None)")
        assert wait_until(lambda: disk.seen > 1)
        opener.send_signal(signal.SIGUSR1)
        assert wait_until(lambda: seen(mounted)["passed_over"]), "it waits all the same"
        disk.close()
        assert end(opener) == sum_of(body)
        found = seen(mounted)
        assert (found["opens"], found["passed_over"], found["reads"] > 0) == (0, {"not proven yet": 1}, True)


@pytest.mark.parametrize("flags", [["--lazy"], ["--timeout=1"]])
def test_an_unmount_while_somebody_waits_ends(mount, loaded, body, slow, start, flags: list[str]) -> None:
    """Busy, as with any open file, or done; who waits gets all of the file, or an error."""
    disk = slow()
    with mount(loaded, *ONCE) as mounted:
        opener = start(f"{mounted.path}/file")
        assert wait_until(lambda: disk.seen > 1)
        mount.run("unmount", mounted.path, *flags)
        assert end(opener) in (sum_of(body), "")
        mount.run("unmount", mounted.path)
        mounted.wait_until_gone()
