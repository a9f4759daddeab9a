"""What the read path notes of each read, GET and push, for load reports: a list of tuples, folded elsewhere, later.

A report must not cost what it measures. So whoever serves a read appends one tuple and goes on; ``core.loadreport``
makes sense of them a few times per second, in one go. An event is

    ``(kind, obj, start, stop, since_s, until_s, source, cause)``

where times are of the log's own clock and ``source`` and ``cause`` say something only where a read was waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.core.types import ObjectId

    Event = tuple[int, ObjectId, int, int, float, float, str, str]

HIT = 0
"""A read was answered from memory at once."""
WAIT = 1
"""A read begins to wait."""
ANSWER = 2
"""A read that waited was answered; ``source`` and ``cause`` say from where, and what it had waited for."""
GAVE_UP = 3
"""A read that waited ended without an answer: it failed, or nobody wants it any more."""
GET = 4
"""A range GET ended; ``[start, stop)`` is what it brought."""
DISK = 5
"""A block came from the disk cache."""
PUSH = 6
"""Pages were handed to the kernel before it asked."""
LAYOUT = 7
"""The file's header was understood: ``start`` is where the data begins."""
THROUGH = 8
"""A file was opened onto the cache's own, and the kernel reads all of it, ``[start, stop)``, by itself; ``since_s`` to
``until_s`` is how long its OPEN waited."""
CLOSED = 9
"""Such a file was closed."""

RAM = "ram"
FLIGHT = "flight"
NVME = "nvme"
REMOTE = "remote"
SOURCES = (RAM, FLIGHT, NVME, REMOTE)
"""Where a read found its bytes: in memory, on their way already, on the disk, or in the store, unasked for."""

PLAN = "plan"
STORE = "store"
SLOW_DOWN = "slow_down"
MEMORY = "memory"
DISK_CAUSE = "disk"
CAUSES = (PLAN, STORE, SLOW_DOWN, MEMORY, DISK_CAUSE)
"""Why a read waited: nobody had asked for its bytes, they were on their way, the store asked for fewer requests
meanwhile, there was no memory for them, or they came from the disk."""


class LoadLog:
    """Takes events.

    Args:
        clock: Seconds; does not go backwards.
    """

    __slots__ = ("_events", "clock", "note")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._events: list[Event] = []
        self.note: Callable[[Event], object] = self._events.append
        """Appends one event; safe from any thread."""

    def take(self) -> list[Event]:
        """Return what was noted since the last time, oldest first."""
        count = len(self._events)  # a thread may append behind these meanwhile
        taken = self._events[:count]
        del self._events[:count]
        return taken


class NoLog(LoadLog):
    """Forgets everything, for whoever reads without a mount."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.note = _forget


def _forget(_event: Event) -> None:
    """Note nothing."""
