"""Pages in the kernel before a loader asks: real mounts with the kernel's own read-ahead of 128 KiB, READs counted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from tigrismount.demo.command import mount_status, run_command, wait_until
from tigrismount.testing.mount import is_mounted

MIB = 1 << 20
SIZE = 192 * MIB
SHARD = 640 * MIB
"""What is read before a plan exists, and before the pushes are ahead, is 2 to 8 MiB whatever the size: a shard of a
real model has gigabytes, and a small file here would measure nothing else."""
BEGINNING = 8 * MIB
"""Most that comes by READs before anything is planned; a reader who finds all of it in memory is quick to pass it."""

MAPPED = """
table = mmap.mmap(os.open(path, os.O_RDONLY), 0, prot=mmap.PROT_READ)
whole = hashlib.sha256()
for start in range(0, len(table), 1 << 20):
    whole.update(table[start : start + (1 << 20)])
print(whole.hexdigest())
"""
TENSORS = """
from safetensors import safe_open
whole = hashlib.sha256()
with safe_open(path, framework="numpy") as file:
    for name in file.offset_keys():
        whole.update(file.get_tensor(name).data)
print(whole.hexdigest())
"""
READ = """
with open(path, "rb") as file:
    print(hashlib.file_digest(file, "sha256").hexdigest())
"""
WAYS = {"mmap": MAPPED, "read": READ, "safetensors": TENSORS}
PUSHES = [
    # Each mode and each way once, and all of them together where there is time.
    pytest.param(mode, WAYS[way], id=f"{mode}-{way}", marks=() if is_first else pytest.mark.slow)
    for mode, first in (("auto", "safetensors"), ("on", "mmap"), ("off", "read"))
    for way in WAYS
    for is_first in [way == first]
]
DROP = "os.posix_fadvise(os.open(path, os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)"


def digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Weights:
    """One safetensors file in a bucket."""

    source: str
    body: bytes
    tensors: bytes

    @property
    def sums(self) -> dict[str, str]:
        return {MAPPED: digest(self.body), READ: digest(self.body), TENSORS: digest(self.tensors)}


@pytest.fixture(scope="module")
def weights(s3_client, noise) -> Weights:
    return make_weights(s3_client, noise, "push", SIZE)


@pytest.fixture(scope="module")
def shard(s3_client, noise) -> Weights:
    return make_weights(s3_client, noise, "push-shard", SHARD)


def make_weights(s3_client, noise, bucket: str, size: int) -> Weights:
    tensors = {f"layers.{n:03}.weight": np.frombuffer(noise(4 * MIB, n), np.uint8) for n in range(size // (4 * MIB))}
    body = save(tensors)
    s3_client.create_bucket(Bucket=bucket)
    s3_client.put_object(Bucket=bucket, Key="model.safetensors", Body=body)
    header_bytes = 8 + int.from_bytes(body[:8], "little")
    return Weights(f"s3://{bucket}", body, body[header_bytes:])


class PushMounter:
    """Mounts with the kernel's own read-ahead and a cache that all mounts of a test share."""

    def __init__(self, mount: Any) -> None:
        self.mount = mount

    def __call__(self, source: str, *flags: str):
        return self.mount(source, "--kernel-read-ahead=0", "--memory-limit=128MiB", *flags)


@pytest.fixture
def push_mount(mount) -> PushMounter:
    return PushMounter(mount)


def read_bytes(status: dict[str, Any]) -> int:
    return status["kernel_reads"]["bytes"]


@pytest.mark.slow  # a file of a shard's size; the two tests of ``weights`` below show the same of a smaller one
@pytest.mark.parametrize("how", [MAPPED, TENSORS], ids=["mmap", "safetensors"])
def test_hardly_a_byte_of_a_cached_file_is_asked_for(push_mount, shard, python, how):
    """From NVMe: a second mount of a file that the disk cache has whole.

    Measured: 0.4 to 1.1 % by a plain mapping, 0.3 to 0.6 % by safetensors.
    """
    with push_mount(shard.source) as at:
        run_command("warm", f"{at.path}/model.safetensors", env=at.env).check()
    with push_mount(shard.source, "--push=on") as at:
        assert python(how, f"{at.path}/model.safetensors") == shard.sums[how] + "\n"
        status = at.status()
    assert status["bytes"]["remote"] == 0
    assert read_bytes(status) < 0.02 * SHARD


def test_hardly_a_byte_of_a_file_in_memory_is_asked_for(push_mount, weights, python):
    """From the daemon's own memory, after the kernel has dropped its pages."""
    flags = ["--push=on", "--memory-limit=512MiB", "--cache-dir=off"]
    with push_mount(weights.source, *flags) as at:
        python(MAPPED, f"{at.path}/model.safetensors")
        before = at.status()
        python(DROP, f"{at.path}/model.safetensors")
        assert python(MAPPED, f"{at.path}/model.safetensors") == weights.sums[MAPPED] + "\n"
        after = at.status()
    assert after["bytes"]["remote"] == before["bytes"]["remote"]
    assert read_bytes(after) - read_bytes(before) < BEGINNING + 0.02 * SIZE


