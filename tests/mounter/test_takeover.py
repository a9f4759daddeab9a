"""Either of driver and mounter may be killed, and any worker: who reads sees a pause and no error."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tigrismount.demo.command import wait_until

MIB = 1 << 20
SIZE = 2 * MIB
PIECE = 64 << 10
READER = """
import hashlib, json, mmap, os, random, select, sys
path, how, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
fd = os.open(path, os.O_RDONLY)
size, piece = os.fstat(fd).st_size, 64 << 10
table = mmap.mmap(fd, size, prot=mmap.PROT_READ) if how == "mmap" else None
draw, reads, wrong, errors = random.Random(seed), 0, 0, []
expected = json.loads(sys.stdin.readline())
print("ready", flush=True)
while not select.select([0], [], [], 0.002)[0]:
    index = draw.randrange(size // piece)
    if table is not None:
        table.madvise(mmap.MADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        data = table[index * piece : (index + 1) * piece] if table is not None else os.pread(fd, piece, index * piece)
        wrong += hashlib.sha256(data).hexdigest() != expected[index]
    except OSError as exc:
        errors.append(str(exc))
        if len(errors) > 100:
            break
    reads += 1
print(json.dumps({"reads": reads, "wrong": wrong, "errors": errors}), flush=True)
"""


@pytest.fixture
def body():
    return random.Random(8).randbytes(SIZE)


@pytest.fixture
def source(store, body):
    """A bucket with a file for each reader: pages that somebody else has mapped cannot be dropped."""
    for number in range(2):
        store.put("models", f"busy/{number}", body)
    return "s3://models"


@pytest.fixture
def reading(body):
    """Read with ``with reading(directory):``; at its end, no read may have failed."""

    sums = [hashlib.sha256(body[start : start + PIECE]).hexdigest() for start in range(0, SIZE, PIECE)]

    @contextlib.contextmanager
    def reading(at: Path):
        with contextlib.ExitStack() as stack:
            readers = []
            for seed, how in enumerate(("read", "mmap")):
                command = [sys.executable, "-c", READER, str(at / "busy" / str(seed)), how, str(seed)]
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                readers.append(stack.enter_context(process))
                stack.callback(process.kill)
                process.stdin.write(json.dumps(sums) + "\n")
                process.stdin.flush()
            assert all(process.stdout.readline() == "ready\n" for process in readers)
            yield
            found = [json.loads(process.communicate("done\n", timeout=90)[0]) for process in readers]
            assert [(one["wrong"], one["errors"]) for one in found] == [(0, [])] * 2
            assert all(one["reads"] for one in found)

    return reading


def test_kills_of_worker_mounter_and_driver_fail_no_read(node, source, reading):
    """The worker and the mounter twice, the driver once; the worker has no capability."""
    driver = node.driver_process()
    node.mounter(powerless=True)
    assert driver.ask("start", "one", str(node.at("one")), [source, {}], node.secret, 60.0) is None
    with reading(node.at("one")):
        (worker,) = node.workers()
        status = Path(f"/proc/{worker}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        for _ in range(2):
            replaced(node, driver, lambda: os.kill(node.workers()[0], signal.SIGKILL))
        driver.kill()
        before = node.workers()
        driver = node.driver_process()
        assert driver.ask("known") == {"one": str(node.at("one"))}
        assert wait_until(lambda driver=driver: driver.ask("ready") is None)
        assert wait_until(lambda: driver.ask("state", "one")[0])
        assert node.workers() == before, "the driver's end is none of its business"
        for _ in range(2):
            replaced(node, driver, lambda: (node.kill_mounter(), node.mounter()))
    assert driver.ask("stop", "one") is None


def replaced(node, driver, kill) -> None:
    """Kill, and wait until another worker serves."""
    before = node.workers()
    kill()
    assert wait_until(
        lambda: node.workers() and node.workers() != before and driver.ask("state", "one")[0], timeout_s=60
    )


@pytest.mark.slow
def test_twenty_kills_in_a_row_fail_no_read(node, source, reading):
    driver = node.driver_process()
    node.mounter(powerless=True)
    assert driver.ask("start", "one", str(node.at("one")), [source, {}], node.secret, 60.0) is None
    with reading(node.at("one")):
        for number in range(20):
            if number % 4 == 3:
                replaced(node, driver, lambda: (node.kill_mounter(), node.mounter()))
            elif number % 4 == 1:
                driver.kill()
                driver = node.driver_process()
                assert wait_until(lambda driver=driver: driver.ask("ready") is None)
            else:
                replaced(node, driver, lambda: os.kill(node.workers()[0], signal.SIGKILL))
    assert driver.ask("stop", "one") is None
