"""Reading files from front to back in a process of its own: ``python -m tigrismount.bench.reading SECONDS EXTENTS``.

One reader, as a loader is. A process of its own, since a mount in trouble can hang whoever touches it. Each piece that
was read is a line of JSON on standard output: ``[seconds since the start, bytes]``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

_PIECE_BYTES = 1 << 20
"""Bytes of one read: what the kernel asks for at most, and a smooth curve."""


def read_files(extents: list[tuple[str, int]], timeout_s: float) -> list[tuple[float, int]]:
    """Read each file from a place to its end, in a child process; return when how many bytes came.

    Args:
        extents: Paths, and where to begin.
        timeout_s: Deadline in seconds.

    Raises:
        CommandError: The child failed or took too long.
    """
    from tigrismount.demo.command import MODULE, run_child

    arguments = (str(timeout_s), json.dumps(extents))
    done = run_child(*MODULE, "tigrismount.bench.reading", *arguments, timeout_s=timeout_s + 5).check()
    return [(float(at_s), int(size)) for at_s, size in map(json.loads, done.output.splitlines())]


def main(timeout_s: float, extents: list[tuple[str, int]]) -> int:
    """Read and report."""
    # The default action ends the process even while it waits for a page of a hung mount.
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    memory = bytearray(_PIECE_BYTES)
    began_s = time.perf_counter()
    for path, start in extents:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.lseek(fd, start, os.SEEK_SET)
            while count := os.readv(fd, [memory]):
                sys.stdout.write(json.dumps([time.perf_counter() - began_s, count]) + "\n")
        finally:
            os.close(fd)
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), json.loads(sys.argv[2])))
