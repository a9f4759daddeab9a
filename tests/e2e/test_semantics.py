"""Executes docs/reference/semantics.md point by point, through real mounts; what needs no mount is tested in vfs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import trio

from tigrismount.cache.disk import DiskBlockCache
from tigrismount.cache.options import DiskCacheConfig
from tigrismount.core.types import ObjectId
from tigrismount.demo.command import run_child, run_command, wait_until
from tigrismount.demo.faults import FaultRule
from tigrismount.testing.mount import mounted

MIB = 1 << 20
LONG = "n" * 255
UNSUPPORTED = ("ENOTSUP", "EOPNOTSUPP")  # one number, and Pythons differ in which name they give it
HIDDEN = {"a//b", "a/./c", "a/../d", "x" * 256, "esc\x1b[2J//e"}
ANY = {"with blank", "ünïcödé", "control\x01\x1b", LONG, "-rf", "#?%41&+", "A", "a.b"}


@pytest.fixture(scope="module")
def shown(s3, s3_client, tmp_path_factory):
    """A mount for all points that only look; its names are trusted for the default time."""
    bucket = "semantics"
    s3_client.create_bucket(Bucket=bucket)

    def put(key, body=b"1", **rest):
        s3_client.put_object(Bucket=bucket, Key=key, Body=body, **rest)

    for key in HIDDEN | {f"any/{name}" for name in ANY}:
        put(key)
    for form in ("NFC", "NFD"):
        put("exact/" + unicodedata.normalize(form, "é"), form.encode())
    put("exact/A")
    put("exact/a")
    put("both", b"hidden by the directory")
    put("both/inside")
    put("markers/empty/", b"")
    put("markers/full/", b"")
    put("markers/full/file")
    put("deep/er/file", os.urandom(3 * MIB + 5), StorageClass="STANDARD_IA")
    put("links/link", b"", Metadata={"--symlink-target": "../deep/er/file"})
    put("links/away", b"", Metadata={"--symlink-target": "/no/where%25"})
    directory = tmp_path_factory.mktemp("semantics")
    (directory / "mnt").mkdir()
    flags = [f"--cache-dir={directory / 'cache'}", "--block-size=1MiB", "--memory-limit=64MiB"]
    with mounted(f"s3://{bucket}", directory / "mnt", s3.env(), *flags) as mount:
        yield mount


def body_of(s3_client, key):
    return s3_client.get_object(Bucket="semantics", Key=key)["Body"].read()


def answer(python, code, path):
    """Run *code* in a child that has ``path``; return what it printed as JSON."""
    return json.loads(python(code, path))


def errno_of(python, call, path):
    code = (
        f"try: {call}\nexcept OSError as exc: print(json.dumps(errno.errorcode[exc.errno]))\nelse: print(json.dumps(0))"
    )
    return answer(python, code, path)


NAMES = "print(json.dumps(sorted(os.listdir(path))))"


# -- sources -----------------------------------------------------------------------------------------------------


@pytest.mark.claim("source-forms", "source-environment")
def test_sources(shown):
    def names(*source, **environment):
        out = run_command("ls", "--json", *source, env={**shown.env, **environment}).check().output
        return [row["name"] for row in json.loads(out)]

    for source in ("s3://semantics/both", "t3://semantics/both/", "semantics/both", "semantics:both"):
        assert names(source) == ["inside"]
    for variable in ("BUCKET_NAME", "TIGRIS_STORAGE_BUCKET", "MODEL_BUCKET_NAME"):
        assert names(**{variable: "semantics/both"}) == ["inside"]
    assert names(BUCKET_NAME="semantics/both", MODEL_BUCKET_NAME="semantics") == ["inside"]


@pytest.mark.claim("source-buckets")
def test_all_buckets(bucket, mount, mountpoint, python):
    bucket.put("a/b", b"1")
    with mount("s3://", "--all-buckets"):
        assert bucket.name in answer(python, NAMES, mountpoint)
        assert answer(python, NAMES, mountpoint / bucket.name / "a") == ["b"]


@pytest.mark.claim("source-empty")
def test_an_empty_prefix(shown, mount):
    refused = mount.run("mount", "s3://semantics/nothing", str(mount.mountpoint))
    assert refused.status == 3
    assert "nothing lies under the prefix" in refused.errors


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.claim("names-directories", "names-markers", "names-directory-wins", "names-hidden")
def test_names(shown, python):
    assert answer(python, NAMES, shown.path) == ["a", "any", "both", "deep", "esc\x1b[2J", "exact", "links", "markers"]
    assert answer(python, NAMES, f"{shown.path}/deep") == ["er"]
    assert answer(python, NAMES, f"{shown.path}/a") == []
    assert answer(python, NAMES, f"{shown.path}/both") == ["inside"]
    assert answer(python, NAMES, f"{shown.path}/markers") == ["empty", "full"]
    assert answer(python, NAMES, f"{shown.path}/markers/empty") == []
    assert answer(python, NAMES, f"{shown.path}/markers/full") == ["file"]


@pytest.mark.claim("names-hidden-listed")
def test_hidden_keys_are_listed_and_counted(shown, python):
    for directory in ("", "a", "any", "exact"):
        python(NAMES, f"{shown.path}/{directory}")
    rows = json.loads(run_command("ls", "s3://semantics", "--hidden", "--json", env=shown.env).check().output)
    assert {row["key"] for row in rows} == HIDDEN | {"both"}
    lines = run_command("ls", "s3://semantics", "--hidden", env=shown.env).check().output
    assert "\x1b" not in lines
    assert r"esc\x1b[2J//e" in lines
    names = shown.status()["names"]
    assert names["hidden_keys"] == 4, "a name above 255 bytes in the root, and three in a"
    assert names["shadowed_keys"] == 1


@pytest.mark.claim("names-any", "names-exact", "names-long")
def test_odd_names(shown, python):
    assert set(answer(python, NAMES, f"{shown.path}/any")) == ANY
    read = "print(json.dumps({name: open(os.path.join(path, name)).read() for name in os.listdir(path)}))"
    assert set(answer(python, read, f"{shown.path}/any").values()) == {"1"}
    exact = answer(python, read, f"{shown.path}/exact")
    assert exact == {"A": "1", "a": "1", "é": "NFC", unicodedata.normalize("NFD", "é"): "NFD"}
    assert errno_of(python, "os.stat(path)", f"{shown.path}/{LONG}n") == "ENAMETOOLONG"


@pytest.mark.claim("names-links", "names-links-target")
def test_links(shown, python, s3_client):
    links = "print(json.dumps({name: os.readlink(os.path.join(path, name)) for name in os.listdir(path)}))"
    assert answer(python, links, f"{shown.path}/links") == {"link": "../deep/er/file", "away": "/no/where%"}
    size = "print(json.dumps(len(open(path, 'rb').read())))"
    assert answer(python, size, f"{shown.path}/links/link") == len(body_of(s3_client, "deep/er/file"))


# -- attributes --------------------------------------------------------------------------------------------------

STAT = """
facts = os.lstat(path)
print(json.dumps({name: getattr(facts, name) for name in dir(facts) if name.startswith("st_")}))
"""


@pytest.mark.claim("attr-mode", "attr-owner", "attr-size", "attr-mtime", "attr-blocks")
def test_attributes(shown, python, s3_client):
    file, link, directory = (answer(python, STAT, f"{shown.path}/{p}") for p in ("deep/er/file", "links/link", "deep"))
    assert [facts["st_mode"] for facts in (file, link, directory)] == [0o100444, 0o120777, 0o040555]
    assert [facts["st_size"] for facts in (file, link, directory)] == [3 * MIB + 5, len("../deep/er/file"), 0]
    modified = s3_client.head_object(Bucket="semantics", Key="deep/er/file")["LastModified"].timestamp()
    assert {int(file[name]) for name in ("st_mtime", "st_atime", "st_ctime")} == {int(modified)}
    assert directory["st_mtime"] == 0
    for facts in (file, link, directory):
        assert (facts["st_uid"], facts["st_gid"]) == (os.geteuid(), os.getegid())
        assert (facts["st_blksize"], facts["st_nlink"]) == (4096, 1)
        assert facts["st_blocks"] * 512 >= facts["st_size"]


@pytest.mark.claim("attr-mode", "attr-owner", "attr-inode")
def test_modes_and_owners_are_options_and_inode_numbers_stay(shown, python, mount, mountpoint):
    flags = ["--file-mode=0400", "--dir-mode=0500", "--uid=12", "--gid=34"]
    with mount("s3://semantics", *flags):
        there = {p: answer(python, STAT, mountpoint / p) for p in ("deep/er/file", "links/link", "deep")}
    here = {p: answer(python, STAT, f"{shown.path}/{p}") for p in there}
    assert [facts["st_mode"] for facts in there.values()] == [0o100400, 0o120777, 0o040500]
    assert {(facts["st_uid"], facts["st_gid"]) for facts in there.values()} == {(12, 34)}
    assert [facts["st_ino"] for facts in there.values()] == [facts["st_ino"] for facts in here.values()]


@pytest.mark.claim("attr-statfs", "attr-mount-table")
def test_the_filesystem_as_a_whole(shown, python, s3):
    s3.reset_requests()
    space = answer(python, "print(json.dumps(tuple(os.statvfs(path))[2:8]))", shown.path)
    assert space == [0] * 6
    assert s3.requests() == []
    line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {shown.path} " in line)
    assert " - fuse.tigrismount s3://semantics " in line
    assert s3.secret_key not in line


@pytest.mark.claim("attr-xattrs", "attr-xattrs-cost")
def test_extended_attributes(shown, python, s3, s3_client):
    python("os.stat(path)", f"{shown.path}/deep/er/file")
    s3.reset_requests()
    code = "print(json.dumps({name: os.getxattr(path, name).decode() for name in os.listxattr(path)}))"
    found = answer(python, code, f"{shown.path}/deep/er/file")
    etag = s3_client.head_object(Bucket="semantics", Key="deep/er/file")["ETag"].strip('"')
    assert found["user.tigris.etag"] == etag
    assert found["user.tigris.storage_class"] == "STANDARD_IA"
    assert 0 <= int(found["user.tigris.cached_bytes"]) <= 3 * MIB + 5
    assert errno_of(python, "os.getxattr(path, 'user.tigris.sha256')", f"{shown.path}/deep/er/file") == "ENODATA"
    assert errno_of(python, "os.getxattr(path, 'user.tigris.etag')", f"{shown.path}/deep") == "ENODATA"
    assert errno_of(python, "os.getxattr(path, 'trusted.any')", f"{shown.path}/deep/er/file") in UNSUPPORTED
    assert answer(python, "print(json.dumps(os.listxattr(path)))", f"{shown.path}/deep") == []
    assert [request.operation for request in s3.requests()] == ["HeadObject"], "the test's own"


# -- operations --------------------------------------------------------------------------------------------------

READS = """
import fcntl, mmap
size = os.path.getsize(path)
found = {}
with open(path, "rb") as file:
    found["read"] = hashlib.sha256(file.read()).hexdigest()
    found["end"] = [file.read(1), os.pread(file.fileno(), 10, size - 3), os.pread(file.fileno(), 10, size + 3)]
    found["end"] = [len(data) for data in found["end"]]
    os.lseek(file.fileno(), 1 << 20, os.SEEK_SET)
    buffers = [bytearray(1000), bytearray(1 << 20)]
    found["readv"] = os.readv(file.fileno(), buffers)
    found["pread"] = len(os.pread(file.fileno(), (1 << 20) + 7, 17))
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.lockf(file, fcntl.LOCK_SH)
    for name in ("MAP_PRIVATE", "MAP_SHARED"):
        with mmap.mmap(file.fileno(), 0, getattr(mmap, name), mmap.PROT_READ) as mapped:
            found[name] = hashlib.sha256(mapped[:]).hexdigest()