def test_a_cold_file_is_fetched_once_and_pushed(push_mount, weights, python):
    with push_mount(weights.source, "--push=on") as at:
        assert python(TENSORS, f"{at.path}/model.safetensors") == weights.sums[TENSORS] + "\n"
        status = at.status()
    # What a busy disk was given up for is fetched again once all is quiet, and nobody waits for that.
    assert status["bytes"]["remote"] - status["cache"]["refetched_bytes"] <= 1.01 * SIZE
    assert read_bytes(status) < 0.2 * SIZE, "its reader waits for the store, and takes what comes"


@pytest.mark.parametrize(("mode", "how"), PUSHES)
def test_bytes_are_right_whatever_is_pushed(push_mount, weights, python, mode, how):
    with push_mount(weights.source, f"--push={mode}", "--cache-dir=off") as at:
        assert python(how, f"{at.path}/model.safetensors") == weights.sums[how] + "\n"
        status = at.status()
    if mode == "off":
        assert status["bytes"]["pushed"] == 0
        assert read_bytes(status) >= SIZE


def test_tripwires_keep_the_window_moving(push_mount, weights, python):
    """With a window of an eighth of the file, a reader that is not seen to move would soon be alone."""
    with push_mount(weights.source) as at:
        run_command("warm", f"{at.path}/model.safetensors", env=at.env).check()
    with push_mount(weights.source, "--push=on", "--read-ahead=24MiB") as at:
        python(MAPPED, f"{at.path}/model.safetensors")
        status = at.status()
    assert status["bytes"]["pushed"] > 0.97 * SIZE
    assert status["push"]["passed_bytes"] > 0.9 * SIZE


def test_readers_past_the_page_cache_get_no_pushes(push_mount, weights, python):
    code = """
fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
buffer, whole = mmap.mmap(-1, 1 << 20), hashlib.sha256()
while count := os.preadv(fd, [buffer], os.lseek(fd, 0, os.SEEK_CUR)):
    whole.update(buffer[:count])
    os.lseek(fd, count, os.SEEK_CUR)
print(whole.hexdigest())
"""
    with push_mount(weights.source, "--push=on") as at:
        assert python(code, f"{at.path}/model.safetensors") == digest(weights.body) + "\n"
        assert at.status()["bytes"]["pushed"] == 0


SEVERAL = """
import threading
fd = os.open(path, os.O_RDONLY)
table = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
size = len(table)
found = {}
def work(number):
    whole = hashlib.sha256()
    for start in range(number * size // 8, (number + 1) * size // 8, 1 << 18):
        stop = min(start + (1 << 18), (number + 1) * size // 8)
        whole.update(table[start:stop] if number % 2 else os.pread(fd, stop - start, start))
    found[number] = whole.hexdigest()
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps([found[number] for number in range(8)]))
"""


