"""Looks through all mounts, all the time: a worker may stop without ending, and nobody may wait for ever.

The mounter sees whether a worker's loop turns. Whether the kernel is answered can be seen through the mount alone,
which the mounter need not even have in its view. So the driver looks, a few mounts at a time, with children that may
hang.

    no answer for ``hang_s``  → the mounter is told to kill the worker, and has another one take over
    nobody serves for ``takeover_s``, a mounter that is away included  → give up: readers get an error
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from tigrismount.csi.kernel import Look
from tigrismount.holder.probe import Health

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

_TICK_S = 0.5
EVERY_S = 20.0
"""How often each mount is looked through: a look is a process, and a hang is rare."""
_MOST_LOOKS = 4
"""Looks at once; each takes 8 MiB for as long as it hangs."""
_LATE_S = 5.0
"""A turn that comes so late says that this machine, or this container, was paused."""


class Patrol:
    """A thread that looks.

    Args:
        mounts: Gives what to look through.
        alone_s: Gives for how many seconds there has been no mounter, 0 where there is one.
        on_hang: Told that a worker does not answer the kernel, once for each time.
        on_outage: Told that nobody has served a mount for so long that it must be given up, and for how many seconds.
        hang_s: Seconds after which a worker counts as hung.
        takeover_s: Seconds after which a mount is given up.
        every_s: Seconds between two looks through one mount.
        start_look: Starts a look.
    """

    def __init__(
        self,
        mounts: Callable[[], Mapping[str, Path]],
        alone_s: Callable[[], float],
        on_hang: Callable[[str], None],
        on_outage: Callable[[str, float], None],
        *,
        hang_s: float,
        takeover_s: float,
        every_s: float = EVERY_S,
        start_look: Callable[[Path], Look] = Look,
    ) -> None:
        self._start_look = start_look
        self._mounts = mounts
        self._alone_s = alone_s
        self._on_hang = on_hang
        self._on_outage = on_outage
        self._hang_s = hang_s
        self._takeover_s = takeover_s
        self._every_s = every_s
        self._looks: dict[str, tuple[Look, float]] = {}
        self._told: set[str] = set()
        self._next_s: dict[str, float] = {}
        self._paused_alone_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="patrol", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no longer."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        for mount_id in list(self._looks):
            self._end_look(mount_id)

    def _run(self) -> None:
        paused_s, waits_s = 0.0, time.monotonic()
        while not self._ended.wait(_TICK_S):
            # Nobody is accused of having said nothing while all of them were paused.
            late_s = time.monotonic() - waits_s - _TICK_S
            late_s = late_s if late_s > _LATE_S else 0.0
            paused_s += late_s
            try:
                self.turn(time.monotonic() - paused_s, late_s)
            except Exception:
                log.exception("looking through the mounts failed; going on")
            waits_s = time.monotonic()

    def turn(self, now_s: float, paused_s: float = 0.0) -> None:
        """See what has been answered, and look where it is time to.

        Args:
            now_s: The time, without pauses.
            paused_s: For how long all was paused since the last turn.
        """
        mounts = self._mounts()
        for mount_id in self._looks.keys() - mounts.keys():
            self._end_look(mount_id)
        for mount_id in self._next_s.keys() - mounts.keys():
            del self._next_s[mount_id]
        alone_s = self._alone_s()
        self._paused_alone_s = min(alone_s, self._paused_alone_s + paused_s)  # it may have gone while all was paused
        if alone_s:
            alone_s -= self._paused_alone_s
            for mount_id in mounts if alone_s >= self._takeover_s else ():
                self._on_outage(mount_id, alone_s)
            return
        for mount_id in list(self._looks):
            self._judge(mount_id, now_s)
        due = [mount_id for mount_id in mounts if mount_id not in self._looks and self._is_due(mount_id, now_s)]
        due.sort(key=self._next_s.__getitem__)  # else those that come first are due again before the last had a turn
        for mount_id in due[: _MOST_LOOKS - len(self._looks)]:
            self._looks[mount_id] = self._start_look(mounts[mount_id]), now_s

    def _is_due(self, mount_id: str, now_s: float) -> bool:
        return now_s >= self._next_s.setdefault(mount_id, now_s + self._every_s)

    def _judge(self, mount_id: str, now_s: float) -> None:
        look, began_s = self._looks[mount_id]
        if look.finding().health is not Health.HUNG:
            self._end_look(mount_id)
            self._next_s[mount_id] = now_s + self._every_s
        elif now_s - began_s >= self._takeover_s:
            self._on_outage(mount_id, now_s - began_s)
            self._end_look(mount_id)
        elif now_s - began_s >= self._hang_s and mount_id not in self._told:
            self._told.add(mount_id)
            self._on_hang(mount_id)

    def _end_look(self, mount_id: str) -> None:
        look, _ = self._looks.pop(mount_id)
        look.close()
        self._told.discard(mount_id)
        self._next_s.pop(mount_id, None)
