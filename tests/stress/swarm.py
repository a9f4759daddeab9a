"""A swarm of readers on one mount; run as a program, prints one JSON object.

    swarm.py MOUNT TRUTH PROCESSES HANDLES SECONDS

Each process keeps HANDLES files open and reads them in turns by every way there is, comparing each byte with the file
of the same name under TRUTH. Meanwhile readers are killed and replaced, processes that live for one read come and go,
and one process holds ten thousand handles.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import resource
import select
import signal
import struct
import sys
import time

HANDLES_MAX = 10_000
HANDLES_PER_S = 250
"""Handles that one process opens and keeps, so that short runs get round to more than opening."""
READ_BYTES = 1 << 18
KILL_EVERY_S = 0.3
STORM_SIZE = 8
"""Processes of one storm, each for a single read."""


class Reader:
    """One process's loop, and what it saw."""

    def __init__(self, mount: str, truth: dict[str, mmap.mmap], handles: int, seed: int) -> None:
        self.mount = mount
        self.truth = truth
        self.draw = random.Random(seed)
        self.names = list(truth)
        self.fds = [self.open() for _ in range(handles)]
        self.reads = self.bytes = self.errors = self.wrong = 0
        self.worst_s = 0.0
        self.first_error = ""

    def open(self) -> tuple[str, int]:
        name = self.draw.choice(self.names)
        return name, os.open(os.path.join(self.mount, name), os.O_RDONLY)

    def run_until(self, deadline_s: float) -> None:
        actions = [self.random_reads, self.random_reads, self.whole_file, self.mapped, self.names_of, self.reopen]
        while time.monotonic() < deadline_s:
            try:
                self.draw.choice(actions)()
            except OSError as exc:
                self.errors += 1
                self.first_error = self.first_error or repr(exc)

    def check(self, name: str, start: int, data: bytes, began_s: float) -> None:
        self.worst_s = max(self.worst_s, time.monotonic() - began_s)
        self.reads += 1
        self.bytes += len(data)
        expected = min(len(self.truth[name]), start + READ_BYTES) - start
        if len(data) != expected or data != self.truth[name][start : start + expected]:
            self.wrong += 1

    def read(self, name: str, fd: int, start: int) -> None:
        began_s = time.monotonic()
        self.check(name, start, os.pread(fd, READ_BYTES, start), began_s)

    def random_reads(self) -> None:
        name, fd = self.draw.choice(self.fds)
        for _ in range(8):
            self.read(name, fd, self.draw.randrange(len(self.truth[name])))

    def whole_file(self) -> None:
        name, fd = self.draw.choice(self.fds)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for start in range(0, len(self.truth[name]), READ_BYTES):
            self.read(name, fd, start)

    def mapped(self) -> None:
        name, fd = self.draw.choice(self.fds)
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as view:
            start = self.draw.randrange(len(view))
            began_s = time.monotonic()
            self.check(name, start, view[start : start + READ_BYTES], began_s)

    def names_of(self) -> None:
        if sorted(os.listdir(self.mount)) != sorted(self.names):
            self.wrong += 1
        name = self.draw.choice(self.names)
        if os.stat(os.path.join(self.mount, name)).st_size != len(self.truth[name]):
            self.wrong += 1

    def reopen(self) -> None:
        index = self.draw.randrange(len(self.fds))
        os.close(self.fds[index][1])
        self.fds[index] = self.open()

    def report(self) -> dict[str, object]:
        names = ("reads", "bytes", "errors", "wrong", "worst_s", "first_error")
        return {name: getattr(self, name) for name in names}


class Swarm:
    """The processes, and what those reported that were not killed."""

    def __init__(self, mount: str, truth: dict[str, mmap.mmap], handles: int, deadline_s: float) -> None:
        self.mount, self.truth, self.handles, self.deadline_s = mount, truth, handles, deadline_s
        self.readers: dict[int, int] = {}
        self.reports: list[dict[str, object]] = []
        self.seeds = iter(range(1 << 60))
        self.killed = self.storms = self.failed = 0

    def start_reader(self) -> None:
        receive, send = os.pipe()
        seed = next(self.seeds)
        pid = os.fork()
        if pid:
            os.close(send)
            self.readers[pid] = receive
            return
        status = 1
        try:
            os.close(receive)
            reader = Reader(self.mount, self.truth, self.handles, seed)
            reader.run_until(self.deadline_s)
            body = json.dumps(reader.report()).encode()
            os.write(send, struct.pack("I", len(body)) + body)
            status = 0
        finally:
            os._exit(status)

    def kill_one(self) -> None:
        """Kill a reader wherever it is, and start another."""
        pid = random.Random(next(self.seeds)).choice(list(self.readers))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(self.readers.pop(pid))
        self.killed += 1
        self.start_reader()

    def storm(self) -> None:
        """Start processes that live for one read."""
        pids = []
        for _ in range(STORM_SIZE):
            seed = next(self.seeds)
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    reader = Reader(self.mount, self.truth, 1, seed)
                    reader.random_reads()
                    status = int(bool(reader.wrong or reader.errors))
                finally:
                    os._exit(status)
            pids.append(pid)
        self.failed += sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in pids)
        self.storms += 1

    def collect(self) -> None:
        for pid, fd in self.readers.items():
            ready, _, _ = select.select([fd], [], [], 120.0)
            with os.fdopen(fd, "rb") as pipe:
                header = pipe.read(4) if ready else b""
                body = pipe.read(struct.unpack("I", header)[0]) if header else b""
            if body:
                self.reports.append(json.loads(body))
            else:
                self.failed += 1
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def hold_handles(mount: str, names: list[str], count: int, deadline_s: float) -> int:
    """Start a process that opens *count* handles and keeps them; return its id. Its exit status is 0 if it could."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        fds = [os.open(os.path.join(mount, names[i % len(names)]), os.O_RDONLY) for i in range(count)]
        time.sleep(max(0.0, deadline_s - time.monotonic()))
        status = int(len(os.pread(fds[-1], 1, 0)) != 1)
    finally:
        os._exit(status)


def main() -> None:
    mount, truth_dir, processes, handles, seconds = *sys.argv[1:3], *map(int, sys.argv[3:5]), float(sys.argv[5])
    truth = {}
    for name in os.listdir(truth_dir):
        with open(os.path.join(truth_dir, name), "rb") as file:
            truth[name] = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    swarm = Swarm(mount, truth, handles, time.monotonic() + seconds)
    for _ in range(processes):
        swarm.start_reader()
    held = min(HANDLES_MAX, int(HANDLES_PER_S * seconds))
    holder = hold_handles(mount, list(truth), held, swarm.deadline_s)
    while time.monotonic() < swarm.deadline_s:
        time.sleep(KILL_EVERY_S)
        swarm.kill_one()
        swarm.storm()
    swarm.collect()
    swarm.failed += os.waitstatus_to_exitcode(os.waitpid(holder, 0)[1]) != 0
    total = {name: sum(report[name] for report in swarm.reports) for name in ("reads", "bytes", "errors", "wrong")}
    first = next((report["first_error"] for report in swarm.reports if report["first_error"]), "")
    worst = max((report["worst_s"] for report in swarm.reports), default=0.0)
    about = {"held": held, "killed": swarm.killed, "storms": swarm.storms, "failed": swarm.failed}
    print(json.dumps({**total, **about, "worst_s": worst, "first_error": first, "readers": len(swarm.reports)}))


if __name__ == "__main__":
    main()