def test_many_readers_at_once_get_what_they_ask_for(push_mount, weights, python):
    body = weights.body
    expected = [digest(memoryview(body)[n * len(body) // 8 : (n + 1) * len(body) // 8]) for n in range(8)]
    with push_mount(weights.source, "--push=on") as at:
        for _ in range(3):
            assert json.loads(python(SEVERAL, f"{at.path}/model.safetensors")) == expected
            python(DROP, f"{at.path}/model.safetensors")


SLOWLY = """
import time
table = mmap.mmap(os.open(path, os.O_RDONLY), 0, prot=mmap.PROT_READ)
found = []
for start in range(0, len(table), 1 << 20):
    found.append(hashlib.sha256(table[start : start + (1 << 20)]).hexdigest())
    if start == 8 << 20:
        print("reading", flush=True)
        sys.stdin.readline()
print(json.dumps(found))
"""


@contextlib.contextmanager
def slow_reader(path: str):
    """A child that stops to wait for a line, a little after it has begun to read."""
    prologue = "import hashlib, json, mmap, os, sys\npath = sys.argv[1]\n"
    command = [sys.executable, "-c", prologue + SLOWLY, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        try:
            assert reader.stdout.readline() == "reading\n"
            yield reader
        finally:
            reader.kill()


@pytest.mark.parametrize(
    "new_bytes",
    [pytest.param(SIZE, marks=pytest.mark.slow), SIZE // 3],
    ids=["overwritten", "truncated"],
)
def test_an_object_replaced_while_it_is_pushed_is_never_mixed(push_mount, weights, s3_client, python, new_bytes, noise):
    """Old bytes until the end, or a SIGBUS where the old version is no longer to be had; never new ones."""
    s3_client.put_object(Bucket="push", Key="changing", Body=weights.body)
    new = noise(new_bytes, 9)
    with push_mount(weights.source, "--push=on", "--metadata-ttl=0", "--read-ahead=24MiB") as at:
        with slow_reader(f"{at.path}/changing") as reader:
            s3_client.put_object(Bucket="push", Key="changing", Body=new)
            output, _ = reader.communicate("go\n", timeout=60)
        if reader.returncode == 0:
            old = [digest(memoryview(weights.body)[n : n + MIB]) for n in range(0, len(weights.body), MIB)]
            assert json.loads(output) == old
        else:
            assert reader.returncode == -signal.SIGBUS
        assert python(MAPPED, f"{at.path}/changing") == digest(new) + "\n", "the new version is another file"


def test_unmounting_during_a_push_leaves_nothing_behind(push_mount, weights):
    with push_mount(weights.source, "--push=on") as at:
        with slow_reader(f"{at.path}/model.safetensors"):
            run_command("unmount", at.path, "--lazy", env=at.env).check()
        at.wait_until_gone()


def test_a_reader_killed_during_a_push_disturbs_nobody(push_mount, weights, python):
    with push_mount(weights.source, "--push=on") as at:
        for _ in range(3):
            with slow_reader(f"{at.path}/model.safetensors") as reader:
                reader.send_signal(signal.SIGKILL)
        assert python(MAPPED, f"{at.path}/model.safetensors") == weights.sums[MAPPED] + "\n"


def test_workers_killed_while_they_push_fail_no_read(push_mount, weights, python):
    with push_mount(weights.source, "--push=on") as at:
        for _ in range(3):
            with slow_reader(f"{at.path}/model.safetensors") as reader:
                before = at.status()["pid"]
                os.kill(before, signal.SIGKILL)
                output, _ = reader.communicate("go\n", timeout=60)
                found = json.loads(output)
            assert found == [digest(memoryview(weights.body)[n : n + MIB]) for n in range(0, len(weights.body), MIB)]
            assert wait_until(lambda pid=before: mount_status(at.path, at.env)["pid"] != pid)
            python(DROP, f"{at.path}/model.safetensors")


def test_upgrades_during_pushes_fail_no_read(push_mount, weights, python):
    """The worker lets its pushes end before it lets go of the connection, and its successor pushes on."""
    with push_mount(weights.source, "--push=on") as at:
        for _ in range(2):
            with slow_reader(f"{at.path}/model.safetensors") as reader:
                before = at.status()["pid"]
                os.kill(at.status()["supervisor_pid"], signal.SIGHUP)
                output, _ = reader.communicate("go\n", timeout=60)
                found = json.loads(output)
            assert found == [digest(memoryview(weights.body)[n : n + MIB]) for n in range(0, len(weights.body), MIB)]
            assert wait_until(lambda pid=before: mount_status(at.path, at.env)["pid"] != pid)
            python(DROP, f"{at.path}/model.safetensors")
        assert python(MAPPED, f"{at.path}/model.safetensors") == weights.sums[MAPPED] + "\n"
        status = at.status()
        assert status["takeovers"]["last_reason"] == "was replaced for an upgrade or a reload"
        assert status["bytes"]["pushed"] > 0


# ---------------------------------------------------------------------- little memory


@pytest.fixture
def cgroup():
    """A control group for a mount, of 160 MiB; skips where none can be made."""
    root = Path("/sys/fs/cgroup")
    v1 = (root / "memory").is_dir()
    path = (root / "memory" if v1 else root) / f"tigrismount-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as exc:
        pytest.skip(f"no control group can be made: {exc.strerror}")
    try:
        try:
            (path / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(160 * MIB))
        except OSError as exc:
            pytest.skip(f"no control group can limit memory here: {exc.strerror}")
        yield path
    finally:
        assert wait_until(lambda: not (path / "cgroup.procs").read_text().split()), "left running"
        path.rmdir()


def oom_kills(path: Path) -> int:
    name = "memory.oom_control" if (path / "memory.oom_control").exists() else "memory.events"
    fields = dict(line.split() for line in (path / name).read_text().splitlines())
    return int(fields.get("oom_kill", 0))


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_in_a_control_group_smaller_than_the_file_nobody_is_killed(mount, cgroup, weights, python, mode):
    """What is pushed is charged to the daemon; ``auto`` leaves it, ``on`` goes on while there is room."""
    enter = f"import os, sys; open({str(cgroup / 'cgroup.procs')!r}, 'w').write(str(os.getpid())); "
    flags = [*mount.flags[:2], "--memory-limit=32MiB", "--kernel-read-ahead=0", f"--push={mode}"]
    command = ["mount", weights.source, str(mount.mountpoint), *flags]
    run_inside = enter + "os.execv(sys.executable, [sys.executable, '-m', 'tigrismount', *sys.argv[1:]])"
    env = {**os.environ, **mount.env}
    subprocess.run([sys.executable, "-c", run_inside, *command], env=env, check=True, timeout=60)
    try:
        for _ in range(2):
            assert python(MAPPED, f"{mount.mountpoint}/model.safetensors") == weights.sums[MAPPED] + "\n"
            python(DROP, f"{mount.mountpoint}/model.safetensors")
        status = mount_status(str(mount.mountpoint), mount.env)
    finally:
        run_command("unmount", str(mount.mountpoint), env=mount.env)
        assert wait_until(lambda: not is_mounted(str(mount.mountpoint)))
    assert oom_kills(cgroup) == 0
    assert status["takeovers"]["count"] == 0
    if mode == "auto":
        assert status["bytes"]["pushed"] == 0
        assert status["push"]["refused"] > 0
