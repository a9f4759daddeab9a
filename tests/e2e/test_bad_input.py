"""Whatever is wrong at mount: exit status 1 or 2, one line that says what to do, nothing mounted, nothing running."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from tigrismount.demo.command import run_child
from tigrismount.testing.mount import is_mounted, marked_processes


@pytest.fixture
def source(bucket):
    bucket.put("models/file", b"bytes")
    return f"s3://{bucket.name}"


@pytest.fixture
def refused(mount):
    """Try to mount, and return what was said: ``refused(status, *arguments, **environment)``."""

    def run(status, *arguments, mountpoint=None, **changes):
        at = str(mount.mountpoint if mountpoint is None else mountpoint)
        finished = mount.run("mount", *arguments[:1], at, *mount.flags, *arguments[1:], **changes)
        assert (finished.status, finished.output) == (status, ""), finished.errors
        lines = finished.errors.splitlines()
        assert len(lines) == 1, finished.errors
        assert lines[0].startswith("tigrismount: ")
        assert not is_mounted(at)
        mark = f"_TIGRISMOUNT_TEST={mount.env['_TIGRISMOUNT_TEST']}"
        assert marked_processes(mark) == []
        return lines[0]

    return run


@pytest.mark.parametrize("malformed", ["s3://", "s3:///models", "ftp://bucket", "s3://UPPER_case!", "http://x/y", ""])
def test_a_malformed_source(refused, malformed):
    assert "s3://" in refused(2, malformed)


def test_a_bucket_that_is_not_there(refused):
    assert "no-such-bucket" in refused(3, "s3://no-such-bucket")


def test_a_prefix_that_holds_nothing(refused, source):
    assert "nothing-here" in refused(3, f"{source}/nothing-here")


def test_a_wrong_secret(refused, source):
    line = refused(1, source, AWS_SECRET_ACCESS_KEY="wrong")

    assert "AWS_ACCESS_KEY_ID" in line


def test_an_unknown_key(refused, source):
    refused(1, source, AWS_ACCESS_KEY_ID="AKIAUNKNOWN")


def test_no_keys(refused, source, tmp_path):
    line = refused(1, source, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="", HOME=str(tmp_path))

    assert "credentials" in line


def test_half_a_key(refused, source):
    assert "AWS_SECRET_ACCESS_KEY" in refused(2, source, AWS_SECRET_ACCESS_KEY="")


def test_a_dead_endpoint(refused, source):
    line = refused(1, source, "--request-timeout=2s", AWS_ENDPOINT_URL_S3="http://127.0.0.1:9")

    assert "127.0.0.1:9" in line


def test_an_endpoint_without_a_name(refused, source):
    line = refused(1, source, "--request-timeout=2s", AWS_ENDPOINT_URL_S3="http://nowhere.invalid")

    assert "nowhere.invalid" in line


def test_an_endpoint_that_is_no_url(refused, source):
    refused(2, source, AWS_ENDPOINT_URL_S3="127.0.0.1:9000")


def test_an_endpoint_that_is_no_s3(refused, source, s3):
    line = refused(1, source, "--request-timeout=2s", AWS_ENDPOINT_URL_S3=f"{s3.endpoint_url}/_tigrismount/")

    assert "answers 404, and not as S3 does: check --endpoint-url" in line


def test_a_mountpoint_that_is_not_there(refused, source, tmp_path):
    assert "mkdir" in refused(1, source, mountpoint=tmp_path / "nowhere")


def test_a_mountpoint_that_is_a_file(refused, source, tmp_path):
    (tmp_path / "file").write_text("x")

    assert "not a directory" in refused(1, source, mountpoint=tmp_path / "file")


def test_a_mountpoint_that_is_not_empty(refused, source, mount):
    (mount.mountpoint / "file").write_text("x")

    assert "not empty" in refused(1, source)


def test_a_mountpoint_that_is_mounted_already(mount, source):
    with mount(source) as mounted:
        second = mount.run("mount", source, mounted.path, *mount.flags)

        assert second.status == 1
        assert len(second.errors.splitlines()) == 1
        assert "already" in second.errors
        assert os.path.ismount(mounted.path)


def test_a_cache_directory_that_cannot_be_made(refused, source, tmp_path):
    (tmp_path / "file").write_text("x")

    assert "file" in refused(2, source, "--cache-dir=off", f"--cache-dir={tmp_path / 'file' / 'cache'}")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a filesystem that cannot be written")
def test_a_cache_directory_that_cannot_be_written(refused, source, tmp_path):
    (tmp_path / "ro").mkdir()
    run_child("mount", "-t", "tmpfs", "-o", "ro", "none", str(tmp_path / "ro")).check()
    try:
        assert "ro" in refused(2, source, "--cache-dir=off", f"--cache-dir={tmp_path / 'ro'}")
    finally:
        run_child("umount", str(tmp_path / "ro")).check()


@pytest.mark.parametrize(
    "flag",
    ["--no-such-flag", "--block-size=3MiB", "--memory-limit=lots", "--cache-size=-1", "--concurrency=0", "--verify=so"],
)
def test_a_flag_that_makes_no_sense(refused, source, flag):
    assert flag.split("=")[0].lstrip("-") in refused(2, source, flag)


def test_a_configuration_file_that_is_not_there(refused, source, tmp_path):
    assert "nowhere.toml" in refused(2, source, f"--config={tmp_path / 'nowhere.toml'}")


def test_a_configuration_file_that_is_not_toml(refused, source, tmp_path):
    (tmp_path / "bad.toml").write_text("cache_size = = 1")

    assert "bad.toml" in refused(2, source, f"--config={tmp_path / 'bad.toml'}")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare(1)")
def test_a_machine_without_dev_fuse(mount, source):
    script = (
        "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && chmod 666 /dev/null && "
        'exec "$@"'
    )
    command = [sys.executable, "-m", "tigrismount", "mount", source, str(mount.mountpoint), *mount.flags]
    finished = run_child("unshare", "-m", "sh", "-c", script, "sh", *command, env=mount.env)

    assert finished.status == 1, finished.errors
    assert len(finished.errors.splitlines()) == 1
    assert "/dev/fuse" in finished.errors
