"""Files that the kernel reads from the cache by itself: right bytes, no READ, and nothing taken away under them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tigrismount.demo.command import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tigrismount.testing.mount import Mounted

pytestmark = pytest.mark.usefixtures("passthrough")

MIB = 1 << 20
SIZE = 5 * MIB + 123

HOLDER = """
import hashlib, mmap, os, sys
path, how = sys.argv[1:]
fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if how == "direct" else 0))
size = os.fstat(fd).st_size
table = mmap.mmap(fd, size, prot=mmap.PROT_READ) if how == "mmap" else None
buffer = mmap.mmap(-1, (size + 4095) // 4096 * 4096)
print("opened", flush=True)
for line in sys.stdin:
    try:
        if table is not None:
            table.madvise(mmap.MADV_DONTNEED)
            data = table[:]
        else:
            done = 0
            while done < size:
                done += os.preadv(fd, [memoryview(buffer)[done:]], done)
            data = buffer[:size]
        print(hashlib.sha256(data).hexdigest(), flush=True)
    except OSError as exc:
        print(exc, flush=True)
"""
# Python's own mmap keeps a descriptor.
MAPPED = """
import ctypes, hashlib, os, sys
path = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
fd = os.open(path, os.O_RDONLY)
size = os.fstat(fd).st_size
address = libc.mmap(None, size, 1, 1, fd, 0)
os.close(fd)
print("opened", flush=True)
for line in sys.stdin:
    libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), 4)
    print(hashlib.sha256(ctypes.string_at(address, size)).hexdigest(), flush=True)
