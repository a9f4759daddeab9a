"""Links, extended attributes and all buckets, through a real mount."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tigrismount.demo.command import run_child
from tigrismount.demo.faults import FaultRule

WALK = "print(json.dumps(sorted(os.listdir(path))))"


def test_a_hugging_face_hub_cache_of_links_loads(bucket, mount, mountpoint, python, noise):
    """``snapshots/`` is links into ``blobs/``, which is how the hub's own cache lies on a disk."""
    repo, commit = "models--org--tiny", "c0ffee" * 6 + "beef"
    header = json.dumps({"w": {"dtype": "F32", "shape": [1024], "data_offsets": [0, 4096]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + noise(4096, 3)
    files = {"config.json": b'{"model_type": "tiny"}', "model.safetensors": weights}
    bucket.put(f"{repo}/refs/main", commit.encode())
    for name, body in files.items():
        blob = hashlib.sha256(body).hexdigest()
        bucket.put(f"{repo}/blobs/{blob}", body)
        link = {"--symlink-target": f"../../blobs/{blob}"}
        bucket.put(f"{repo}/snapshots/{commit}/{name}", b"", Metadata=link)
    code = """
snapshot = os.path.join(path, "snapshots", open(os.path.join(path, "refs", "main")).read())
assert sorted(os.listdir(snapshot)) == ["config.json", "model.safetensors"]
assert all(entry.is_symlink() and entry.is_file() for entry in os.scandir(snapshot))
assert os.readlink(os.path.join(snapshot, "config.json")).startswith("../../blobs/")
assert json.load(open(os.path.join(snapshot, "config.json")))["model_type"] == "tiny"
from safetensors import safe_open
with safe_open(os.path.join(snapshot, "model.safetensors"), "numpy") as file:
    print(hashlib.sha256(file.get_tensor("w").tobytes()).hexdigest())
"""
    with mount(f"s3://{bucket.name}"):
        found = python(code, mountpoint / repo)
    assert found.strip() == hashlib.sha256(noise(4096, 3)).hexdigest()


def test_a_links_target_is_the_buckets_word_and_nobody_here_follows_it(bucket, mount, mountpoint, python):
    targets = ["/etc/hostname", "../../..", "link", "no%25where", "x" * 300]
    for number, target in enumerate(targets):
        bucket.put(f"link{number}" if target != "link" else "link", b"", Metadata={"--symlink-target": target})
    bucket.put("file", b"1")
    code = """
links = {name: os.readlink(os.path.join(path, name)) for name in os.listdir(path) if name != "file"}
sizes = {name: os.lstat(os.path.join(path, name)).st_size for name in links}
assert sizes == {name: len(target) for name, target in links.items()}
try: os.stat(os.path.join(path, "link"))
except OSError as exc: assert exc.errno == errno.ELOOP, exc
else: assert False
try: os.readlink(os.path.join(path, "file"))
except OSError as exc: assert exc.errno == errno.EINVAL, exc
else: assert False
print(json.dumps(sorted(links.values())))
"""
    with mount(f"s3://{bucket.name}"):
        found = json.loads(python(code, mountpoint))
    assert found == sorted(target.replace("%25", "%") for target in targets)


def test_extended_attributes_tell_what_is_known_and_what_is_cached(bucket, mount, mountpoint, python, noise):
    body = noise(3 << 20, 1)
    etag = bucket.put("d/file", body, Metadata={"sha256": hashlib.sha256(body).hexdigest()})
    code = """
def show(): print(json.dumps({name: os.getxattr(path, name).decode() for name in sorted(os.listxattr(path))}))
show()
open(path, "rb").read()
import time
for _ in range(200):
    if os.getxattr(path, "user.tigris.cached_bytes") == b"%d" % os.path.getsize(path): break
    time.sleep(0.05)
show()
for name in ("user.tigris.version_id", "user.other", "security.capability"):
    expected = errno.ENODATA if name.startswith("user.") else errno.ENOTSUP
    try: os.getxattr(path, name)
    except OSError as exc: assert exc.errno == expected, exc
    else: assert False
try: os.setxattr(path, "user.tigris.etag", b"x")
except OSError as exc: assert exc.errno == errno.EROFS, exc
else: assert False
assert os.listxattr(os.path.dirname(path)) == []
"""
    with mount(f"s3://{bucket.name}"):
        cold, warm = map(json.loads, python(code, mountpoint / "d/file").splitlines())
    assert cold == {
        "user.tigris.cached_bytes": "0",
        "user.tigris.etag": etag,
        "user.tigris.sha256": hashlib.sha256(body).hexdigest(),
        "user.tigris.storage_class": "STANDARD",
    }
    assert warm == {**cold, "user.tigris.cached_bytes": str(len(body))}


def test_all_buckets_are_directories_of_the_root(bucket, s3_client, mount, mountpoint, python):
    bucket.put("models/a", b"data")
    s3_client.create_bucket(Bucket=f"{bucket.name}-empty")
    with mount("s3://", "--all-buckets") as mounted:
        names = json.loads(python(WALK, mountpoint))
        assert {bucket.name, f"{bucket.name}-empty"} <= set(names)
        assert run_child("cat", str(mountpoint / bucket.name / "models/a")).check().output == "data"
        assert json.loads(python(WALK, mountpoint / f"{bucket.name}-empty")) == []
        missing = "try: os.stat(path)\nexcept OSError as exc: print(exc.errno == errno.ENOENT)"
        assert python(missing, mountpoint / "no-such-bucket") == "True\n"
        assert mounted.status()["source"] == "s3://"


@pytest.mark.parametrize("flags", [(), ("--metadata-ttl=0",)], ids=["cached names", "no trust"])
def test_hidden_keys_are_counted_in_the_status(bucket, mount, mountpoint, python, flags):
    for key in ("a//b", "fine", "both", "both/inside"):
        bucket.put(key, b"1")
    with mount(f"s3://{bucket.name}", *flags) as mounted:
        assert json.loads(python(WALK, mountpoint)) == ["a", "both", "fine"]
        assert json.loads(python(WALK, mountpoint / "a")) == []
        names = mounted.status()["names"]
        shown = mount.run("status", str(mountpoint)).check().output
    assert (names["hidden_keys"], names["shadowed_keys"]) == (1, 1)
    assert "hidden keys" in shown
    assert "shadowed keys" in shown


@pytest.fixture
def huge(bucket):
    """A directory of two pages."""
    names = [f"{number:05}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: bucket.put(f"d/{name}", b"1"), names))
    return names


_FIRST = """
with os.scandir(path) as entries:
    print(next(entries).name, flush=True)
    sys.stdin.readline()
    print(json.dumps([entry.name for entry in entries]), flush=True)
"""


def test_the_first_names_appear_before_the_second_page_is_there_and_no_name_twice(bucket, mount, mountpoint, huge):
    """The second page waits until the test has seen the first name, and keys come and go meanwhile."""
    later = FaultRule(match="continuation-token", action="delay", delay_s=3.0, count=-1)
    with mount(f"s3://{bucket.name}", "--metadata-ttl=0"):
        bucket.s3.inject(later)
        bucket.s3.reset_requests()
        code = "import json, os, sys\npath = sys.argv[1]\n" + _FIRST
        command = [sys.executable, "-c", code, str(mountpoint / "d")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            try:
                first = reader.stdout.readline().strip()
                asked = bucket.s3.requests("ListObjectsV2")
                bucket.s3.inject()
                bucket.client.delete_object(Bucket=bucket.name, Key="d/00001")
                bucket.put("d/00000a", b"1")
                rest = json.loads(reader.communicate("go\n", timeout=60)[0])
            finally:
                reader.kill()
    assert not any("continuation-token" in request.query for request in asked)
    found = [first, *rest]
    assert len(set(found)) == len(found), "a name was shown twice"
    assert set(found) >= set(huge) - {"00001"}
    assert set(found) <= {*huge, "00000a"}


def test_tools_that_look_at_the_filesystem_are_content(bucket, mount, mountpoint):
    bucket.put("d/file", b"1")
    with mount(f"s3://{bucket.name}"):
        for command in ("df", "df -i", "stat -f", "du -s", "find", "ls -lR", "test -r"):
            finished = run_child(*command.split(), str(mountpoint))
            assert (finished.status, finished.errors) == (0, ""), command
