"""The file system under test, driven as a user drives it: the command line, ``status --json`` and ``/proc``."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SETTLE_TIMEOUT_S = 30.0
"""Seconds a cold load's last blocks may take to reach the disk."""
SETTLED_S = 2.0
"""Seconds without another block on the disk after which none is expected."""
LOOK_S = 0.2
"""Between two looks at what has reached the disk."""
COMMAND = [sys.executable, "-m", "tigrismount"]


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted bucket."""

    mountpoint: Path
    """Where it is mounted."""
    cache_directory: Path
    """Its disk cache."""
    pid: int
    """The process that answers FUSE."""
    mount_s: float = 0.0
    """Seconds until ``mount`` returned."""

    def status(self) -> dict[str, Any]:
        """Return its element of ``status --json``; the mount works for the answer."""
        return _status(self.mountpoint)

    def cpu_seconds(self) -> float:
        """Return user and system time of the process that answers FUSE and of all that it started, so far."""
        return tree_cpu_seconds(self.pid)

    def peak_rss_bytes(self) -> int:
        """Return the most memory that the process that answers FUSE and its children ever held, all added up."""
        pid = self.status()["pid"]
        return sum(peak_rss_bytes(each) for each in [pid, *descendants(pid)])

    def wait_until_cached(self, size_bytes: int) -> None:
        """Return once *size_bytes* are on disk, or nothing is added any more.

        Looks at the files, since a mount that is asked works for the answer, and would be charged with it.
        """
        changed_s = began_s = time.monotonic()
        cached_bytes = -1
        while cached_bytes < size_bytes and time.monotonic() < min(began_s + SETTLE_TIMEOUT_S, changed_s + SETTLED_S):
            previous_bytes, cached_bytes = cached_bytes, allocated_bytes(self.cache_directory)
            if cached_bytes != previous_bytes:
                changed_s = time.monotonic()
            time.sleep(LOOK_S)  # behind the last block its record is written


def _status(mountpoint: Path) -> dict[str, Any]:
    mount: dict[str, Any] = json.loads(run([*COMMAND, "status", str(mountpoint), "--json"]))["mounts"][0]
    return mount


def allocated_bytes(cache_directory: Path) -> int:
    """Return what the files of a disk cache take of its drive; holes count nothing."""
    total = 0
    for path in cache_directory.glob("objects/*/*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_blocks * 512
    return total


def process_cpu_seconds(pid: int) -> float:
    """Return user and system time of process *pid*, from ``/proc``."""
    return sum(_cpu_ticks(pid)[:2]) / os.sysconf("SC_CLK_TCK")


def tree_cpu_seconds(pid: int) -> float:
    """Return the same of process *pid* and of all that it started, those that have ended among them."""
    ticks = sum(_cpu_ticks(pid))
    for each in descendants(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            ticks += sum(_cpu_ticks(each))
    return ticks / os.sysconf("SC_CLK_TCK")


def _cpu_ticks(pid: int) -> list[int]:
    """Return a process's user and system time, then those of its children that have ended and were waited for."""
    # The command name, in parentheses, may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(field) for field in fields[11:15]]


def peak_rss_bytes(pid: int) -> int:
    """Return the most memory that process *pid* ever held; 0 once it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def descendants(pid: int) -> list[int]:
    """Return the processes that *pid* started, and theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


@contextlib.contextmanager
def mounted(
    source: str, mountpoint: Path, endpoint_url: str, cache_directory: Path, flags: Sequence[str]
) -> Iterator[Mount]:
    """Mount *source* in the background for the length of the context; the daemon logs beside the mountpoint."""
    log = mountpoint.with_suffix(".log")
    places = [source, str(mountpoint), "--endpoint-url", endpoint_url, "--cache-dir", str(cache_directory)]
    began_s = time.monotonic()
    run([*COMMAND, "mount", *places, "--log-file", str(log), *flags])
    try:
        mount_s = time.monotonic() - began_s
        yield Mount(mountpoint, cache_directory, _status(mountpoint)["pid"], mount_s)
    finally:
        run([*COMMAND, "unmount", str(mountpoint)])


class CommandFailedError(Exception):
    """A command of ours failed; what it said is on standard error."""


def run(command: Sequence[str]) -> str:
    """Run a command that must succeed and return its output; complaints go to our standard error.

    Raises:
        CommandFailedError: It failed.
    """
    finished = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if finished.returncode:
        raise CommandFailedError(f"exit status {finished.returncode} of: {shlex.join(command)}")
    return finished.stdout


def drop_page_cache(paths: Sequence[Path]) -> None:
    """Make the kernel forget the pages of *paths*; of everything when we are root."""
    os.sync()
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("1")
        return
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def warm_memory(size_bytes: int) -> None:
    """Touch and free *size_bytes* of memory, so that what runs next finds every page backed by the machine.

    Virtual machines that report free pages to their host pay up to 3 CPU seconds per GiB for the first touch after a
    rest; whichever variant comes after a pause would pay it, and hardware would not.
    """
    code = (
        "import mmap, sys\n"
        "mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)"
    )
    subprocess.run([sys.executable, "-c", code, str(size_bytes)], check=True)


def is_mounted(mountpoint: Path) -> bool:
    """Tell whether something is mounted at *mountpoint*, without touching it."""
    return f" {mountpoint} " in Path("/proc/self/mountinfo").read_text()
