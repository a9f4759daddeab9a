"""Other mounts of the same bucket, tuned for this job as their manuals say; one that is not installed is absent.

``RCLONE`` and ``S3FS`` in the environment name other executables. rclone reads a file by parallel streams from version
1.70 on; an older one is used without, and says so in its name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.store import BUCKET, PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

START_TIMEOUT_S = 20.0
STREAMS = 32
"""Ranges in flight, as many as ours has GETs; more made neither faster here."""


class PeerFailedError(Exception):
    """A peer is installed and did not mount; the message has its last words."""


def rclone() -> str | None:
    """Return rclone's executable, None without one."""
    return shutil.which(os.environ.get("RCLONE", "rclone"))


def s3fs() -> str | None:
    """Return s3fs's executable, None without one."""
    return shutil.which(os.environ.get("S3FS", "s3fs"))


def version(binary: str) -> str:
    """Return the first line of what ``--version`` says."""
    output = subprocess.run([binary, "--version"], check=False, capture_output=True, text=True).stdout
    return output.splitlines()[0] if output else "unknown"


def has_streams(binary: str) -> bool:
    """Tell whether this rclone reads one file by several streams."""
    output = subprocess.run([binary, "mount", "--help"], check=False, capture_output=True, text=True).stdout
    return "--vfs-read-chunk-streams" in output


@contextlib.contextmanager
def mounted_rclone(binary: str, endpoint_url: str, disk: Path, *, cache_mode: str) -> Iterator[Path]:
    """Mount the model's directory with rclone, and yield where it is.

    Args:
        binary: Executable.
        endpoint_url: The store.
        disk: Scratch directory on the cache disk.
        cache_mode: ``full`` keeps what was read on the disk, ``off`` nothing.
    """
    cache = disk / "rclone-cache"
    shutil.rmtree(cache, ignore_errors=True)
    flags = [
        "--s3-provider=Other",
        f"--s3-endpoint={endpoint_url}",
        "--s3-access-key-id=bench",
        "--s3-secret-access-key=bench-secret",
        "--s3-force-path-style",
        "--read-only",
        "--no-modtime",
        "--dir-cache-time=1h",
        "--max-read-ahead=4M",
        f"--cache-dir={cache}",
        f"--vfs-cache-mode={cache_mode}",
        "--vfs-read-chunk-size=8M",
        "--buffer-size=64M",
    ]
    if has_streams(binary):
        flags += [f"--vfs-read-chunk-streams={STREAMS}", "--vfs-read-chunk-size-limit=0"]
    environment = {**os.environ, "RCLONE_CONFIG": str(disk / "rclone.conf")}
    command = [binary, "mount", f":s3:{BUCKET}/{PREFIX}", str(disk / "peer"), *flags]
    with _mounted(command, disk, environment) as mountpoint:
        yield mountpoint
    shutil.rmtree(cache, ignore_errors=True)


@contextlib.contextmanager
def mounted_s3fs(binary: str, endpoint_url: str, disk: Path) -> Iterator[Path]:
    """Mount the bucket with s3fs, with its disk cache, and yield where the model is."""
    cache = disk / "s3fs-cache"
    shutil.rmtree(cache, ignore_errors=True)
    options = [
        f"url={endpoint_url}",
        "use_path_request_style",
        "ro",
        f"use_cache={cache}",
        "del_cache",
        f"parallel_count={STREAMS}",
        "multipart_size=8",
        "multireq_max=64",
        "kernel_cache",
        "no_check_certificate",
    ]
    environment = {**os.environ, "AWSACCESSKEYID": "bench", "AWSSECRETACCESSKEY": "bench-secret"}
    command = [binary, BUCKET, str(disk / "peer"), "-f", "-o", ",".join(options)]
    with _mounted(command, disk, environment) as mountpoint:
        yield mountpoint / PREFIX
    shutil.rmtree(cache, ignore_errors=True)


@contextlib.contextmanager
def _mounted(command: list[str], disk: Path, environment: dict[str, str]) -> Iterator[Path]:
    mountpoint, log = disk / "peer", disk / "peer.log"
    mountpoint.mkdir(exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        _wait_until_mounted(process, mountpoint, log)
        yield mountpoint
    finally:
        for unmount in (["fusermount3", "-u"], ["umount", "-l"]):
            if _is_mounted(mountpoint):
                subprocess.run([*unmount, str(mountpoint)], check=False, capture_output=True)
        process.terminate()
        process.wait()


def _wait_until_mounted(process: subprocess.Popen[bytes], mountpoint: Path, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if _is_mounted(mountpoint):
            return
        time.sleep(0.05)
    raise PeerFailedError(f"{Path(process.args[0]).name} does not mount: {log.read_text().strip()[-500:]}")  # type: ignore[index, arg-type]


def _is_mounted(mountpoint: Path) -> bool:
    return f" {mountpoint} " in Path("/proc/self/mountinfo").read_text()
