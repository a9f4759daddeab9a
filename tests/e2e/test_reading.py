"""A mounted bucket behaves as read-only files, whichever way they are read."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tigrismount.demo.command import run_child

MIB = 1 << 20
SIZES = ["empty", "one", "block", "block-less-one", "block-and-one", "blocks", "large"]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=SIZES)
def sized(corpus, request):
    """Path and bytes of a file of each size."""
    key = f"sizes/{request.param}"
    return f"{corpus.path}/{key}", corpus.files[key]


def test_directories_hold_what_the_keys_say(corpus, python):
    code = """
tree = {os.path.relpath(os.path.join(d, f), path) for d, _, files in os.walk(path) for f in files}
print(json.dumps(sorted(tree)))
"""
    assert json.loads(python(code, corpus.path)) == sorted(corpus.files)


def test_ls_lists_a_directory(corpus):
    finished = run_child("ls", "-lA", f"{corpus.path}/sizes").check()

    names = [line.split()[-1] for line in finished.output.splitlines()[1:]]
    assert sorted(names) == sorted(SIZES)


def test_stat_tells_what_the_store_knows(corpus, python, sized):
    path, data = sized
    key = os.path.relpath(path, corpus.path)
    facts = os.stat_result(json.loads(python("print(json.dumps(tuple(os.stat(path))))", path)))
    blocks = int(python("print(os.stat(path).st_blocks)", path))
    modified = corpus.client.head_object(Bucket=corpus.bucket, Key=key)["LastModified"]

    assert stat.S_ISREG(facts.st_mode)
    assert stat.S_IMODE(facts.st_mode) == 0o444
    assert facts.st_size == len(data)
    assert facts.st_mtime == int(modified.timestamp())
    assert (facts.st_uid, facts.st_gid) == (os.geteuid(), os.getegid())
    assert blocks * 512 >= len(data)


def test_directories_are_0555(corpus, python):
    for name in ("", "sizes", "deep/er/and", "both"):
        mode = int(python("print(os.stat(path).st_mode)", f"{corpus.path}/{name}"))
        assert stat.filemode(mode) == "dr-xr-xr-x"


@pytest.mark.parametrize("name", ["nowhere", "sizes/nowhere", "deep/er/nowhere/at/all"])
def test_what_is_not_there_is_enoent(corpus, python, name):
    code = "try: os.stat(path)\nexcept OSError as exc: print(exc.errno == errno.ENOENT)"

    assert python(code, f"{corpus.path}/{name}") == "True\n"


def test_a_file_is_no_directory(corpus, python):
    code = "try: os.stat(path)\nexcept OSError as exc: print(exc.errno == errno.ENOTDIR)"

    assert python(code, f"{corpus.path}/top.txt/below") == "True\n"


def test_cat(sized):
    path, data = sized
    finished = run_child("sh", "-c", 'cat "$1" | sha256sum', "sh", path).check()

    assert finished.output.split()[0] == digest(data)


def test_cp(sized, tmp_path):
    path, data = sized
    run_child("cp", path, str(tmp_path / "copy")).check()

    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("flags", [[], ["iflag=direct"]], ids=["buffered", "direct"])
@pytest.mark.parametrize("size", ["4k", "256k", "3M"])
def test_dd(sized, tmp_path, flags, size):
    path, data = sized
    run_child("dd", f"if={path}", f"of={tmp_path / 'copy'}", f"bs={size}", *flags).check()

    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("kind", ["MAP_PRIVATE", "MAP_SHARED"])
def test_mmap(corpus, python, kind):
    code = f"""
with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.{kind}, mmap.PROT_READ) as mapped:
    tail, middle = mapped[-5000:], mapped[3_000_000:3_100_000]
    print(hashlib.sha256(tail + middle + mapped[:]).hexdigest())
"""
    data = corpus.files["sizes/large"]

    assert python(code, f"{corpus.path}/sizes/large").strip() == digest(data[-5000:] + data[3_000_000:3_100_000] + data)


def test_numpy_memmap(corpus, python):
    code = """
import numpy
print(hashlib.sha256(numpy.memmap(path, dtype="u1", mode="r")[::-1].tobytes()).hexdigest())
"""
    assert python(code, f"{corpus.path}/sizes/large").strip() == digest(corpus.files["sizes/large"][::-1])


_PREAD = """
import random
from concurrent.futures import ThreadPoolExecutor
seed, threads, size = map(int, sys.argv[2:])
fd = os.open(path, os.O_RDONLY)
def work(number):
    draw = random.Random(seed * 1000 + number)
    found = []
    for _ in range(25):
        start, length = draw.randrange(size), draw.randrange(1, 300_000)
        found.append((start, length, hashlib.sha256(os.pread(fd, length, start)).hexdigest()))
    return found
with ThreadPoolExecutor(threads) as pool:
    print(json.dumps([item for found in pool.map(work, range(threads)) for item in found]))