fd, buffer, whole = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 1 << 20), hashlib.sha256()
while count := os.readv(fd, [buffer]):
    whole.update(buffer[:count])
found["direct"] = whole.hexdigest()
print(json.dumps(found))
"""


@pytest.mark.claim("op-read", "op-short", "op-direct", "op-mmap", "op-locks")
def test_reading(shown, python, s3_client):
    body = body_of(s3_client, "deep/er/file")
    whole = hashlib.sha256(body).hexdigest()
    found = answer(python, READS, f"{shown.path}/deep/er/file")
    assert found == {
        "read": whole,
        "end": [0, 3, 0],
        "readv": 1000 + (1 << 20),
        "pread": (1 << 20) + 7,
        "MAP_PRIVATE": whole,
        "MAP_SHARED": whole,
        "direct": whole,
    }


@pytest.mark.claim("op-open")
def test_opening(shown, python, s3):
    python("os.stat(path)", f"{shown.path}/deep/er/file")
    s3.reset_requests()
    python("for _ in range(20): os.close(os.open(path, os.O_RDONLY))", f"{shown.path}/deep/er/file")
    assert s3.requests() == []


@pytest.mark.claim("op-write")
@pytest.mark.parametrize(
    "call",
    [
        "open(path, 'r+b')",
        "open(path + 'new', 'wb')",
        "os.truncate(path, 0)",
        "os.unlink(path)",
        "os.rename(path, path + 'x')",
        "os.mkdir(path + 'x')",
        "os.symlink('x', path + 'x')",
        "os.chmod(path, 0o600)",
        "os.utime(path)",
        "os.setxattr(path, 'user.x', b'1')",
    ],
)
def test_writing(shown, python, call):
    assert errno_of(python, call, f"{shown.path}/deep/er/file") == "EROFS"


# -- versions and freshness --------------------------------------------------------------------------------------


@pytest.mark.claim("fresh-names", "fresh-listed")
def test_what_is_known_is_not_asked_for_again(bucket, mount, mountpoint, python, s3):
    for name in ("a", "b", "c"):
        bucket.put(f"d/{name}", b"1")
    with mount(f"s3://{bucket.name}"):
        python(NAMES, mountpoint / "d")
        s3.reset_requests()
        again = "for entry in os.scandir(path): entry.stat()\ntry: os.stat(path + '/nowhere')\nexcept OSError: pass"
        python(again, mountpoint / "d")
        python(again, mountpoint / "d")
        assert s3.requests() == []


@pytest.mark.claim("fresh-look-up")
def test_a_look_up_costs_two_requests_however_many_ask(bucket, mount, mountpoint, s3):
    bucket.put("d/file", b"1")
    with mount(f"s3://{bucket.name}"):
        s3.inject(FaultRule(match="/d/file", action="delay", delay_s=0.5, count=-1))
        s3.reset_requests()
        path = str(mountpoint / "d/file")
        stats = [subprocess.Popen(["stat", path], stdout=subprocess.DEVNULL) for _ in range(8)]
        assert [process.wait(60) for process in stats] == [0] * 8
        asked = [(request.operation, request.key) for request in s3.requests()]
        lists = [request.query for request in s3.requests("ListObjectsV2")]
    assert sorted(asked) == [("HeadObject", "d/file"), ("ListObjectsV2", "")], "d itself was seen when it was mounted"
    assert "max-keys=1&" in lists[0] + "&"


@pytest.mark.claim("fresh-many")
def test_from_the_third_name_on_a_listing_answers(bucket, mount, mountpoint, python, s3):
    for number in range(30):
        bucket.put(f"d/{number:02}", b"1")
    exists = "print(json.dumps(os.path.exists(path)))"
    with mount(f"s3://{bucket.name}") as mounted_here:
        for number in range(3):
            assert answer(python, exists, mountpoint / f"d/{number:02}") is True
        assert wait_until(lambda: mounted_here.status()["names"]["listed_names"] > 30)  # and d
        s3.reset_requests()
        for number in range(3, 30):
            assert answer(python, exists, mountpoint / f"d/{number:02}") is True
        assert answer(python, exists, mountpoint / "d/30") is False
        assert s3.requests() == []


@pytest.mark.claim("fresh-missing")
def test_what_is_missing_is_seen_once_the_negative_ttl_is_over(bucket, mount, mountpoint, python):
    bucket.put("d/other", b"1")
    exists = "print(json.dumps(os.path.exists(path)))"
    with mount(f"s3://{bucket.name}", "--negative-ttl=1h"):
        assert answer(python, exists, mountpoint / "d/file") is False
        bucket.put("d/file", b"1")
        assert answer(python, exists, mountpoint / "d/file") is False
    with mount(f"s3://{bucket.name}", "--negative-ttl=0"):
        assert answer(python, exists, mountpoint / "d/late") is False
        bucket.put("d/late", b"1")
        assert answer(python, exists, mountpoint / "d/late") is True


_HOLDER = """
import errno, hashlib, json, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
first = os.pread(fd, 4096, 0)
print("open", flush=True)
sys.stdin.readline()
found = {"ino": os.fstat(fd).st_ino, "first": hashlib.sha256(first).hexdigest()}
for name, start in (("cached", 0), ("beyond", 20 << 20)):
    try: found[name] = hashlib.sha256(os.pread(fd, 4096, start)).hexdigest()
    except OSError as exc: found[name] = errno.errorcode[exc.errno]
