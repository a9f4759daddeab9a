"""One loader of the soak: opens, reads, maps, abandons, lists and looks up for a while; prints one JSON object.

    soak_reader.py MOUNT SECONDS SEED PAUSE_S

Each tensor file is a header and then one line of 64 bytes over and over, which names the file and its version: so a
reader can tell that what it got is of one version, without knowing which. What an overwrite may do to a reader who has
the old version open, an ``ESTALE``, is counted and no error. Files under ``changing/`` are never mapped: there it
would be a signal.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import random
import struct
import sys
import time

IDLE = 64
"""Descriptors that are open and not read."""
LINE_BYTES = 64
READ_BYTES = 1 << 20
ALLOWED = {errno.ESTALE, errno.ENOENT}
"""What an overwrite or a deletion may do."""


class Reader:
    """One process's loop, and what it saw."""

    def __init__(self, mount: str, seed: int) -> None:
        self.mount = mount
        self.draw = random.Random(seed)
        self.idle: list[int] = []
        self.buffer = mmap.mmap(-1, READ_BYTES)
        self.counts = dict.fromkeys(("actions", "bytes", "wrong", "stale", "errors"), 0)
        self.first_error = ""

    def run_until(self, deadline_s: float, pause_s: float) -> None:
        actions = [self.read_whole, self.map_some, self.read_direct, self.abandon, self.hold, self.look_around]
        while time.monotonic() < deadline_s:
            try:
                self.draw.choice(actions)()
            except OSError as exc:
                self.counts["stale" if exc.errno in ALLOWED else "errors"] += 1
                if exc.errno not in ALLOWED:
                    self.first_error = self.first_error or repr(exc)
            self.counts["actions"] += 1
            time.sleep(pause_s)

    def pick(self, *, fixed: bool = False) -> str:
        directory = self.draw.choice(["fixed"] if fixed else ["fixed", "changing"])
        model = self.draw.choice(sorted(os.listdir(os.path.join(self.mount, directory))))
        place = os.path.join(self.mount, directory, model)
        shards = [name for name in sorted(os.listdir(place)) if name.endswith(".safetensors")]
        return os.path.join(place, self.draw.choice(shards))

    @contextlib.contextmanager
    def opened(self, path: str, flags: int = 0):
        fd = os.open(path, os.O_RDONLY | flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def check(self, data: bytes | bytearray, path: str) -> None:
        """Look whether *data*, which begins with the header, is of one version of the right file."""
        self.counts["bytes"] += len(data)
        start = 8 + struct.unpack_from("<Q", data)[0]
        line = bytes(data[start : start + LINE_BYTES])
        lines, rest = divmod(len(data) - start, LINE_BYTES)
        name = os.path.relpath(path, self.mount).encode()
        if rest or bytes(data[start:]) != line * lines or line.split(b" ")[0] != name:
            self.counts["wrong"] += 1

    def read_whole(self) -> None:
        path = self.pick()
        with self.opened(path) as fd:
            size = os.fstat(fd).st_size
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            self.check(b"".join(os.pread(fd, READ_BYTES, at) for at in range(0, size, READ_BYTES)), path)

    def read_direct(self) -> None:
        path = self.pick()
        data = bytearray()
        with self.opened(path, os.O_DIRECT) as fd:
            while count := os.preadv(fd, [self.buffer], len(data)):
                data += self.buffer[:count]
                if count < READ_BYTES:
                    break
        self.check(data, path)

    def map_some(self) -> None:
        path = self.pick(fixed=True)
        with self.opened(path) as fd:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as view:
                if self.draw.random() < 0.5:
                    self.check(view[:], path)
                else:
                    self.counts["bytes"] += sum(view[self.draw.randrange(len(view))] >= 0 for _ in range(16))

    def abandon(self) -> None:
        """Begin to load and go away."""
        with self.opened(self.pick()) as fd:
            self.counts["bytes"] += len(os.pread(fd, READ_BYTES, 0))

    def hold(self) -> None:
        """Open a file, read a little, and keep it; close the one kept longest."""
        fd = os.open(self.pick(), os.O_RDONLY)
        self.idle.append(fd)
        self.counts["bytes"] += len(os.pread(fd, 4096, self.draw.randrange(1 << 20)))
        if len(self.idle) > IDLE:
            os.close(self.idle.pop(0))

    def look_around(self) -> None:
        """List, look up what is there, and what is not."""
        place = os.path.join(self.mount, "small")
        names = os.listdir(place)
        for name in self.draw.sample(names, 20):
            os.stat(os.path.join(place, name))
        for _ in range(20):
            with contextlib.suppress(FileNotFoundError):
                os.stat(os.path.join(place, f"none-{self.draw.randrange(1 << 40)}"))
        with open(os.path.join(place, self.draw.choice(names)), "rb") as file:
            self.counts["bytes"] += len(file.read())


def main() -> None:
    mount, seconds, seed, pause_s = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    reader = Reader(mount, seed)
    reader.run_until(time.monotonic() + seconds, pause_s)
    print(json.dumps({**reader.counts, "first_error": reader.first_error}))


if __name__ == "__main__":
    main()
