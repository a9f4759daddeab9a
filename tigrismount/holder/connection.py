"""The kernel's side of a mount: the descriptor, how the conversation began, and the journal of node ids.

This is what must outlive a worker. Whoever has it all can put a worker behind the mount: this supervisor, the one
that takes its place in an upgrade, or the one that systemd starts after it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import TYPE_CHECKING

from tigrismount.errors import MountError
from tigrismount.holder.covered import open_directory, unlistable
from tigrismount.holder.init import INIT_REQUEST_BYTES, InitRequest, describe_init
from tigrismount.holder.knobs import raise_read_ahead
from tigrismount.holder.mountinfo import MountEntry, mount_at, read_mounts
from tigrismount.holder.mounting import BusyError, mount, unmount
from tigrismount.holder.probe import Health, probe
from tigrismount.memoryfile import make_memory_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tigrismount.holder.events import Events
    from tigrismount.holder.mounting import MountSpec

_BUSY_RETRY_S = 0.25  # how soon a busy mount is tried again
_LOOK_S = 2.0  # how long a mount that may be a lost one is asked: that of a dead worker answers at once


class Connection:
    """One mount as the kernel knows it.

    Args:
        spec: What the kernel is told.
        complain: Told what cannot be undone.
        may_unmount: Whether this process made the mount and may take it away; else somebody privileged does.
    """

    def __init__(self, spec: MountSpec, complain: Callable[[str], None], *, may_unmount: bool = True) -> None:
        self.spec = spec
        self.may_unmount = may_unmount
        self._complain = complain
        self.fuse_fd = -1
        self.journal_fd = -1
        self.covered_fd = -1
        """The directory below, where a plain user mounted; open until the end, as mounting anew needs it."""
        self.init_request = b""
        """The kernel's first message; empty before mounting."""
        self.init_reply = b""
        """What was answered; empty until a worker has attached."""
        self.entry: MountEntry | None = None
        self._journals = 0
        self._lost: set[int] = set()

    @property
    def kernel(self) -> InitRequest:
        """What the kernel offered."""
        return describe_init(self.init_request)

    def mount(self) -> None:
        """Mount, and read the kernel's INIT request.

        Raises:
            MountError: It could not be mounted.
        """
        self.fuse_fd, self.init_reply = self._mount(), b""
        try:
            self.entry = mount_at(self.spec.mountpoint)
            self.journal_fd = make_memory_file("tigrismount-journal")
            self.init_request = os.read(self.fuse_fd, INIT_REQUEST_BYTES)
            describe_init(self.init_request)
        except OSError as exc:
            if self.entry is None:  # who undoes it would not know that it is there
                unmount(self.spec.mountpoint, lazy=True)
            raise MountError(f"the kernel did not begin the conversation: {exc.strerror}") from exc

    def _mount(self) -> int:
        """Mount, on top of a lost mount or, where only its owner may, in its place."""
        if os.geteuid() == 0:
            self._check_not_taken()
            return mount(self.spec)
        if not self._lost:
            self.covered_fd = open_directory(self.spec.mountpoint)
            return mount(self.spec)
        self._check_not_taken()
        with unlistable(self.covered_fd, self.spec.mountpoint):
            unmount(self.spec.mountpoint, lazy=True)
            self._lost.clear()
            return mount(self.spec)

    def _check_not_taken(self) -> None:
        """Refuse to hide a mount that somebody has made since it was looked for, while our worker started.

        Also any other that covers a lost one. ``fusermount3`` refuses to mount there, but unmounts whatever is on top.
        """
        entry = mount_at(self.spec.mountpoint)
        if entry is not None and (entry.is_ours or self._lost) and entry.mount_id not in self._lost:
            when = "over the one that is lost" if self._lost else "at the same time"
            raise MountError(f"{self.spec.mountpoint}: {entry.source} has been mounted there {when}")

    @property
    def lost(self) -> list[int]:
        """Numbers of the mounts that were left below, and are to go with this one."""
        return sorted(self._lost)

    def adopt(
        self,
        fuse_fd: int,
        journal_fd: int,
        init_request: bytes,
        init_reply: bytes,
        covered_fd: int = -1,
        lost: Iterable[int] = (),
        known: tuple[int, str] | None = None,
    ) -> None:
        """Go on with what another process held; the descriptors are owned from now on.

        Args:
            fuse_fd: The connection.
            journal_fd: The journal; a new one where there is none.
            init_request: The kernel's first message.
            init_reply: What was answered.
            covered_fd: The directory below.
            lost: Numbers of the mounts that were left below.
            known: The mount's own numbers, where they are those of today; else it is what is seen at its place.

        Raises:
            MountError: *init_request* is not one.
        """
        describe_init(init_request)
        self.fuse_fd, self.init_request, self.init_reply = fuse_fd, init_request, init_reply
        self.covered_fd, self._lost = covered_fd, set(lost)
        if journal_fd < 0:
            journal_fd = make_memory_file("tigrismount-journal")
        self.journal_fd = journal_fd
        # Not what covers it by now, which is somebody else's.
        mounts = [entry for entry in read_mounts() if entry.is_ours]
        if known is None:
            self.entry = mount_at(self.spec.mountpoint, mounts)
        else:
            self.entry = next((entry for entry in mounts if (entry.mount_id, entry.device) == known), None)

    def answer(self, reply: bytes) -> None:
        """Answer INIT; only once in the life of a connection.

        Raises:
            MountError: The kernel does not take it.
        """
        try:
            os.write(self.fuse_fd, reply)
        except OSError as exc:
            raise MountError(f"the worker's answer to the kernel is not valid: {exc!r}") from exc
        self.init_reply = reply

    def keep_journal(self, fd: int) -> None:
        """Take the journal that a worker has written anew in the place of the old one."""
        os.close(self.journal_fd)
        self.journal_fd = fd
        self._journals += 1

    @property
    def journal_number(self) -> int:
        """Grows with each journal that took the place of another."""
        return self._journals

    def raise_read_ahead(self, kib: int | None) -> list[str]:
        """Set the mount's read-ahead, where somebody wants that; return warnings."""
        if kib is None or self.entry is None:
            return []
        return raise_read_ahead(self.entry.device, kib)

    def is_connected(self) -> bool:
        """Whether the kernel still speaks to whoever holds the descriptor: also after a lazy unmount, if in use."""
        if self.fuse_fd < 0:
            return False
        poll = select.poll()
        poll.register(self.fuse_fd, 0)
        return not poll.poll(0)

    def is_mounted(self) -> bool:
        """Whether it can still be seen."""
        return self.entry is not None and self._find(read_mounts()) is not None

    def _find(self, mounts: Iterable[MountEntry]) -> MountEntry | None:
        """Return the mount as it is among *mounts* now; the directory above it may have another name."""
        entry = self.entry
        if entry is None:
            return None
        # Numbers of a mount that is gone are given to the next one, which may be anybody's.
        lasts = self.is_connected()
        return next((other for other in mounts if other.is_same_as(entry, may_have_moved=lasts)), None)

    def try_unmount(self, *, lazy: bool) -> None:
        """Unmount; what goes wrong is complained about."""
        if not self.may_unmount:
            return
        try:
            self._unmount(lazy=lazy)
        except MountError as exc:
            self._complain(str(exc))

    def _unmount(self, *, lazy: bool = False) -> None:
        """Unmount it wherever it is now, and nothing that somebody has mounted over it.

        Raises:
            BusyError: It is in use.
            MountError: It is covered, or could not be unmounted for another reason.
        """
        mounts = read_mounts()
        ours = self._find(mounts)
        if ours is None:
            return
        top = mount_at(ours.mountpoint, mounts)
        if top is not None and top.mount_id != ours.mount_id:
            raise MountError(f"{ours.mountpoint}: {top.source} has been mounted over it: unmount both by hand")
        unmount(ours.mountpoint, lazy=lazy)

    def unmount_within(self, grace_s: float, events: Events, warn: Callable[[str], None]) -> bool:
        """Unmount, waiting *grace_s* seconds for the last user; return whether some were left."""
        deadline_s = time.monotonic() + grace_s
        while self.is_mounted():
            try:
                self._unmount()
            except BusyError:
                if time.monotonic() >= deadline_s or _wants_haste(events):
                    warn(f"{self.spec.mountpoint} is in use: its open files fail from now on")
                    self.try_unmount(lazy=True)
                    return True
                events.turn(_BUSY_RETRY_S)
            except MountError as exc:
                self._complain(str(exc))
                return True
        return False

    def leave_below(self) -> None:
        """Leave a mount that is lost where it is, for another one on top: it hides the directory from everybody."""
        if self.entry is not None:
            self._lost.add(self.entry.mount_id)
        self.entry = None

    def remove_lost(self) -> None:
        """Remove the mounts that were left below."""
        while self._lost and (entry := mount_at(self.spec.mountpoint)) is not None and entry.mount_id in self._lost:
            self._lost.discard(entry.mount_id)
            try:
                # Its number is given to the next one once somebody has removed it: who answers is no lost mount.
                if probe(self.spec.mountpoint, timeout_s=_LOOK_S).health is Health.OK:
                    return
                unmount(self.spec.mountpoint, lazy=True)
            except MountError as exc:
                self._complain(str(exc))

    def close(self) -> None:
        """Let go: where nobody else holds it, requests that wait end in an error."""
        for fd in (self.fuse_fd, self.journal_fd):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self.fuse_fd = self.journal_fd = -1


def _wants_haste(events: Events) -> bool:
    """Whether somebody has asked once more for the end; a log that is rotated meanwhile is no such wish."""
    while (number := events.take_signal()) is not None:
        if number in (signal.SIGTERM, signal.SIGINT):
            return True
    return False
