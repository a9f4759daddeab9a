"""Memory control groups for tests: a limit that the kernel enforces on whatever is started inside.

Source: kernel documentation ``cgroup-v2.rst`` and ``cgroup-v1/memory.rst``.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOTS = ((2, "/sys/fs/cgroup"), (2, "/sys/fs/cgroup/unified"), (1, "/sys/fs/cgroup/memory"))
_FILES = {
    "limit": {1: "memory.limit_in_bytes", 2: "memory.max"},
    "peak": {1: "memory.max_usage_in_bytes", 2: "memory.peak"},
    "events": {1: "memory.oom_control", 2: "memory.events"},
}
_EMPTY_S = 10.0
"""Longest wait until the processes of a group are gone."""


@dataclass(frozen=True, slots=True)
class LimitedMemory:
    """A group with a limit."""

    version: int
    """1 or 2."""
    path: str
    """Its directory."""

    @property
    def prefix(self) -> list[str]:
        """What to put in front of a command so that it, and all that it starts, runs inside."""
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh"]

    @property
    def peak_bytes(self) -> int:
        """Most memory its processes and their page cache ever used."""
        return int(self._read("peak"))

    @property
    def oom_kills(self) -> int:
        """Processes that the kernel killed for the limit's sake."""
        words = self._read("events").split()
        return int(dict(zip(words[::2], words[1::2], strict=False))["oom_kill"])

    def _read(self, name: str) -> str:
        with open(os.path.join(self.path, _FILES[name][self.version]), encoding="ascii") as file:
            return file.read()


@contextlib.contextmanager
def limited_memory(limit_bytes: int) -> Iterator[LimitedMemory]:
    """Make a group with a limit for a ``with`` block; at its end, whatever runs inside must be gone.

    Args:
        limit_bytes: Most memory, page cache included.

    Raises:
        OSError: Nobody lets us make one here.
    """
    version, path = _make()
    try:
        group = LimitedMemory(version, path)
        with open(os.path.join(path, _FILES["limit"][version]), "w", encoding="ascii") as file:
            file.write(str(limit_bytes))
        yield group
    finally:
        deadline_s = time.monotonic() + _EMPTY_S
        while os.path.exists(path):
            try:
                os.rmdir(path)
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.05)


def _make() -> tuple[int, str]:
    error: OSError = FileNotFoundError("no memory controller is mounted")
    for version, root in _ROOTS:
        path = os.path.join(root, f"tigrismount-{uuid.uuid4().hex[:8]}")
        try:
            os.mkdir(path)
        except OSError as exc:
            error = exc
            continue
        if os.path.exists(os.path.join(path, _FILES["limit"][version])):
            return version, path
        os.rmdir(path)
    raise error
