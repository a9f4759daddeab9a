"""Whether the machine has room for pages that nobody has asked for yet.

Pushed pages are charged to this process's control group, so its limits count as well as the machine's free memory.
Page cache counts as room: the kernel drops clean pages before it lets anybody wait. Where somebody waits for memory
nevertheless, the kernel's own account of that time says so.

Source: kernel documentation ``accounting/psi.rst``, ``cgroup-v2.rst``, ``cgroup-v1/memory.rst``, proc_meminfo(5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tigrismount.core.cgroups import memory_cgroups

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.core.cgroups import MemoryCgroup

MARGIN_BYTES = 256 << 20
"""Room beyond a file's own bytes that must be there before it is pushed: what its reader makes of them, at the least
its bookkeeping."""
LEAST_BYTES = 64 << 20
"""Room below which nothing is pushed, whoever asked for it."""
STALLED_SHARE = 0.1
"""Share of time that somebody waits for memory, from which on nothing is pushed."""
LOOK_EVERY_S = 0.25
"""A look opens a handful of small files, about 0.2 ms."""


def read_text(path: str) -> str:
    """Return the text of a file, empty where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


class MemoryRoom:
    """Looks at the memory of this process's control groups and of the machine.

    Args:
        clock: Seconds.
        read: Returns the text of a file, empty where there is none.
    """

    def __init__(self, clock: Callable[[], float], read: Callable[[str], str] = read_text) -> None:
        self._clock = clock
        self._read = read
        groups = list(memory_cgroups(read("/proc/self/cgroup"), read("/proc/self/mountinfo")))
        self._groups = [group for group in groups if read(group.file("memory.max", "memory.limit_in_bytes"))]
        pressures = [group.file("memory.pressure", "") for group in self._groups if group.version == 2]
        self._pressure = next((path for path in pressures if read(path)), "/proc/pressure/memory")
        self._looked_s = float("-inf")
        self._stalled_us = 0
        self._is_pressed = False

    def available_bytes(self) -> int | None:
        """Return how much more memory could be used without anybody waiting for it; None where nothing says so."""
        fields = _fields(self._read("/proc/meminfo").replace(":", ""))
        rooms = [fields["MemAvailable"] * 1024] if "MemAvailable" in fields else []
        rooms += [room for group in self._groups if (room := self._room_in(group)) is not None]
        return max(0, min(rooms)) if rooms else None

    def holds(self, size_bytes: int) -> bool:
        """Tell whether a file of *size_bytes* and a margin would fit."""
        available_bytes = self.available_bytes()
        return available_bytes is not None and available_bytes >= size_bytes + MARGIN_BYTES

    def is_pressed(self) -> bool:
        """Tell whether memory is short now, or has been since the last look."""
        now_s = self._clock()
        elapsed_s = now_s - self._looked_s
        if elapsed_s >= LOOK_EVERY_S:
            before_us, self._stalled_us = self._stalled_us, _stalled_us(self._read(self._pressure))
            stalled = (self._stalled_us - before_us) / 1e6 > STALLED_SHARE * elapsed_s
            available_bytes = self.available_bytes()
            short = available_bytes is not None and available_bytes < LEAST_BYTES
            self._looked_s, self._is_pressed = now_s, stalled or short
        return self._is_pressed

    def _room_in(self, group: MemoryCgroup) -> int | None:
        limit = self._read(group.file("memory.max", "memory.limit_in_bytes")).strip()
        used = self._read(group.file("memory.current", "memory.usage_in_bytes")).strip()
        if not (limit.isdecimal() and used.isdecimal()):
            return None  # "max", or not there
        fields = _fields(self._read(group.file("memory.stat", "memory.stat")))
        prefix = "" if group.version == 2 else "total_"
        cached = fields.get(f"{prefix}inactive_file", 0) + fields.get(f"{prefix}active_file", 0)
        return int(limit) - int(used) + cached


def _fields(text: str) -> dict[str, int]:
    lines = (line.split() for line in text.splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _stalled_us(text: str) -> int:
    """Return the ``total`` of the line ``some``: microseconds in which some task waited for memory."""
    for line in text.splitlines():
        if line.startswith("some "):
            total = line.rpartition("total=")[2].strip()
            return int(total) if total.isdecimal() else 0
    return 0
