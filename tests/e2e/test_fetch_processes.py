"""Loads through a mount whose GETs are sent by processes of their own."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess

from tigrismount.testing.waiting import wait_until

MIB = 1 << 20
FLAGS = ("--fetch-processes=2", "--block-size=4MiB", "--memory-limit=64MiB")


def digest_of(path: str) -> str:
    done = subprocess.run(["sha256sum", path], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()[0]


def test_processes_fetch_from_the_second_on_and_their_deaths_are_not_noticed(mount, bucket, noise):
    """The first load starts them and does not wait; neither the death of one nor the worker's own leaves a trace."""
    data = [noise(size * MIB, seed) for seed, size in enumerate((64, 40, 40, 40))]
    right = [hashlib.sha256(each).hexdigest() for each in data]
    for number, each in enumerate(data):
        bucket.put(f"file{number}", each)
    with mount(f"s3://{bucket.name}", *FLAGS) as mounted:

        def facts() -> dict:
            return mounted.status()["fetch_processes"]

        assert facts() == {"configured": 2, "ready": 0, "started": 0, "gets": 0, "in_flight": [], "pids": []}
        assert digest_of(f"{mounted.path}/file0") == right[0]
        wait_until(lambda: facts()["ready"] == 2)
        before = facts()["gets"]
        assert digest_of(f"{mounted.path}/file1") == right[1]
        assert facts()["gets"] - before >= 4, "five parts of two blocks each, of which the first may be small"

        os.kill(facts()["pids"][0], signal.SIGKILL)
        assert digest_of(f"{mounted.path}/file2") == right[2]

        status = mounted.status()
        left = status["fetch_processes"]["pids"]
        assert left
        os.kill(status["pid"], signal.SIGKILL)
        assert digest_of(f"{mounted.path}/file3") == right[3]
        for pid in left:
            wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))
        assert mounted.status()["requests"]["errors"] == 0