"""


class Holder:
    """A process that has a file open, or only mapped, and reads all of it when told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        assert process.stdout.readline() == "opened\n"

    def sum(self) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("read\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.communicate("", timeout=30)


@pytest.fixture
def hold() -> Iterator[Callable[[str, str], Holder]]:
    with contextlib.ExitStack() as stack:

        def start(path: str, how: str) -> Holder:
            code = [MAPPED, path] if how == "mapped" else [HOLDER, path, how]
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", *code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            stack.callback(process.kill)
            return Holder(process)

        yield start


@pytest.fixture
def body(noise) -> bytes:
    return noise(SIZE, 1)


@pytest.fixture
def source(bucket, body, mount) -> str:
    """A file that is wholly in the cache."""
    bucket.put("file", body)
    mount.run("warm", f"s3://{bucket.name}", *mount.flags).check()
    return f"s3://{bucket.name}"


TRUSTING = ("--passthrough=on", "--verify=off")


def through(mounted: Mounted) -> dict[str, Any]:
    status = mounted.status()
    assert status["passthrough"]["off"] == ""
    return {**status["passthrough"], "reads": status["kernel_reads"]["requests"]}


def sum_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def data_file(mount) -> str:
    (name,) = (os.path.join(top, name) for top, _, names in os.walk(mount.cache_dir / "objects") for name in names)
    return name


def kill_worker(mounted: Mounted) -> dict[str, Any]:
    before = mounted.status()
    os.kill(before["pid"], signal.SIGKILL)
    return await_successor(mounted, before)


def await_successor(mounted: Mounted, before: dict[str, Any]) -> dict[str, Any]:
    after: dict[str, Any] = {}

    def answers() -> bool:
        with contextlib.suppress(Exception):
            after.update(mounted.status())
        return after.get("pid") not in (None, before["pid"])

    assert wait_until(answers), "no successor"
    return after


@pytest.mark.parametrize("how", ["read", "mmap", "direct"])
def test_a_cached_file_is_read_without_one_request_to_us(mount, source, body, hold, how: str) -> None:
    with mount(source, *TRUSTING) as mounted:
        holder = hold(f"{mounted.path}/file", how)
        assert holder.sum() == sum_of(body)
        seen = through(mounted)
        assert (seen["opens"], seen["reads"], seen["files"], seen["opened_bytes"]) == (1, 0, 1, SIZE)
        assert os.getxattr(f"{mounted.path}/file", "user.tigris.cached_bytes") == b"%d" % SIZE
        holder.close()
        assert wait_until(lambda: through(mounted)["files"] == 0), "kept though nobody reads it"


def test_what_the_kernel_is_told_to_read_ahead_is_closed_with_its_file(mount, source) -> None:
    """posix_fadvise(2) reads past the backing file: READs come for a file whose OPEN was answered with one."""
    with mount(source, *TRUSTING) as mounted:
        fd = os.open(f"{mounted.path}/file", os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, SIZE, os.POSIX_FADV_WILLNEED)
            assert wait_until(lambda: through(mounted)["reads"] > 0)
        finally:
            os.close(fd)
        assert wait_until(lambda: mounted.status()["names"]["open_files"] == 0)
        assert wait_until(lambda: through(mounted)["files"] == 0)
        mount.run("cache", "clear", "--yes", f"--cache-dir={mount.cache_dir}").check()


def test_an_overwritten_key_is_another_file_and_the_open_one_stays(mount, source, bucket, body, hold, noise) -> None:
    other = noise(SIZE, 2)
    with mount(source, *TRUSTING) as mounted:
        old = hold(f"{mounted.path}/file", "mmap")
        bucket.put("file", other)
        mount.run("refresh", mounted.path).check()
        new = hold(f"{mounted.path}/file", "read")
        assert (old.sum(), new.sum()) == (sum_of(body), sum_of(other))
        assert through(mounted)["opens"] == 1, "the new one is not in the cache yet"
        old.close()
        new.close()


@pytest.mark.parametrize("how", ["read", "mapped"])
def test_what_is_read_cannot_be_evicted_by_anybody(mount, source, body, hold, how: str) -> None:
    """Also where the file is closed and only mapped, which the daemon hears nothing of."""
    with mount(source, *TRUSTING) as mounted:
        holder = hold(f"{mounted.path}/file", how)
        for command in ("clear", "evict"):
            prefix = [source.removeprefix("s3://")] if command == "evict" else ["--yes"]
            mount.run("cache", command, *prefix, f"--cache-dir={mount.cache_dir}")
            assert os.stat(data_file(mount)).st_size == SIZE
            assert holder.sum() == sum_of(body)
        assert wait_until(lambda: through(mounted)["files"] == 1)
        holder.close()
        assert wait_until(lambda: through(mounted)["files"] == 0)
        mount.run("cache", "clear", "--yes", f"--cache-dir={mount.cache_dir}").check()
        assert not [name for _, _, names in os.walk(mount.cache_dir / "objects") for name in names]


@pytest.mark.parametrize("ending", ["killed", "upgraded"])
def test_another_worker_goes_on_with_what_is_open_and_mapped(mount, source, body, hold, ending: str) -> None:
    with mount(source, *TRUSTING) as mounted:
        holders = [hold(f"{mounted.path}/file", how) for how in ("read", "mmap")]
        before = mounted.status()
        if ending == "killed":
            kill_worker(mounted)
        else:
            mount.run("upgrade", mounted.path).check()
            await_successor(mounted, before)
        holders.append(hold(f"{mounted.path}/file", "read"))
        assert [holder.sum() for holder in holders] == [sum_of(body)] * 3, "one is open in another way than the others"
        assert (through(mounted)["opens"], through(mounted)["reads"]) == (1, 0)
        for holder in holders[:2]:
            holder.close()
        mount.run("cache", "clear", "--yes", f"--cache-dir={mount.cache_dir}")
        assert holders[2].sum() == sum_of(body)
        holders[2].close()
        assert wait_until(lambda: through(mounted)["files"] == 0)


def test_a_mapping_alone_keeps_its_file_through_the_death_of_a_worker(mount, source, body, hold) -> None:
    with mount(source, *TRUSTING) as mounted:
        holder = hold(f"{mounted.path}/file", "mapped")
        for _ in range(2):
            kill_worker(mounted)
            mount.run("cache", "clear", "--yes", f"--cache-dir={mount.cache_dir}")
            assert holder.sum() == sum_of(body)
        assert os.path.exists(data_file(mount))
        holder.close()
        assert wait_until(lambda: through(mounted)["files"] == 0)


def test_a_file_that_is_open_in_the_usual_way_is_opened_so_again_until_it_is_closed(
    mount, bucket, body, hold, python
) -> None:
    bucket.put("file", body)
    with mount(f"s3://{bucket.name}", *TRUSTING) as mounted:
        path = f"{mounted.path}/file"
        usual = [hold(path, "read")]
        assert usual[0].sum() == sum_of(body)
        assert wait_until(lambda: os.getxattr(path, "user.tigris.cached_bytes") == b"%d" % SIZE)
        usual += [hold(path, "mmap")]
        before = kill_worker(mounted)
        usual += [hold(path, "direct")]
        assert [holder.sum() for holder in usual] == [sum_of(body)] * 3
        assert through(mounted)["opens"] == 0
        for holder in usual:
            holder.close()
        assert before["takeovers"]["count"] == 1
        assert wait_until(lambda: python("print(len(open(path, 'rb').read()))", path) and through(mounted)["opens"])


def test_a_flipped_bit_is_found_before_the_kernel_is_left_alone_with_it(mount, source, body, python) -> None:
    with open(data_file(mount), "r+b") as file:
        file.seek(3 * MIB + 5)
        file.write(bytes([body[3 * MIB + 5] ^ 1]))
    read = "print(hashlib.sha256(open(path, 'rb').read()).hexdigest())"
    with mount(source, "--passthrough=on") as mounted:
        path = f"{mounted.path}/file"
        assert python(read, path).strip() == sum_of(body)
        assert (through(mounted)["opens"], mounted.status()["cache"]["corrupt_blocks"]) == (0, 1)

        def is_left_alone() -> bool:
            assert python(read, path).strip() == sum_of(body)
            return through(mounted)["opens"] > 0

        assert wait_until(is_left_alone), "it is right on the disk again, and was read back"


def test_what_the_kernel_has_in_memory_is_left_there(mount, bucket, body, python) -> None:
    read = "print(hashlib.sha256(open(path, 'rb').read()).hexdigest())"
    bucket.put("file", body)
    with mount(f"s3://{bucket.name}", "--passthrough=auto") as mounted:
        for _ in range(2):
            assert python(read, f"{mounted.path}/file").strip() == sum_of(body)
        seen = through(mounted)
        assert seen["opens"] == 0
        assert "the kernel has it in memory" in seen["passed_over"]


def test_status_says_why_not(mount, source, body, python) -> None:
    with mount(source, "--passthrough=off") as mounted:
        assert python("print(len(open(path, 'rb').read()))", f"{mounted.path}/file").strip() == str(SIZE)
        assert mounted.status()["passthrough"]["off"] == "--passthrough off"


def test_who_makes_the_mount_writable_cannot_write_into_the_cache(mount, source, body, hold) -> None:
    """Without a refusal of ours what root writes goes to the cache's own file, and to every reader."""
    with mount(source, *TRUSTING) as mounted:
        subprocess.run(["mount", "-i", "-o", "remount,rw", mounted.path], check=True)
        holder = hold(f"{mounted.path}/file", "mmap")
        for flags in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(OSError, match="Read-only file system"):
                os.close(os.open(f"{mounted.path}/file", flags))
        assert holder.sum() == sum_of(body)
        holder.close()
