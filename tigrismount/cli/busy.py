"""Who keeps a mount busy: processes with a file, a working directory or a mapping below it.

Only links and lists in ``/proc`` are read, never the mount itself, which may not answer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Process:
    """A process that uses a mount."""

    pid: int
    """Its process id."""
    name: str
    """Its command's name, at most 15 characters."""

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def processes_using(mountpoint: str) -> list[Process]:
    """Return the processes that use something at or below *mountpoint*, by process id.

    Processes of other users may be missed: only root sees what they have open.
    """
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    return [Process(pid, _name(pid)) for pid in pids if _uses(pid, mountpoint)]


def _uses(pid: int, mountpoint: str) -> bool:
    below = mountpoint.rstrip("/") + "/"
    return any(path == mountpoint or path.startswith(below) for path in _paths(pid))


def _paths(pid: int) -> Iterator[str]:
    directory = f"/proc/{pid}"
    for link in ("cwd", "root", "exe"):
        yield _read_link(f"{directory}/{link}")
    try:
        descriptors = os.listdir(f"{directory}/fd")
    except OSError:
        return
    for descriptor in descriptors:
        yield _read_link(f"{directory}/fd/{descriptor}")
    try:
        with open(f"{directory}/maps", "rb") as maps:
            for line in maps:
                fields = line.rstrip(b"\n").split(None, 5)
                yield os.fsdecode(fields[5]) if len(fields) > 5 else ""
    except OSError:
        return


def _read_link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "a process"