"""


def _check_preads(corpus, answers):
    data = corpus.files["sizes/large"]
    for answer in answers:
        for start, length, found in json.loads(answer):
            assert found == digest(data[start : start + length]), (start, length)


def test_pread_at_random_offsets_from_16_threads(corpus, python):
    path = f"{corpus.path}/sizes/large"

    _check_preads(corpus, [python(_PREAD, path, 1, 16, len(corpus.files["sizes/large"]))])


def test_pread_at_random_offsets_from_8_processes(corpus, python):
    path = f"{corpus.path}/sizes/large"
    with ThreadPoolExecutor(8) as pool:
        size = len(corpus.files["sizes/large"])
        _check_preads(corpus, pool.map(lambda seed: python(_PREAD, path, seed, 2, size), range(8)))


def test_reading_at_and_past_the_end(corpus, python):
    code = """
fd = os.open(path, os.O_RDONLY)
size = os.fstat(fd).st_size
print([len(os.pread(fd, n, size - before)) for n, before in ((100, 1), (100, 0), (100, -1), (1 << 20, 17))])
"""
    assert python(code, f"{corpus.path}/sizes/blocks") == "[1, 0, 0, 17]\n"


@pytest.mark.parametrize("backend", ["safe_open", "load"])
def test_safetensors_reads_every_tensor(corpus, python, backend):
    code = f"""
from tigrismount.demo.model import checksum
from safetensors import safe_open
from safetensors.numpy import load_file
sums = {{}}
for name in sorted(os.listdir(path)):
    if not name.endswith(".safetensors"):
        continue
    if "{backend}" == "load":
        sums |= {{key: checksum(tensor) for key, tensor in load_file(os.path.join(path, name)).items()}}
    else:
        with safe_open(os.path.join(path, name), framework="numpy") as opened:
            sums |= {{key: checksum(opened.get_tensor(key)) for key in opened.keys()}}
print(json.dumps(sums))
"""
    assert json.loads(python(code, f"{corpus.path}/model")) == corpus.sums


_CHANGES = {
    "open for writing": "os.open(f'{path}/top.txt', os.O_WRONLY)",
    "open for both": "os.open(f'{path}/top.txt', os.O_RDWR)",
    "open to append": "os.open(f'{path}/top.txt', os.O_WRONLY | os.O_APPEND)",
    "open to truncate": "os.open(f'{path}/top.txt', os.O_WRONLY | os.O_TRUNC)",
    "create": "os.open(f'{path}/new', os.O_WRONLY | os.O_CREAT)",
    "truncate": "os.truncate(f'{path}/top.txt', 0)",
    "mkdir": "os.mkdir(f'{path}/new')",
    "rmdir": "os.rmdir(f'{path}/deep')",
    "unlink": "os.unlink(f'{path}/top.txt')",
    "rename": "os.rename(f'{path}/top.txt', f'{path}/new')",
    "link": "os.link(f'{path}/top.txt', f'{path}/new')",
    "symlink": "os.symlink('x', f'{path}/new')",
    "mknod": "os.mknod(f'{path}/new')",
    "mkfifo": "os.mkfifo(f'{path}/new')",
    "chmod": "os.chmod(f'{path}/top.txt', 0o600)",
    "chown": "os.chown(f'{path}/top.txt', 1, 1)",
    "utime": "os.utime(f'{path}/top.txt')",
    "setxattr": "os.setxattr(f'{path}/top.txt', 'user.x', b'1')",
    "removexattr": "os.removexattr(f'{path}/top.txt', 'user.x')",
}


def test_every_change_is_erofs(corpus, python):
    attempts = "\n".join(
        f"try: {call}; found[{name!r}] = 'done'\nexcept OSError as exc: found[{name!r}] = errno.errorcode[exc.errno]"
        for name, call in _CHANGES.items()
    )
    found = json.loads(python(f"found = {{}}\n{attempts}\nprint(json.dumps(found))", corpus.path))

    assert found == dict.fromkeys(_CHANGES, "EROFS")


def test_the_mount_says_what_it_is(corpus, python):
    mounts = Path("/proc/self/mountinfo").read_text()
    line = next(line for line in mounts.splitlines() if f" {corpus.path} " in line)

    assert " ro," in line
    assert " - fuse.tigrismount s3://corpus " in line
    assert python("print(os.statvfs(path).f_flag & os.ST_RDONLY)", corpus.path) == "1\n"


def test_status_knows_the_mount(corpus):
    status = corpus.mount.status()

    assert status["mountpoint"] == corpus.path
    assert status["source"] == "s3://corpus"
    assert {status["pid"], status["supervisor_pid"]} <= set(corpus.mount.pids)
    assert status["degraded"] == []
    assert status["bytes"].keys() >= {"ram", "nvme", "remote", "pushed"}


def test_status_shows_no_secret(corpus, s3):
    assert s3.secret_key not in json.dumps(corpus.mount.status())


def test_a_reader_in_the_mount_cannot_be_interrupted_into_wrong_bytes(corpus, python):
    code = """
import signal
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
with open(path, "rb", buffering=0) as file:
    parts = []
    while part := file.read(123_457):
        parts.append(part)
signal.setitimer(signal.ITIMER_REAL, 0)
print(hashlib.sha256(b"".join(parts)).hexdigest())
"""
    assert python(code, f"{corpus.path}/sizes/large").strip() == digest(corpus.files["sizes/large"])