print(json.dumps(found))
"""


@pytest.mark.claim("fresh-overwrite", "fresh-delete", "fresh-open", "fresh-versions", "fresh-if-match")
@pytest.mark.parametrize("kept", [False, True], ids=["gone", "kept"])
@pytest.mark.parametrize("change", ["overwrite", "delete"])
def test_a_file_that_changes_while_it_is_open(bucket, mount, mountpoint, python, noise, s3, change, kept):
    old, new = noise(24 * MIB, 1), noise(24 * MIB, 2)
    if kept:
        bucket.keep_versions()
    etag = bucket.put("file", old)
    bucket.put("other", b"1")
    flags = ["--metadata-ttl=0", "--negative-ttl=0", "--prefetch=off", "--kernel-read-ahead=0"]
    with mount(f"s3://{bucket.name}", *flags) as mounted:
        s3.reset_requests()
        command = [sys.executable, "-c", _HOLDER, f"{mounted.path}/file"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            try:
                assert holder.stdout.readline() == "open\n"
                if change == "overwrite":
                    bucket.put("file", new)
                else:
                    bucket.client.delete_object(Bucket=bucket.name, Key="file")
                found = json.loads(holder.communicate("go\n", timeout=60)[0])
            finally:
                holder.kill()
        if change == "overwrite":
            assert answer(python, STAT, mountpoint / "file")["st_ino"] != found["ino"]
            code = "print(json.dumps(hashlib.sha256(open(path, 'rb').read()).hexdigest()))"
            assert answer(python, code, mountpoint / "file") == hashlib.sha256(new).hexdigest()
        else:
            assert errno_of(python, "os.stat(path)", mountpoint / "file") == "ENOENT"
    assert found["first"] == found["cached"] == hashlib.sha256(old[:4096]).hexdigest()
    beyond = 20 * MIB
    assert found["beyond"] == (hashlib.sha256(old[beyond : beyond + 4096]).hexdigest() if kept else "ESTALE")
    conditions = [request.if_match for request in s3.requests("GetObject", key="file")]
    assert f'"{etag}"' in conditions
    assert ("" in conditions) is kept, "none is without a condition but those for a version's id"


@pytest.mark.claim("fresh-weak")
@pytest.mark.parametrize("etag", ["", 'W/"1"'])
async def test_objects_without_a_strong_etag_are_not_kept(tmp_path, etag):
    config = DiskCacheConfig(directory=str(tmp_path / "cache"), size_bytes=1 << 30, block_bytes=MIB)
    cache = await DiskBlockCache.open(config, store_id="tigris")
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        version = await cache.open_object(ObjectId("bucket", "key", etag, 10))
        assert await version.write_block(0, memoryview(bytearray(4096)), 10) is False
        assert version.count() == 0
        nursery.cancel_scope.cancel()
    await cache.aclose()


# -- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.claim("fail-timeout")
def test_a_read_fails_when_its_time_is_over(bucket, mount, mountpoint, python, s3):
    bucket.put("file", b"x" * 1000)
    with mount(f"s3://{bucket.name}", "--request-timeout=2s"):
        python("os.stat(path)", mountpoint / "file")
        s3.inject(FaultRule(match="GET /.*/file", action="status", status=500, code="InternalError", count=-1))
        assert errno_of(python, "open(path, 'rb').read()", mountpoint / "file") == "EIO"
        s3.inject()
        assert answer(python, "print(json.dumps(len(open(path, 'rb').read())))", mountpoint / "file") == 1000


@pytest.mark.claim("fail-archived")
def test_an_archived_file_is_read_once_it_was_restored(bucket, mount, mountpoint):
    """As the error tells people to do; its class stays what it was."""
    bucket.put("cold", b"weights", StorageClass="GLACIER")
    with mount(f"s3://{bucket.name}"):
        assert "Permission denied" in run_child("cat", str(mountpoint / "cold")).errors
        bucket.client.restore_object(Bucket=bucket.name, Key="cold", RestoreRequest={"Days": 1})
        assert run_child("cat", str(mountpoint / "cold")).check().output == "weights"
