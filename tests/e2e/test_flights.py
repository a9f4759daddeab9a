"""A sequential reader keeps the configured number of GETs in flight, with the kernel's default read-ahead too."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tigrismount.control.client import request
from tigrismount.control.paths import runtime_directory, socket_path
from tigrismount.demo.faults import FaultRule

MIB = 1 << 20
CONCURRENCY = 8

READ = "b = bytearray(1 << 17)\nf = open(sys.argv[1], 'rb', buffering=0)\nwhile f.readinto(b): pass"
MAP = (
    "import mmap\nf = open(sys.argv[1], 'rb')\nm = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n"
    "n = sum(m[i] for i in range(0, len(m), 4096))"
)


@pytest.mark.parametrize("code", [READ, MAP], ids=["read", "mmap"])
def test_all_flights_are_out(mount, bucket, s3, noise, code) -> None:
    """Each GET takes a second, so after the ramp all of them are seen out at once."""
    bucket.put("file", noise(192 * MIB, 5))
    flags = ["--block-size=8MiB", "--memory-limit=256MiB", f"--concurrency={CONCURRENCY}", "--kernel-read-ahead=128"]
    s3.inject(FaultRule(match="GET /.*/file", action="delay", delay_s=1.0, count=-1))
    with mount(f"s3://{bucket.name}", *flags) as mounted:
        control = socket_path(runtime_directory(os.environ, uid=os.geteuid()), mounted.path)
        reader = subprocess.Popen([sys.executable, "-c", f"import sys\n{code}", f"{mounted.path}/file"])
        seen = 0
        while reader.poll() is None:
            seen = max(seen, request(control, "status", timeout_s=10.0)["flights"]["remote"])
            time.sleep(0.02)

    assert reader.returncode == 0
    assert seen >= CONCURRENCY
