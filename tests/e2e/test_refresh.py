"""``refresh`` shows a change at once, with readers at work."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from tigrismount.demo.command import run_child

MIB = 1 << 20
NAMES = "print(json.dumps(sorted(os.listdir(path))))"
FOR_EVER = ("--metadata-ttl=inf", "--negative-ttl=inf")
_DIGEST = "print(os.stat(path).st_ino, hashlib.file_digest(open(path, 'rb'), 'sha256').hexdigest())"
_EXISTS = "print(os.path.exists(path))"


@pytest.mark.claim("fresh-refresh")
def test_every_kind_of_change_is_seen_at_once(bucket, mount, mountpoint, python):
    for key in ("d/changed", "d/gone", "other"):
        bucket.put(key, b"old")
    missing = "print(json.dumps(os.path.exists(path)))"
    with mount(f"s3://{bucket.name}", "--metadata-ttl=1h", "--negative-ttl=1h"):
        assert json.loads(python(NAMES, mountpoint / "d")) == ["changed", "gone"]
        assert json.loads(python(missing, mountpoint / "d/new")) is False
        before = run_child("stat", "-c", "%i", str(mountpoint / "d/changed")).check().output
        bucket.put("d/changed", b"newer")
        bucket.put("d/new", b"new")
        bucket.client.delete_object(Bucket=bucket.name, Key="d/gone")
        assert json.loads(python(NAMES, mountpoint / "d")) == ["changed", "gone"], "not without being told"

        told = mount.run("refresh", str(mountpoint / "d")).check().output
        assert told.startswith(f"{mountpoint}/d: ")
        assert told.count("\n") == 1
        assert json.loads(python(NAMES, mountpoint / "d")) == ["changed", "new"]
        assert run_child("cat", str(mountpoint / "d/changed")).check().output == "newer"
        assert run_child("stat", "-c", "%i", str(mountpoint / "d/changed")).check().output != before

        bucket.put("other", b"newest")
        told = json.loads(mount.run("refresh", "--json", str(mountpoint)).check().output)
        assert (told["mountpoint"], told["path"], told["complete"]) == (str(mountpoint), "", True)
        assert told["names"] >= 3
        assert run_child("cat", str(mountpoint / "other")).check().output == "newest"


_READER = """
import hashlib, json, os, sys
path, found = sys.argv[1], set()
print("reading", flush=True)
import select
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        with open(path, "rb") as file: found.add(hashlib.sha256(file.read()).hexdigest())
        os.listdir(os.path.dirname(path))
    except OSError as exc: found.add(exc.errno)
print(json.dumps(list(found)))
"""


@pytest.mark.parametrize("kept", [False, True], ids=["gone", "kept"])
def test_no_read_mixes_two_versions_while_it_is_overwritten_and_refreshed(bucket, mount, mountpoint, noise, kept):
    if kept:
        bucket.keep_versions()
    bodies = [noise(3 * MIB, seed) for seed in range(5)]
    bucket.put("d/file", bodies[0])
    with mount(f"s3://{bucket.name}", "--metadata-ttl=1h"):
        command = [sys.executable, "-c", _READER, str(mountpoint / "d/file")]
        readers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
        ]
        try:
            for reader in readers:
                assert reader.stdout.readline() == "reading\n"
            for body in bodies[1:]:
                bucket.put("d/file", body)
                mount.run("refresh", str(mountpoint / "d/file")).check()
            found = set()
            for reader in readers:
                found.update(json.loads(reader.communicate("stop\n", timeout=60)[0]))
        finally:
            for reader in readers:
                reader.kill()
        last = run_child("sha256sum", str(mountpoint / "d/file")).check().output.split()[0]
    stale = 116  # ESTALE: the bytes that were not read yet are gone from the store
    assert found <= {hashlib.sha256(body).hexdigest() for body in bodies} | {stale}
    assert last == hashlib.sha256(bodies[-1]).hexdigest()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_HOLDER = """
