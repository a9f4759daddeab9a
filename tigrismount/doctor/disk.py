"""How fast and how free the cache's disk is: a file is written past the page cache, read back, and removed.

Source: open(2), "O_DIRECT".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.config.units import format_size
from tigrismount.doctor.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.config.host import DiskSpace

SAMPLE_BYTES = 256 << 20
"""Most that is written: beyond the caches of most disks' controllers, a second or two on a slow one."""
_PIECE_BYTES = 8 << 20
_LONGEST_S = 3.0
"""Most time for writing, and for reading."""
_SLOW_BYTES_S = 500e6
"""Slower than one NVMe by far: a cache there may be slower than the network."""
_LOW_FRACTION = 0.1


@dataclass(frozen=True, slots=True)
class DiskRates:
    """What was measured, bytes per second."""

    write: float
    """Writing past the page cache."""
    read: float
    """Reading past it."""


def check_disk(directory: str, disk_space: Callable[[str], DiskSpace]) -> tuple[list[Finding], float]:
    """Return the findings about one cache directory, and its reading rate, 0 where it could not be measured.

    Args:
        directory: The cache directory; need not be there yet.
        disk_space: Tells the space of the filesystem that a directory is on.
    """
    space = disk_space(directory)
    findings = [check_space(directory, space)]
    if findings[0].verdict == "fail":
        return findings, 0.0
    try:
        rates = measure_disk(_existing(directory), min(SAMPLE_BYTES, space.free_bytes // 4))
    except OSError as exc:
        remedy = "name a directory of your own with --cache-dir, or --cache-dir off"
        return [*findings, Finding("cache disk", "fail", f"{directory}: {exc.strerror}", remedy)], 0.0
    detail = f"{directory}: reads {format_size(int(rates.read))}/s, writes {format_size(int(rates.write))}/s"
    if rates.read < _SLOW_BYTES_S:
        remedy = "put --cache-dir on an NVMe disk; a slow one may be slower than the network"
        return [*findings, Finding("cache disk", "warn", detail, remedy)], rates.read
    return [*findings, Finding("cache disk", "pass", detail)], rates.read


def check_space(directory: str, space: DiskSpace) -> Finding:
    """Return whether there is room for a cache.

    Args:
        directory: The cache directory.
        space: Of its filesystem.
    """
    detail = f"{directory}: {format_size(space.free_bytes)} free of {format_size(space.usable_bytes)}"
    if space.free_bytes < _PIECE_BYTES * 8:
        return Finding("cache space", "fail", detail, "make room, name another --cache-dir, or --cache-dir off")
    if space.free_bytes < _LOW_FRACTION * space.usable_bytes:
        return Finding("cache space", "warn", detail, "make room: the cache leaves 5 % of the disk free")
    return Finding("cache space", "pass", detail)


def measure_disk(directory: str, size_bytes: int) -> DiskRates:
    """Write and read back a file in *directory*; nothing of it stays.

    Args:
        directory: Is there, and may be written to.
        size_bytes: Most bytes; fewer where the disk is slow.

    Raises:
        OSError: It could not be written or read.
    """
    kept_fd, name = tempfile.mkstemp(prefix=".tigrismount-doctor-", dir=directory)
    # Not by its name: root may be asked about a directory of somebody else, who could put a link in its place.
    path = f"/proc/self/fd/{kept_fd}"
    try:
        with mmap.mmap(-1, _PIECE_BYTES) as piece:
            piece[:] = os.urandom(1 << 20) * (_PIECE_BYTES >> 20)  # some disks compress zeros away
            view = memoryview(piece)
            try:
                written_bytes, write_s = _transfer(path, os.O_WRONLY, size_bytes, lambda fd: os.write(fd, view))
                read_bytes, read_s = _transfer(path, os.O_RDONLY, written_bytes, lambda fd: os.readv(fd, [view]))
            finally:
                view.release()
    finally:
        os.close(kept_fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    return DiskRates(written_bytes / write_s, read_bytes / read_s)


def _transfer(path: str, flags: int, size_bytes: int, move: Callable[[int], int]) -> tuple[int, float]:
    """Move pieces until *size_bytes* or the time is over; return bytes and seconds."""
    fd = _open_past_the_page_cache(path, flags)
    try:
        began_s, moved_bytes = time.perf_counter(), 0
        while moved_bytes < max(size_bytes, _PIECE_BYTES) and time.perf_counter() - began_s < _LONGEST_S:
            try:
                count = move(fd)
            except OSError as exc:
                status = fcntl.fcntl(fd, fcntl.F_GETFL)
                if exc.errno != errno.EINVAL or not status & os.O_DIRECT:
                    raise
                # A filesystem that takes the flag and not the I/O; the cache goes on without it, too.
                fcntl.fcntl(fd, fcntl.F_SETFL, status & ~os.O_DIRECT)
                continue
            if not count:
                break
            moved_bytes += count
        if flags == os.O_WRONLY:
            os.fdatasync(fd)
        return moved_bytes, max(time.perf_counter() - began_s, 1e-6)
    finally:
        os.close(fd)


def _open_past_the_page_cache(path: str, flags: int) -> int:
    with contextlib.suppress(OSError):
        return os.open(path, flags | os.O_DIRECT)
    fd = os.open(path, flags)  # tmpfs and some network filesystems know no O_DIRECT
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return fd


def _existing(directory: str) -> str:
    """Return the directory, or the nearest one above it that is there."""
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory) or "/"
    return directory
