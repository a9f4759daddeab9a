"""Does the worker still make progress? Asked all the time, so that a hang ends like a crash: with a successor.

Two things are asked, because either can stop alone. A *ping* over the channel is answered by the worker's loop; a
*probe* is a child that calls ``statvfs`` on the mountpoint, which is answered without any look at the store and never
from the kernel's caches. A store that is slow or away stops neither.

A loop that does not answer is probed at once, which may also free it. Where a reader is killed whose request the worker
is about to take, the worker's library waits for the next request, and all the worker with it; the probe is one.

Patience is counted in turns of this watchdog and not in seconds: on a machine that is overloaded, paused or suspended
its turns come late as well, and so nobody is accused of what the machine did.

Nor of what others do: a filesystem that hangs on top of the mount, or on the way to it, hangs the probe as well.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING

from tigrismount.errors import MountError
from tigrismount.holder.mountinfo import mount_at
from tigrismount.holder.probe import Health, Probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.holder.worker import Worker

TURNS_MAX = 10
"""Turns without an answer after which a worker counts as hung."""
_PROBE_EVERY_TURNS = 5
"""A probe is a process; pings are nearly free."""


class Watchdog:
    """Asks one mount's workers, one after the other.

    Args:
        mountpoint: Where ``statvfs`` is called; None asks the loop only.
        hang_s: Seconds after which a worker counts as hung, on a machine that is not overloaded.
        start_probe: Starts a probe of a path; raises MountError where it cannot.
    """

    def __init__(self, mountpoint: str | None, hang_s: float, *, start_probe: Callable[[str], Probe] = Probe) -> None:
        self._start_probe = start_probe
        self._mountpoint = mountpoint
        self._every_s = hang_s / TURNS_MAX
        self._probe: Probe | None = None
        self._probe_turns = 0
        self._turns = 0
        self._next_s = 0.0
        self._is_covered = False
        self._way: Probe | None = None
        """Looks at the directory above the mount, from when an answer is late until that one is there."""
        self.has_progress = True
        """Whether everything that was asked before the last turn has been answered."""

    def wait_s(self) -> float:
        """Return how long nothing need be done."""
        return max(0.0, self._next_s - time.monotonic())

    def turn(self, worker: Worker) -> str:
        """Ask again where it is time to; return what is wrong, empty where all is well."""
        if self.wait_s():
            return ""
        self._next_s = time.monotonic() + self._every_s
        self._turns += 1
        finding = self._look(worker)
        seconds = f"{TURNS_MAX * self._every_s:g} s"
        if worker.unanswered >= TURNS_MAX:
            return f"did not answer its supervisor for {seconds}"
        if self._probe_turns >= TURNS_MAX:
            is_seen = self._is_seen()
            if is_seen and self._is_reached():
                return f"did not answer the kernel for {seconds}"
            self._is_covered = not is_seen
            self._end_probe()
        self.has_progress = worker.unanswered == 0 and finding
        worker.ping()
        return ""

    def reset(self) -> None:
        """Begin anew, for the next worker."""
        self._end_probe()
        self._end_look_above()
        self._next_s = time.monotonic() + self._every_s
        self.has_progress = True

    def _end_probe(self) -> None:
        if self._probe is not None:
            self._probe.finish()
            self._probe = None
        self._probe_turns = 0

    def _is_reached(self) -> bool:
        """Whether the way to our mount is free: it may lead through a filesystem that does not answer itself."""
        if self._way is not None and not _has_answered(self._way):
            return False
        self._end_look_above()
        return True

    def _look_above(self) -> None:
        assert self._mountpoint is not None
        if self._way is None:
            with contextlib.suppress(MountError):  # who has no process left for one does without
                self._way = self._start_probe(os.path.dirname(self._mountpoint))

    def _end_look_above(self) -> None:
        if self._way is not None:
            self._way.finish()
            self._way = None

    def _is_seen(self) -> bool:
        """Whether it is our mount that does not answer, and not one that somebody has made on top of it."""
        assert self._mountpoint is not None
        try:
            entry = mount_at(self._mountpoint)
        except OSError:  # such as no descriptor left on this machine: it is asked again
            return False
        return entry is not None and entry.is_ours

    def _look(self, worker: Worker) -> bool:
        """Follow the probe; return whether it is in time."""
        if self._probe is None:
            if self._mountpoint is not None and (worker.unanswered or self._turns % _PROBE_EVERY_TURNS == 0):
                # What hangs on top keeps each child that asks it for as long as it hangs.
                self._is_covered = self._is_covered and not self._is_seen()
                if self._is_covered or not self._is_reached():
                    return True
                with contextlib.suppress(MountError):  # who has no process left for one asks again later
                    self._probe, self._probe_turns = self._start_probe(self._mountpoint), 0
            return True
        self._probe_turns += 1
        if not _has_answered(self._probe):
            if self._probe_turns > 1:
                self._look_above()
            return self._probe_turns <= 1
        health = self._probe.finish().health
        self._probe, self._probe_turns = None, 0
        return health is not Health.HUNG


def _has_answered(probe: Probe) -> bool:
    return bool(select.select([probe], [], [], 0)[0])
