"""Bind mounts that exist in memory only, beside ``memory_mounts``."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tigrismount.csi.look import Seen
from tigrismount.csi.refusal import Code, RefusalError

if TYPE_CHECKING:
    from pathlib import Path

    from tigrismount.testing.memory_mounts import MemoryMounts


@dataclass
class MemoryBinds:
    """A ``Binds`` that makes directories and mounts nothing.

    A target shows the mount that was at its directory when it was bound: one that is made anew later is another.
    """

    mounts: MemoryMounts
    """Whose mounts are shown."""
    shown: dict[str, list[object]] = field(default_factory=dict)
    """What is bound where, in the order in which it was bound."""
    faults: dict[str, str] = field(default_factory=dict)
    """By call (``bind``, ``unbind``, ``look``): what goes wrong."""
    looks: list[str] = field(default_factory=list)
    """Where somebody has looked."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def bind(self, at: Path, target: str) -> None:
        """Remember it."""
        self._fail("bind")
        mount = self._mount_at(at)
        assert mount is not None, "bound before it was mounted"
        os.makedirs(target, exist_ok=True)
        with self._lock:
            self.shown.setdefault(target, []).append(mount)

    def unbind(self, target: str) -> None:
        """Forget it."""
        self._fail("unbind")
        with self._lock:
            self.shown.pop(target, None)
        if os.path.isdir(target):
            os.rmdir(target)

    def is_bound(self, at: Path, target: str) -> bool:
        """Tell whether what is there now was bound."""
        layers = self.shown.get(target, [])
        return bool(layers) and layers[-1] is self._mount_at(at)

    def has_mount(self, target: str) -> bool:
        """Tell whether anything was bound."""
        return target in self.shown

    def look(self, target: str, timeout_s: float) -> Seen:
        """Return an answer, or the fault that a test has set."""
        self.looks.append(target)
        return Seen(fault=self.faults.get("look", ""))

    def _mount_at(self, at: Path) -> object:
        return next((mount for mount in self.mounts.mounts.values() if mount.at == at), None)

    def _fail(self, call: str) -> None:
        if fault := self.faults.get(call):
            raise RefusalError(Code.INTERNAL, fault)
