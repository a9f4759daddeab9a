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

        assert mount.run("refresh", str(mountpoint / "d")).check().output == ""
        assert json.loads(python(NAMES, mountpoint / "d")) == ["changed", "new"]
        assert run_child("cat", str(mountpoint / "d/changed")).check().output == "newer"
        assert run_child("stat", "-c", "%i", str(mountpoint / "d/changed")).check().output != before

        bucket.put("other", b"newest")
        mount.run("refresh", str(mountpoint)).check()
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


def test_no_read_mixes_two_versions_while_it_is_overwritten_and_refreshed(bucket, mount, mountpoint, noise):
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


def test_a_path_under_no_mount_is_not_found(mount, tmp_path):
    refused = mount.run("refresh", str(tmp_path))
    assert refused.status == 3
    assert "is not under a mount" in refused.errors
