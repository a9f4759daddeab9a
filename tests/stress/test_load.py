"""Hundreds of readers at once, while names are refreshed and the cache evicts: right bytes, and nothing is left over.

A few seconds of it run with the other tests; ``make stress`` sets ``TIGRISMOUNT_STRESS_S`` and
``TIGRISMOUNT_STRESS_PROCESSES`` to ten minutes of two hundred.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tigrismount.demo.command import run_child, run_command, wait_until
from tigrismount.testing.mount import marked_processes, mounted, require_fuse

MIB = 1 << 20
SECONDS = float(os.environ.get("TIGRISMOUNT_STRESS_S", "6"))
PROCESSES = int(os.environ.get("TIGRISMOUNT_STRESS_PROCESSES", "20"))
HANDLES = 20
FILES = 40
STALL_S = 60.0
"""Longest a read may take: what a machine of two cores needs to come round to every one of thousands of readers."""

pytestmark = pytest.mark.fuse


@pytest.fixture(autouse=True)
def fuse():
    require_fuse()


def worker_of(pids: list[int]) -> int:
    return next(pid for pid in pids if b"tigrismount.app" in Path(f"/proc/{pid}/cmdline").read_bytes())


def resources(pid: int) -> tuple[int, int]:
    """Descriptors and threads of a process."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def test_a_swarm_of_readers(s3, bucket, tmp_path):
    truth = tmp_path / "truth"
    truth.mkdir()
    (tmp_path / "mnt").mkdir()
    draw = np.random.Generator(np.random.PCG64(7))
    for number in range(FILES):
        data = draw.bytes(int(draw.integers(1, 4 * MIB)))
        (truth / f"file-{number}").write_bytes(data)
        bucket.put(f"file-{number}", data)
    # A third of what there is fits into memory, and two thirds onto the disk.
    flags = [f"--cache-dir={tmp_path / 'cache'}", "--block-size=1MiB", "--memory-limit=32MiB", "--cache-size=56MiB"]
    with mounted(f"s3://{bucket.name}", tmp_path / "mnt", s3.env(), *flags) as mount:
        worker = worker_of(mount.pids)
        stop = threading.Event()

        def disturb() -> None:
            while not stop.wait(1.0):
                run_command("refresh", mount.path, env=mount.env).check()
                run_command("status", mount.path, env=mount.env).check()

        disturber = threading.Thread(target=disturb)
        disturber.start()
        swarm = str(Path(__file__).with_name("swarm.py"))
        arguments = [mount.path, str(truth), str(PROCESSES), str(HANDLES), str(SECONDS)]
        result = run_child(sys.executable, swarm, *arguments, timeout_s=SECONDS + 240)
        stop.set()
        disturber.join()
        found = json.loads(result.check().output)
        print(f"\nstress: {json.dumps(found)}")
        assert (found["wrong"], found["errors"], found["failed"]) == (0, 0, 0), found
        assert found["readers"] == PROCESSES
        assert found["killed"] > 0
        assert found["worst_s"] < STALL_S
        assert marked_processes(mount.mark) == mount.pids, "a worker died on the way"
        assert_nothing_left(mount, worker)


def assert_nothing_left(mount, worker: int) -> None:
    """Budgets are back, and descriptors and threads do not outlive their use."""

    def idle() -> bool:
        status = mount.status()
        return status["flights"] == {"remote": 0, "disk": 0, "queued": 0}

    assert wait_until(idle)
    status = mount.status()
    assert status["memory"]["held"] <= status["memory"]["limit"]
    # Idle threads are kept for a while; a cached version may stay open. What grows with the readers is a leak.
    descriptors, threads = resources(worker)
    assert descriptors < 150 + FILES, descriptors
    assert threads < 150, threads
