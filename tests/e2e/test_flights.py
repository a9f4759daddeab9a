"""A sequential reader keeps the configured number of GETs in flight, with the kernel's default read-ahead too."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tigrismount.demo.faults import FaultRule

MIB = 1 << 20
CONCURRENCY = 8
SPECULATIVE = CONCURRENCY - CONCURRENCY // 8
"""One flight in eight is kept free for demand."""

READ = "b = bytearray(1 << 17)\nf = open(sys.argv[1], 'rb', buffering=0)\nwhile f.readinto(b): pass"
MAP = (
    "import mmap\nf = open(sys.argv[1], 'rb')\nm = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n"
    "n = sum(m[i] for i in range(0, len(m), 4096))"
)


@pytest.mark.parametrize("code", [READ, MAP], ids=["read", "mmap"])
def test_all_flights_are_out(mount, bucket, s3, noise, code) -> None:
    """After the ramp the store stops answering: by then every flight that speculation may use must be out."""
    bucket.put("file", noise(192 * MIB, 5))
    flags = ["--block-size=8MiB", "--memory-limit=256MiB", f"--concurrency={CONCURRENCY}"]
    s3.inject(FaultRule(match="GET /.*/file", action="delay", delay_s=8.0, skip=10, count=-1))
    with mount(f"s3://{bucket.name}", *flags, "--kernel-read-ahead=128") as mounted:
        reader = subprocess.Popen([sys.executable, "-c", f"import sys\n{code}", f"{mounted.path}/file"])
        try:
            seen = 0
            deadline_s = time.monotonic() + 7
            while seen < SPECULATIVE and time.monotonic() < deadline_s:
                seen = max(seen, mounted.status()["flights"]["remote"])
                time.sleep(0.05)
        finally:
            reader.kill()
            s3.inject()
            reader.wait()

    assert seen >= SPECULATIVE