import errno, hashlib, json, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
size, part = os.fstat(fd).st_size, 1 << 20
os.pread(fd, part, 0)
print("opened", flush=True)
sys.stdin.readline()
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
found = []
for start in range(0, size, part):
    try:
        found.append(hashlib.sha256(os.pread(fd, part, start)).hexdigest())
    except OSError as exc:
        found.append(errno.errorcode[exc.errno])
print(json.dumps(found))
"""


@pytest.fixture
def holding():
    """Start a process that opens a file, reads a part of it, and the rest when it is told to."""
    started = []

    def start(path):
        command = [sys.executable, "-c", _HOLDER, str(path)]
        reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(reader)
        assert reader.stdout.readline() == "opened\n"
        return reader

    yield start
    for reader in started:
        reader.kill()
        reader.communicate()


@pytest.mark.parametrize("refreshed", ["d/e/file", "d", ""], ids=["file", "above", "root"])
def test_an_overwritten_file_is_the_new_one_at_once_while_who_has_it_open_keeps_the_old_one(
    mount, bucket, python, noise, holding, refreshed
):
    old, new = noise(6 * MIB, 1), noise(6 * MIB, 2)
    bucket.put("d/e/file", old)
    with mount(f"s3://{bucket.name}", "--prefetch=off", *FOR_EVER) as mounted:
        path = f"{mounted.path}/d/e/file"
        reader = holding(path)
        before = python(_DIGEST, path).split()
        bucket.put("d/e/file", new)
        assert python(_DIGEST, path).split() == before
        mount.run("refresh", f"{mounted.path}/{refreshed}").check()
        after = python(_DIGEST, path).split()
        found = json.loads(reader.communicate("go\n", timeout=60)[0])
    assert (before[1], after[1]) == (digest(old), digest(new))
    assert before[0] != after[0]
    for index, answer in enumerate(found):
        assert answer in (digest(old[index * MIB : (index + 1) * MIB]), "ESTALE"), index
    assert found[0] != "ESTALE"


@pytest.mark.parametrize(("refreshed", "listed"), [("d", True), ("", True), ("", False), ("d/new/file", False)])
def test_a_new_key_appears_at_once(mount, bucket, python, refreshed, listed):
    bucket.put("d/file", b"bytes")
    with mount(f"s3://{bucket.name}", *FOR_EVER) as mounted:
        for directory, name in (("d", "new"), ("", "top")):
            if listed:
                python(NAMES, f"{mounted.path}/{directory}")
            assert python(_EXISTS, f"{mounted.path}/{directory}/{name}") == "False\n"
        bucket.put("d/new/file", b"bytes")
        bucket.put("top", b"bytes")
        mount.run("refresh", f"{mounted.path}/{refreshed}").check()
        assert python(_EXISTS, f"{mounted.path}/d/new/file") == "True\n"
        assert json.loads(python(NAMES, f"{mounted.path}/d")) == ["file", "new"]
        assert python(_EXISTS, f"{mounted.path}/top") == f"{refreshed == ''}\n"


def test_a_listing_that_goes_on_during_the_refresh_brings_nothing_old_back(mount, bucket, python):
    for number in range(600):
        bucket.put(f"d/{number:04}", b"old")
    code = """
with os.scandir(path) as names:
    next(names)
    print("reading", flush=True)
    sys.stdin.readline()
    print(len(list(names)), flush=True)
"""
    command = [sys.executable, "-c", "import os, sys\npath = sys.argv[1]\n" + code]
    with mount(f"s3://{bucket.name}", *FOR_EVER) as mounted:
        with subprocess.Popen(
            [*command, f"{mounted.path}/d"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as lister:
            try:
                assert lister.stdout.readline() == "reading\n"
                bucket.put("d/0599", b"newer")
                mount.run("refresh", f"{mounted.path}/d").check()
                assert lister.communicate("go\n", timeout=60)[0] == "599\n"
            finally:
                lister.kill()
        assert python(_DIGEST, f"{mounted.path}/d/0599").split()[1] == digest(b"newer")


def test_a_path_under_no_mount_is_not_found(mount, tmp_path):
    refused = mount.run("refresh", str(tmp_path))
    assert refused.status == 3
    assert "is not under a mount" in refused.errors
