"""The image at work in containers: a sidecar, a mount that the machine sees, a filler of caches; and how they end."""

from __future__ import annotations

import hashlib
import os
import subprocess

import numpy as np
import pytest

from tigrismount.demo.command import run_child, wait_until

from .conftest import IMAGE, MODELS

pytestmark = [pytest.mark.image, pytest.mark.slow, pytest.mark.fuse]

BODY = np.random.Generator(np.random.PCG64(8)).bytes((24 << 20) + 17)
SUM = hashlib.sha256(BODY).hexdigest()
HARDENED = ("--read-only", "--tmpfs=/tmp", "--security-opt=no-new-privileges", "--cap-drop=ALL", "--pids-limit=256")
STOP_S = 2
"""podman kills what has not stopped by then, which leaves another exit status and, here, a mount."""


@pytest.fixture
def model(bucket):
    """A source with a file, and an address of it."""
    bucket.put("llama/weights", BODY)
    return f"s3://{bucket.name}/llama"


@pytest.fixture
def reader_flags(shared):
    """A container that only reads: it sees mounts that come later, and may do nothing."""
    return (*HARDENED, f"--volume={shared}:/shared:rslave", "--entrypoint=sleep")


def read_in(container) -> str:
    return container("sha256sum", "/shared/models/weights").split()[0]


def is_up(container) -> bool:
    return container.status_of("tigrismount", "health", MODELS) == 0


def wait_until_up(container) -> None:
    assert wait_until(lambda: is_up(container), timeout_s=30), container.log()


def test_a_sidecar_mounts_for_a_reader_that_was_there_before_it(image, shared, fuse_flags, keys, model, reader_flags):
    """Not root, read-only, and the one capability that fusermount3 needs."""
    flags = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--cap-add=SYS_ADMIN", *fuse_flags, keys)
    volume = f"--volume={shared}:/mnt/tigris:rshared"
    command = ("mount", "-f", model, MODELS, "--allow-other", "--cache-dir=/cache", "--memory-limit=64MiB")
    with (
        image.started(*reader_flags, "--", "600") as early,
        image.started(*flags, volume, "--volume=/cache", "--", *command) as sidecar,
    ):
        wait_until_up(sidecar)
        assert sidecar("id", "-u") == "10001"
        with image.started(*reader_flags, "--user=1234:1234", "--", "600") as late:
            assert [read_in(early), read_in(late)] == [SUM, SUM]
        assert sidecar.stop(STOP_S) == 0, sidecar.log()
        assert early("ls", "-A", "/shared/models") == ""


def test_a_mount_by_root_is_seen_by_the_machine_and_reads_ahead(image, shared, keys, model):
    """What --user=0 is for: the kernel reads ahead as far as the mount asks for."""
    flags = ("--user=0", "--device=/dev/fuse", "--cap-drop=ALL", "--cap-add=SYS_ADMIN", keys)
    volume = f"--volume={shared}:/mnt/tigris:rshared"
    with image.started(*flags, volume, "--", "mount", "-f", model, MODELS, "--memory-limit=64MiB") as container:
        wait_until_up(container)
        path = shared / "models" / "weights"
        assert run_child("sha256sum", str(path)).check().output.split()[0] == SUM
        device = run_child("stat", "-c", "%Hd:%Ld", str(path)).check().output.strip()
        with open(f"/sys/class/bdi/{device}/read_ahead_kb") as file:
            writable = "read_ahead_kb" not in container.log()
            assert (int(file.read()) > 128) is writable
        assert container.stop(STOP_S) == 0, container.log()
        assert not os.path.ismount(shared / "models")


def test_a_reader_that_has_a_file_open_does_not_keep_the_container_from_stopping(
    image, shared, fuse_flags, keys, model, reader_flags
):
    volume = f"--volume={shared}:/mnt/tigris:rshared"
    flags = ("--cap-drop=ALL", "--cap-add=SYS_ADMIN", *fuse_flags, keys, volume)
    command = ("mount", "-f", model, MODELS, "--allow-other", "--cache-dir=off", "--memory-limit=64MiB")
    with image.started(*reader_flags, "--", "600") as reader, image.started(*flags, "--", *command) as sidecar:
        wait_until_up(sidecar)
        holder = [
            "nsenter",
            "-t",
            str(reader.pid),
            "-m",
            "--",
            "sh",
            "-c",
            "exec 3</shared/models/weights; exec sleep 60",
        ]
        with subprocess.Popen(holder) as holding:
            try:
                fd = f"/proc/{holding.pid}/fd/3"
                assert wait_until(lambda: os.path.lexists(fd), timeout_s=30)
                assert sidecar.stop(STOP_S + 1) == 0, sidecar.log()  # a second of them is the grace for the reader
                assert reader("ls", "-A", "/shared/models") == ""
            finally:
                holding.kill()


def test_what_a_killed_container_leaves_is_replaced_by_the_next(image, shared, fuse_flags, keys, model, reader_flags):
    """The volume is the directory above: podman refuses to start on one that is a dead mount."""
    flags = ("--cap-drop=ALL", "--cap-add=SYS_ADMIN", *fuse_flags, keys, f"--volume={shared}:/mnt/tigris:rshared")
    command = ("mount", "-f", model, MODELS, "--allow-other", "--cache-dir=off", "--memory-limit=64MiB")
    with image.started(*reader_flags, "--", "600") as reader:
        with image.started(*flags, "--", *command) as sidecar:
            wait_until_up(sidecar)
            image("podman", "kill", sidecar.name)
            assert wait_until(lambda: run_child("stat", "-f", f"{shared}/models").status != 0, timeout_s=30)
        with image.started(*flags, "--", *command) as sidecar:
            wait_until_up(sidecar)
            assert read_in(reader) == SUM
            assert sidecar.stop(STOP_S) == 0, sidecar.log()


def test_an_init_container_fills_a_volume_with_no_privilege(image, keys, model, s3):
    """The next run on the same volume fetches nothing."""
    volume = "tigrismount-test-cache"
    arguments = (*HARDENED, "--rm", "--no-healthcheck", keys, f"--volume={volume}:/cache", IMAGE)
    try:
        for expected in (len(BODY), 0):
            s3.reset_requests()
            image("podman", "run", *arguments, "warm", model, "--cache-dir=/cache")
            assert s3.data_bytes() == expected
    finally:
        image.attempt("podman", "volume", "rm", "--force", volume)


def test_health_is_what_the_health_check_says(image, shared, fuse_flags, keys, model):
    volume = f"--volume={shared}:/mnt/tigris:rshared"
    flags = ("--cap-drop=ALL", "--cap-add=SYS_ADMIN", *fuse_flags, keys, volume)
    command = ("mount", "-f", model, MODELS, "--cache-dir=off", "--memory-limit=64MiB")
    check = image.inspect(IMAGE)["Healthcheck"]["Test"][1:]
    with image.started(*flags, "--", *command) as container:
        wait_until_up(container)
        assert container.status_of(*check) == 0
        container("fusermount3", "-u", MODELS)
        assert wait_until(lambda: container.status_of(*check) != 0, timeout_s=30)


def test_without_arguments_it_says_what_it_can_do(image):
    said = image("podman", "run", "--rm", "--no-healthcheck", *HARDENED, IMAGE)
    assert "Usage: tigrismount" in said
    assert image("podman", "run", "--rm", "--no-healthcheck", *HARDENED, IMAGE, "--version").startswith("tigrismount ")
