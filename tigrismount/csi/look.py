"""Asking a mount for its ``statvfs`` from a process that may hang.

A filesystem whose daemon is stuck keeps whoever asks it, and cannot always be interrupted. The child is a program of
its own and not a fork: the driver has threads, and gRPC does not survive in a forked child.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass

_REAP_S = 0.1  # a child that is not stuck in the kernel ends at once when it is killed
_PROGRAM = """
import json, os, sys
try:
    s = os.statvfs(sys.argv[1])
except OSError as e:
    print(json.dumps([e.errno]))
else:
    print(json.dumps([0, s.f_frsize, s.f_blocks, s.f_bavail, s.f_bfree, s.f_files, s.f_favail, s.f_ffree]))
"""


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of something there is; all 0 where the filesystem does not know."""

    total: int
    """All of it."""
    used: int
    """What is taken."""
    available: int
    """What is left."""


UNKNOWN = Amount(0, 0, 0)
"""What a filesystem says that does not count."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look through a mount saw."""

    fault: str = ""
    """Why there was no answer, in one line; empty where there was one."""
    space: Amount = UNKNOWN
    """In bytes."""
    files: Amount = UNKNOWN
    """In files and directories."""


class Looker:
    """Looks through mounts, and keeps count of the children that are stuck in one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stuck: list[subprocess.Popen[bytes]] = []

    def look(self, path: str, timeout_s: float) -> Seen:
        """Return what ``statvfs`` says at *path*, or why it says nothing.

        Args:
            path: Anything on the filesystem in question.
            timeout_s: How long to wait.
        """
        self._reap()
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},  # it needs none, and the driver's may hold a key
        )
        try:
            output, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._abandon(child)
            return Seen(fault=f"no answer within {timeout_s:g} s")
        return _seen(output)

    def _abandon(self, child: subprocess.Popen[bytes]) -> None:
        child.kill()
        assert child.stdout is not None
        child.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_REAP_S)
            return
        with self._lock:
            self._stuck.append(child)

    def _reap(self) -> None:
        with self._lock:
            self._stuck = [child for child in self._stuck if child.poll() is None]


def _seen(output: bytes) -> Seen:
    try:
        code, *figures = json.loads(output)
    except ValueError:
        return Seen(fault="the process that looked ended before it had an answer")
    if code:
        return Seen(fault=f"{os.strerror(code)} ({errno.errorcode.get(code, code)})")
    unit, blocks, available, free, files, files_available, files_free = figures
    space = Amount(blocks * unit, (blocks - free) * unit, available * unit)
    return Seen(space=space, files=Amount(files, files - files_free, files_available))
