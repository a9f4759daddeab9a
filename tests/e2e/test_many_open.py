"""Sixty-four model files open at once under a memory limit that holds half of them; descriptors that rest."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tigrismount.demo.command import wait_until
from tigrismount.testing.mount import mounted

MIB = 1 << 20
FILES = 64
SIZE = MIB - 5000
LIMIT_MIB = 32
PROCESS_MIB = 150
"""What the daemon may take besides its buffers (P9)."""

READER = """
import hashlib, json, os, sys
path = sys.argv[1]
fds = {name: os.open(os.path.join(path, name), os.O_RDONLY) for name in sorted(os.listdir(path))}
sums = {name: hashlib.sha256() for name in fds}
piece = 192 << 10
at = 0
while at < os.fstat(next(iter(fds.values()))).st_size:  # a piece of each in turn, as many loaders do together
    for name, fd in fds.items():
        sums[name].update(os.pread(fd, piece, at))
    at += piece
print(json.dumps({name: found.hexdigest() for name, found in sums.items()}), flush=True)
sys.stdin.readline()  # all stay open
"""


@pytest.fixture
def open_files(bucket, s3, tmp_path, noise):
    """Mount, read sixty-four files together, and keep them open."""
    expected = {}
    for number in range(FILES):
        data = noise(SIZE, number)
        bucket.put(f"model-{number:05}-of-{FILES:05}.safetensors", data)
        expected[f"model-{number:05}-of-{FILES:05}.safetensors"] = hashlib.sha256(data).hexdigest()
    (tmp_path / "mnt").mkdir()
    flags = [f"--cache-dir={tmp_path / 'cache'}", "--block-size=1MiB", f"--memory-limit={LIMIT_MIB}MiB"]
    with mounted(f"s3://{bucket.name}", tmp_path / "mnt", s3.env(), *flags) as mount:
        command = [sys.executable, "-c", READER, mount.path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            try:
                assert json.loads(reader.stdout.readline()) == expected
                yield mount
                reader.stdin.write("\n")
            finally:
                reader.stdin.close()


def test_the_limit_holds_for_many_open_files_and_bytes_are_fetched_about_once(open_files, s3):
    status = open_files.status()
    assert status["names"]["open_files"] == FILES
    assert status["memory"]["held"] <= status["memory"]["limit"] == LIMIT_MIB * MIB
    assert status["memory"]["peak_rss"] - status["memory"]["limit"] <= PROCESS_MIB * MIB
    # What was thrown out for others comes back from the disk.
    assert s3.data_bytes() <= 1.2 * FILES * SIZE
    # An open file costs a descriptor in the daemon and what is known of it, whatever was read of it.
    assert len(list(Path(f"/proc/{status['pid']}/fd").iterdir())) < FILES + 100


@pytest.mark.slow
def test_files_that_are_open_and_not_read_hold_no_memory(open_files):
    assert wait_until(lambda: open_files.status()["memory"]["held"] == 0, timeout_s=180)
    assert open_files.status()["names"]["open_files"] == FILES
