"""Known checksums of whole objects: shown where they match, an error where they do not, never in a reader's way."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.testing.fault_proxy import FaultProxy
from tigrismount.testing.spoiling import TroubleRule

MIB = 1 << 20
SIZE = 33 * MIB
"""Just above what is verified without being asked for."""

_READ = """
try:
    with open(path, "rb") as file: print(hashlib.file_digest(file, "sha256").hexdigest())
except OSError as exc: print(errno.errorcode[exc.errno])
"""
_HOLD = """
import hashlib, mmap, os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
print(hashlib.sha256(mapped).hexdigest(), flush=True)
for line in sys.stdin:
    try: print(len(os.pread(file.fileno(), 4096, 8192)), flush=True)
    except OSError as exc: print(exc.errno, flush=True)
    if line == "touch\\n": mapped[12345]
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
        # What is fetched ahead may be whole, and compared, before a slow reader is through.
        assert python(_READ, f"{mounted.path}/model.gguf").strip() in (model, "EIO")
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


def test_a_checksum_in_the_metadata_is_used_and_wrong_bytes_are_not_warmed_in_silence(mount, bucket, noise):
    data = noise(MIB, 2)
    for key, body in (("m/good", data), ("m/bad", b"another")):
        digest = hashlib.sha256(body).hexdigest()
        bucket.put(key, data, Metadata={"sha256": digest})
    mount.run("warm", f"s3://{bucket.name}/m", *mount.flags).check()
    checked = mount.run("warm", "--check", "--json", f"s3://{bucket.name}/m", *mount.flags)
    assert checked.status == 1
    report = json.loads(checked.output)
    (failure,) = report["runs"][0]["failures"]
    assert failure["what"] == f"s3://{bucket.name}/m/bad"
    assert "the store's own record says" in failure["reason"]
    assert os.path.isdir(mount.cache_dir)


@pytest.mark.parametrize("trouble", ["flip", pytest.param("twice", marks=pytest.mark.slow)])
def test_what_nobody_on_the_way_could_tell_is_found_and_can_be_fetched_again(mount, bucket, s3, python, model, trouble):
    """Over plain HTTP a bit can flip, or a body begin again: only the whole object's checksum tells. No remount."""
    bucket.put("m/model.gguf.sha256", model.encode())
    with FaultProxy(s3.endpoint_url) as proxy:
        flawed = replace(mount, env={**mount.env, "AWS_ENDPOINT_URL_S3": proxy.url})
        with flawed(f"s3://{bucket.name}/m") as mounted:
            path = f"{mounted.path}/model.gguf"
            proxy.inject(TroubleRule(match="GET .*/model.gguf$", trouble=trouble, skip=3))
            assert python(_READ, path).strip() != model  # EIO where its reader is slower than what is fetched ahead
            assert proxy.hits == 1
            assert wait_until(lambda: mounted.status()["checksums"]["mismatched"] == 1)
            assert python(_READ, path).strip() == "EIO"
            flawed.run("cache", "evict", f"s3://{bucket.name}/m/model.gguf", f"--cache-dir={mount.cache_dir}").check()
            assert wait_until(lambda: flawed.run("warm", path).status == 0)
            assert python(_READ, path).strip() == model


def test_pages_in_the_kernel_are_no_way_to_read_on_a_file_that_was_refused(mount, bucket, model):
    """Mutation: without the withdrawal the descriptor and the mapping give wrong bytes for as long as pages stay."""
    with mount(f"s3://{bucket.name}/m") as mounted:
        command = [sys.executable, "-c", _HOLD, f"{mounted.path}/model.gguf"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdin is not None
            assert reader.stdout is not None

            def read(line: str = "") -> str:
                print(line, file=reader.stdin, flush=True)
                return reader.stdout.readline().strip()

            assert reader.stdout.readline().strip() == model
            assert wait_until(lambda: mounted.status()["checksums"]["unknown"] == 1)
            assert read() == "4096"
            bucket.put("m/model.gguf.sha256", hashlib.sha256(b"another").hexdigest().encode())
            assert mount.run("warm", "--check", f"{mounted.path}/model.gguf").status == 1
            assert wait_until(lambda: read() == str(errno.EIO))
            read("touch")
            assert reader.wait(30) == -signal.SIGBUS


def test_the_checksums_that_s3_keeps_are_compared(mount, bucket):
    """Mutation: an algorithm that cannot be computed is none, and its wrong object passes."""
    known = {  # the catalogue's check values
        "SHA256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
        "SHA1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
        "CRC32": "cbf43926",
        "CRC32C": "e3069283",
        "CRC64NVME": "ae8b14860a799888",
    }
    for name, value in known.items():
        checksum = {"ChecksumAlgorithm": name, f"Checksum{name}": base64.b64encode(bytes.fromhex(value)).decode()}
        bucket.put(f"m/good-{name}", b"123456789", **checksum)
        bucket.put(f"m/bad-{name}", b"123456780", **checksum)
    mount.run("warm", f"s3://{bucket.name}/m", *mount.flags).check()
    checked = mount.run("warm", "--check", "--json", f"s3://{bucket.name}/m", *mount.flags)
    assert checked.status == 1
    failures = {failure["what"]: failure["reason"] for failure in json.loads(checked.output)["runs"][0]["failures"]}
    assert failures.keys() == {f"s3://{bucket.name}/m/bad-{name}" for name in known}
    assert all(f"its {name.lower()} is" in failures[f"s3://{bucket.name}/m/bad-{name}"] for name in known)
