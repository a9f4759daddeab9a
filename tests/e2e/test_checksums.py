"""Known checksums of whole objects: shown where they match, an error where they do not, never in a reader's way."""

from __future__ import annotations

import base64
import hashlib
import json
import os

import pytest

from tigrismount.demo.command import wait_until

MIB = 1 << 20
SIZE = 33 * MIB
"""Just above what is verified without being asked for."""

_READ = """
try:
    with open(path, "rb") as file: print(hashlib.file_digest(file, "sha256").hexdigest())
except OSError as exc: print(errno.errorcode[exc.errno])
"""
_XATTR = "print(dict((n, os.getxattr(path, n).decode()) for n in os.listxattr(path)).get('user.tigris.sha256'))"


@pytest.fixture
def model(bucket, noise):
    """A large file, and its SHA-256."""
    data = noise(SIZE, 1)
    bucket.put("m/model.gguf", data)
    return hashlib.sha256(data).hexdigest()


def test_a_file_that_matches_its_manifest_says_so(mount, bucket, python, model):
    bucket.put("m/SHA256SUMS", f"{model}  model.gguf\n".encode())
    with mount(f"s3://{bucket.name}/m") as mounted:
        assert python(_READ, f"{mounted.path}/model.gguf").strip() == model
        assert wait_until(lambda: mounted.status()["checksums"]["verified"] == 1)
        assert python(_XATTR, f"{mounted.path}/model.gguf").strip() == model
        assert "1 verified" in mount.run("status", mounted.path).output
    with mount(f"s3://{bucket.name}/m") as mounted:
        assert python(_XATTR, f"{mounted.path}/model.gguf").strip() == model


def test_a_file_that_does_not_match_is_an_error_until_somebody_looks_again(mount, bucket, python, model, tmp_path):
    bucket.put("m/model.gguf.sha256", hashlib.sha256(b"another").hexdigest().encode())
    log = tmp_path / "log"
    with mount(f"s3://{bucket.name}/m", f"--log-file={log}") as mounted:
        assert python(_READ, f"{mounted.path}/model.gguf").strip() == model
        assert wait_until(lambda: mounted.status()["checksums"]["mismatched"] == 1)
        assert python(_READ, f"{mounted.path}/model.gguf").strip() == "EIO"
        assert "m/model.gguf.sha256 says" in log.read_text()
        assert mounted.status()["checksums"]["refused"] == [f"s3://{bucket.name}/m/model.gguf"]
        warm = mount.run("warm", mounted.path)
        assert warm.status == 1
        assert "'tigrismount warm --check' on it" in warm.errors

    with mount(f"s3://{bucket.name}/m", "--verify=off") as mounted:
        assert python(_READ, f"{mounted.path}/model.gguf").strip() == model
    with mount(f"s3://{bucket.name}/m") as mounted:
        assert python(_READ, f"{mounted.path}/model.gguf").strip() == "EIO"
        bucket.put("m/model.gguf.sha256", model.encode())
        mount.run("warm", "--check", f"{mounted.path}/model.gguf").check()
        assert python(_READ, f"{mounted.path}/model.gguf").strip() == model


def test_the_stores_own_checksum_is_used_and_wrong_bytes_are_not_warmed_in_silence(mount, bucket, noise):
    data = noise(MIB, 2)
    for key, body in (("m/good", data), ("m/bad", b"another")):
        digest = hashlib.sha256(body).hexdigest()
        bucket.put(key, data, Metadata={"sha256": digest})
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    bucket.put("m/stored", data, ChecksumSHA256=digest)
    mount.run("warm", f"s3://{bucket.name}/m", *mount.flags).check()
    checked = mount.run("warm", "--check", "--json", f"s3://{bucket.name}/m", *mount.flags)
    assert checked.status == 1
    report = json.loads(checked.output)
    (failure,) = report["runs"][0]["failures"]
    assert failure["what"] == f"s3://{bucket.name}/m/bad"
    assert "the store's own record says" in failure["reason"]
    assert os.path.isdir(mount.cache_dir)
