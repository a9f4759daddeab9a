"""Making one mount, step by step with the mounter, and leaving nothing of it where a step fails."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from tigrismount.csi import kernel
from tigrismount.csi.holding import Held
from tigrismount.csi.link import AnswerTimeoutError, Link, MounterGoneError
from tigrismount.csi.mounts import MountFailure
from tigrismount.errors import MountError
from tigrismount.holder.probe import Health
from tigrismount.memoryfile import make_memory_file
from tigrismount.mounter.wire import failure_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tigrismount.csi.records import Records
    from tigrismount.holder.protocol import Message
    from tigrismount.mounter.wire import Order

NO_MOUNTER = "no mounter has connected: is 'tigrismount mounter' running on this node?"
"""What is said where nobody could serve a mount."""

_STOP_S = 15.0
"""How long the mounter may take to end a worker, which has ten seconds."""
_UNDO_S = 4.0
"""The same where a mount did not come to serve: its worker may hang, and the caller's time is almost up. The mounter
sees to its end all the same."""
_MOST_READ_AHEAD_KIB = 1 << 20  # as in the options; the mounter has no privilege, and this is the kernel's memory
_GRACE_S = 1.0
"""How long the mounter's own word about a deadline is waited for: it says more than that the time is up."""


class Maker:
    """Makes mounts and takes them away.

    Args:
        link: To the mounter.
        records: What outlives this process.
    """

    def __init__(self, link: Link, records: Records) -> None:
        self._link = link
        self._records = records

    def make(self, order: Order, deadline_s: float, register: Callable[[Held], None], *, on_top: bool) -> None:
        """Mount until it serves or the deadline has passed; a mounter that is replaced meanwhile is waited for.

        Args:
            order: What.
            deadline_s: When it must serve, by the monotonic clock.
            register: Called with the mount before a worker gets it: the mounter may speak of it from then on.
            on_top: Whether a dead mount of it is there, which stays below.

        Raises:
            MountFailure: It does not serve, and nothing is left but what was there.
        """
        while True:
            try:
                return self._attempt(order, deadline_s, register, on_top=on_top)
            except MounterGoneError:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or not self._link.wait_for_mounter(left_s):
                    raise MountFailure("no_mounter", f"{order.source}: {NO_MOUNTER}") from None

    def undo(self, held: Held, *, only_top: bool = False, stop_s: float = _STOP_S) -> None:
        """Leave nothing of a mount: neither mount nor worker nor directory nor record.

        Args:
            held: Which.
            only_top: Leave what lies below, the directory and the record.
            stop_s: How long the end of the worker is waited for.

        Raises:
            MountFailure: Something is left.
        """
        held.is_ending = True
        try:
            if not only_top:
                kernel.unmount_all(held.at)
                self._records.forget(held.order.mount_id)
            elif held.fuse_fd >= 0 and kernel.is_mounted(held.at):
                kernel.unmount_top(held.at)
        except MountError as exc:
            raise MountFailure("internal", str(exc)) from exc
        finally:
            with contextlib.suppress(MounterGoneError, MountFailure):
                self.ask("stop", timeout_s=stop_s, id=held.order.mount_id)
            held.close()

    def ask(self, type_: str, fds: Sequence[int] = (), /, *, timeout_s: float, **body: object) -> Message:
        """Ask the mounter, and return its answer.

        Raises:
            MounterGoneError: There is none, or it went away.
            MountFailure: It did not answer in time, or said that it failed.
        """
        try:
            answer = self._link.ask(type_, fds, timeout_s=timeout_s, **body)
        except AnswerTimeoutError:
            raise MountFailure("timeout", f"{body.get('id')}: the mounter did not answer {type_!r} in time") from None
        if answer.type == "failed":
            raise MountFailure(failure_kind(answer.body.get("kind")), str(answer.body.get("message", "")))
        return answer

    def _attempt(self, order: Order, deadline_s: float, register: Callable[[Held], None], *, on_top: bool) -> None:
        left_s = deadline_s - time.monotonic()
        try:
            ready = self.ask("start", timeout_s=left_s + _GRACE_S, within_s=left_s, **order.to_values())
        except MountFailure:
            self._link.tell("stop", id=order.mount_id)
            raise
        version = ready.body.get("snapshot_version")
        held = Held(replace(order, snapshot_version=version if isinstance(version, str) else None))
        try:
            self._mount(held, ready)
            register(held)
            self._attach(held, deadline_s)
        except BaseException as exc:
            self.undo(held, only_top=on_top, stop_s=_UNDO_S)
            if isinstance(exc, MountError):
                raise MountFailure("internal", str(exc)) from exc
            raise

    def _mount(self, held: Held, ready: Message) -> None:
        fsname, kib = ready.body.get("fsname"), ready.body.get("read_ahead_kib")
        self._records.write(held.order)
        kernel.make_directory(held.at)
        fsname = fsname if isinstance(fsname, str) else held.order.source
        kib = min(kib, _MOST_READ_AHEAD_KIB) if isinstance(kib, int) else None
        held.fuse_fd, init = kernel.make_mount(held.at, fsname, kib)
        held.init = init.hex()
        held.journal_fd = make_memory_file("tigrismount-journal")

    def _attach(self, held: Held, deadline_s: float) -> None:
        fds, left_s = [held.fuse_fd, held.journal_fd], deadline_s - time.monotonic()
        serving = self.ask("attach", fds, timeout_s=left_s, id=held.order.mount_id, init=held.init)
        held.init_reply = str(serving.body.get("init_reply", ""))
        finding = kernel.look(held.at, deadline_s - time.monotonic())
        if finding.health is Health.HUNG:
            raise MountFailure("timeout", f"{held.order.source}: the mount did not answer in time")
        if finding.health is not Health.OK:
            raise MountFailure("internal", f"{held.order.source}: the first look failed: {finding.detail}")
