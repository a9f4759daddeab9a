"""Mounts that exist in memory only: what tests of the CSI services run on."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.csi.mounts import MountFailure, MountState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tigrismount.csi.mounts import MountSpec, Secret


@dataclass
class MemoryMount:
    """One mount, and what a test may change about it."""

    at: Path
    spec: MountSpec
    secret: dict[str, str]
    state: MountState


class MemoryMounts:
    """A ``Mounts`` that makes directories and mounts nothing.

    Args:
        before_start: Called in ``start`` before anything is made; may raise :class:`MountFailure`, or wait.
    """

    def __init__(self, before_start: Callable[[str, MountSpec], None] | None = None) -> None:
        self._lock = threading.Lock()
        self.before_start = before_start
        """As above; may be replaced between two calls."""
        self.mounts: dict[str, MemoryMount] = {}
        """What is mounted, by id."""
        self.starts: list[str] = []
        """The ids of all mounts that were made, in order."""
        self.not_ready: str | None = None
        """What ``ready`` answers."""

    def start(self, mount_id: str, at: Path, spec: MountSpec, secret: Secret, deadline_s: float) -> None:
        """Make the directory, unless the mount serves already."""
        if self.before_start is not None:
            self.before_start(mount_id, spec)
        with self._lock:
            before = self.mounts.get(mount_id)
            if before is not None and before.state.served:
                return
            at.mkdir(parents=True, exist_ok=True)
            self.mounts[mount_id] = MemoryMount(at, spec, dict(secret), MountState(served=True))
            self.starts.append(mount_id)

    def rotate(self, mount_id: str, secret: Secret) -> None:
        """Keep the new secret."""
        with self._lock:
            if mount_id not in self.mounts:
                raise MountFailure("internal", f"{mount_id}: there is no such mount")
            self.mounts[mount_id].secret = dict(secret)

    def stop(self, mount_id: str) -> None:
        """Forget the mount and remove its directory."""
        with self._lock:
            mount = self.mounts.pop(mount_id, None)
            if mount is not None:
                mount.at.rmdir()

    def state(self, mount_id: str) -> MountState:
        """Return what the test has set."""
        mount = self.mounts.get(mount_id)
        return MountState(served=False, reason="it is not mounted") if mount is None else mount.state

    def known(self) -> Mapping[str, Path]:
        """Return the mounts."""
        with self._lock:
            return {mount_id: mount.at for mount_id, mount in self.mounts.items()}

    def ready(self) -> str | None:
        """Return what the test has set."""
        return self.not_ready
