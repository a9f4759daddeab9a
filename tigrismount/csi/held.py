"""The driver's mounts: made here, with the node's privilege, and served by the mounter without any.

Driver and mounter both hold what each mount needs to live on (``mounter.wire``), so that either may end alone. What
this side does when::

    start ──→ the mounter finds the store answering → mount, read INIT → attach → a look through the mount → OK
              whatever fails on the way is undone
    the mounter has gone ──→ the next one that connects is given every mount (adopt)
    this driver has gone ──→ the next one is given every mount by the mounter (have)
    lost: no worker can serve the connection any more ──→ mount anew on top, and say so (pods' bind mounts follow)
    nobody answers for too long ──→ abort: an error is better than a hang

Locks: ``_lock`` guards what is known, and is held for moments only, also by the thread that reads the mounter's
messages. Each mount has a lock of its own for what takes long (start, stop, rotate, mounting anew); a holder of it may
take ``_lock``, never the other way round.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tigrismount.csi import kernel
from tigrismount.csi.holding import Held, Operations
from tigrismount.csi.link import AnswerTimeoutError, Link, MounterGoneError
from tigrismount.csi.making import NO_MOUNTER, Maker
from tigrismount.csi.mounts import MountFailure, MountState
from tigrismount.csi.patrol import EVERY_S, Patrol
from tigrismount.csi.records import Records
from tigrismount.errors import MountError
from tigrismount.holder.mountinfo import canonical_mountpoint
from tigrismount.holder.mounting import DEVICE
from tigrismount.holder.probe import Health
from tigrismount.mounter.wire import Order

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tigrismount.csi.mounts import MountSpec, Secret
    from tigrismount.holder.protocol import Message

log = logging.getLogger(__name__)

_LOOK_S = 2.0
"""How long ``state`` waits for an answer through a mount: its caller waits 3 s."""
_TELL_S = 10.0
"""How long the mounter may take to do a small thing."""
_PING_S = 2.0
_TURN_S = 5.0
"""How long a call waits for what is done to its mount already, such as mounting it anew; it is repeated."""
_REMOUNT_S = 60.0
"""How long mounting anew may take: nobody waits for it but readers whose files are lost anyway."""


class HeldMounts:
    """The ``Mounts`` of a node.

    Args:
        comm_dir: Directory in which driver and mounter meet.
        state_dir: Directory of the records.
        mounter_uid: The mounter's user.
        on_remounted: Called, in a thread of its own, where a mount was made anew: bind mounts of the old one are dead.
        takeover_s: Seconds that readers may wait for somebody to serve a mount, before they get an error.
        hang_s: Seconds that a worker may leave the kernel without an answer.
        look_every_s: Seconds between two looks at that.
    """

    def __init__(
        self,
        comm_dir: Path,
        state_dir: Path,
        *,
        mounter_uid: int,
        on_remounted: Callable[[str, Path], None] = lambda mount_id, at: None,
        takeover_s: float = 60.0,
        hang_s: float = 20.0,
        look_every_s: float = EVERY_S,
    ) -> None:
        self._link = Link(str(comm_dir), mounter_uid, self._take_message)
        self._records = Records(state_dir / "mounts")
        self._on_remounted = on_remounted
        self._lock = threading.RLock()
        self._mounts: dict[str, Held] = {}
        self._operations = Operations()
        self._maker = Maker(self._link, self._records)
        self._hang_s = hang_s
        self._patrol = Patrol(
            self._watched,
            self._link.alone_s,
            self._have_killed,
            self._give_up,
            hang_s=hang_s,
            takeover_s=takeover_s,
            every_s=look_every_s,
        )

    def open(self) -> None:
        """Take stock of what a driver before this one has left, and begin to listen for the mounter.

        Raises:
            MountError: The directories cannot be used.
        """
        for order in self._records.read():
            held = Held(order)
            if kernel.is_mounted(held.at):
                self._mounts[order.mount_id] = held
            else:  # the node was booted since, or somebody has unmounted it
                self._records.forget(order.mount_id)
                with contextlib.suppress(MountError):
                    kernel.remove_directory(held.at)
        self._link.open()
        self._patrol.start()

    def close(self) -> None:
        """Let go; the mounts are served on, and the next driver is given them."""
        self._patrol.stop()
        self._link.close()
        with self._lock:
            for held in self._mounts.values():
                held.close()

    # ------------------------------------------------------------------ what the services ask

    def start(self, mount_id: str, at: Path, spec: MountSpec, secret: Secret, deadline_s: float) -> None:
        """Mount; see :class:`Mounts`."""
        deadline_s += time.monotonic()
        at = Path(canonical_mountpoint(str(at)))
        order = Order(
            mount_id=mount_id, source=spec.source, options=spec.options, mountpoint=str(at), secret=dict(secret)
        )
        with self._operations.on(mount_id, deadline_s - time.monotonic()):
            if not self._is_served(mount_id, deadline_s):
                self._make(order, deadline_s)

    def rotate(self, mount_id: str, secret: Secret) -> None:
        """Sign with another key; see :class:`Mounts`."""
        with self._operations.on(mount_id, _TURN_S):
            with self._lock:
                held = self._mounts.get(mount_id)
                if held is None:
                    raise MountFailure("internal", f"{mount_id}: there is no such mount")
                held.order = replace(held.order, secret=dict(secret))
            # Without a mounter, the next one is given the new key.
            with contextlib.suppress(MounterGoneError):
                self._maker.ask("rotate", timeout_s=_TELL_S, id=mount_id, secret=dict(secret))

    def stop(self, mount_id: str) -> None:
        """Unmount; see :class:`Mounts`."""
        with self._operations.on(mount_id, _TURN_S):
            with self._lock:
                held = self._mounts.get(mount_id)
            if held is None:
                return
            self._maker.undo(held)
            with self._lock:
                self._mounts.pop(mount_id, None)
            self._records.forget(mount_id)

    def state(self, mount_id: str) -> MountState:
        """Look through the mount; see :class:`Mounts`."""
        with self._lock:
            held = self._mounts.get(mount_id)
            if held is None:
                return MountState(served=False, reason="it is not mounted")
            degraded, reason, lost = held.degraded or None, held.reason, held.lost
        if not kernel.is_mounted(held.at):
            return MountState(served=False, reason="somebody has unmounted it")
        finding = kernel.look(held.at, _LOOK_S)
        if finding.health is Health.OK:
            return MountState(served=True, degraded=degraded, reason=f"the worker {reason}" if reason else "")
        if finding.health is Health.HUNG:
            waits = "no worker answers" if self._link.is_connected else "there is no mounter"
            return MountState(served=False, reason=f"{waits}; reads wait")
        return MountState(served=False, reason=lost or f"the mount is lost ({finding.detail})")

    def known(self) -> Mapping[str, Path]:
        """Return all mounts; see :class:`Mounts`."""
        with self._lock:
            return {mount_id: held.at for mount_id, held in self._mounts.items()}

    def ready(self) -> str | None:
        """Return why no mount could be made; see :class:`Mounts`."""
        try:
            os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
        except OSError as exc:
            return f"{DEVICE}: cannot be opened: {exc.strerror}"
        try:
            self._link.ask("ping", timeout_s=_PING_S)
        except MounterGoneError:
            return NO_MOUNTER
        except AnswerTimeoutError:
            return f"the mounter did not answer within {_PING_S:g} s"
        return None

    # ------------------------------------------------------------------ making a mount

    def _is_served(self, mount_id: str, deadline_s: float) -> bool:
        """Return whether the mount answers; one whose worker is being replaced is waited for.

        Raises:
            MountFailure: It is there and does not answer, or that cannot be told.
        """
        with self._lock:
            held = self._mounts.get(mount_id)
        if held is None or not kernel.is_mounted(held.at):
            return False
        finding = kernel.look(held.at, deadline_s - time.monotonic())
        if finding.health is Health.HUNG:
            raise MountFailure("timeout", f"{mount_id}: is mounted, and no worker answers; try again")
        if finding.health is Health.FAILED and not held.lost:
            # As where the child that looked was killed for want of memory: another mount would be the end of this one.
            raise MountFailure("internal", f"{mount_id}: is mounted, and the look failed: {finding.detail}; try again")
        return finding.health is Health.OK

    def _make(self, order: Order, deadline_s: float) -> None:
        """Mount, on top of what is there of this mount and is dead.

        Raises:
            MountFailure: All is as it was.
        """
        with self._lock:
            before = self._mounts.get(order.mount_id)
        try:
            self._maker.make(order, deadline_s, self._register, on_top=before is not None)
        except BaseException:
            with self._lock:
                self._mounts.pop(order.mount_id, None)
                if before is not None:
                    self._mounts[order.mount_id] = before
            raise
        log.info("%s is mounted as %s", order.source, order.mount_id)

    def _register(self, held: Held) -> None:
        with self._lock:
            self._mounts[held.order.mount_id] = held

    # ------------------------------------------------------------------ what the mounter says

    def _take_message(self, message: Message) -> None:
        """Called in the thread that reads; must not wait for anything."""
        fds = list(message.fds)
        try:
            if message.type == "hello":
                self._give(set(map(str, message.body.get("ids", ()))))
                return
            with self._lock:
                held = self._mounts.get(str(message.body.get("id")))
                if held is None:
                    if message.type == "have":
                        self._link.tell("stop", id=message.body.get("id"))
                elif message.type == "have":
                    self._take_back(held, message, fds)
                elif message.type == "unknown":  # it was given, and the message was lost on the way
                    self._give_one(held)
                elif message.type == "journal" and fds:
                    with held.passing:
                        if held.journal_fd >= 0:  # else its number would outlive it
                            os.close(held.journal_fd)
                            held.journal_fd = fds.pop()
                elif message.type == "state":
                    held.degraded, held.reason = str(message.body["degraded"]), str(message.body["reason"])
                    held.count = int(message.body["count"])
                elif message.type == "lost" and not held.is_ending:
                    self._lose(held, str(message.body["message"]), may_remount=bool(message.body["may_remount"]))
        finally:
            for fd in fds:
                os.close(fd)

    def _give(self, has: set[str]) -> None:
        """Give a mounter that has just connected all mounts that it does not hold."""
        with self._lock:
            for mount_id, held in self._mounts.items():
                if mount_id not in has:
                    self._give_one(held)

    def _give_one(self, held: Held) -> None:
        with held.passing:
            if not held.can_be_adopted:
                return
            log.info("%s: given to the mounter", held.order.mount_id)
            self._link.tell(
                "adopt",
                [held.fuse_fd, held.journal_fd],
                **held.order.to_values(),
                init=held.init,
                init_reply=held.init_reply,
                count=held.count,
                reason=held.reason,
            )

    def _take_back(self, held: Held, message: Message, fds: list[int]) -> None:
        """Hold again what the mounter has kept over the end of a driver."""
        order = Order.from_values(message.body)
        if len(fds) != 2 or order.mountpoint != held.order.mountpoint:
            log.warning("%s: the mounter has something else under this name", held.order.mount_id)
            return
        held.close()
        held.journal_fd, held.fuse_fd = fds.pop(), fds.pop()
        held.init, held.init_reply = str(message.body["init"]), str(message.body["init_reply"])
        held.count, held.reason = int(message.body["count"]), str(message.body["reason"])
        if not held.order.secret:
            held.order = replace(held.order, secret=order.secret)
        elif dict(held.order.secret) != dict(order.secret):  # replaced while there was no connection
            self._link.tell("rotate", id=held.order.mount_id, secret=dict(held.order.secret))
        log.info("%s: taken back from the mounter", held.order.mount_id)

    def _lose(self, held: Held, message: str, *, may_remount: bool) -> None:
        log.warning("%s: %s", held.order.mount_id, message)
        held.lost = message
        # Before it was taken back from the mounter, as by a driver that has just begun, its key is not known, and none
        # would mean the mounter's own: it is mounted anew when it is published again.
        may_remount = may_remount and (held.fuse_fd >= 0 or bool(held.order.secret))
        # A worker that is stuck on a disk cannot be killed, and holds the connection: readers would wait for it.
        with contextlib.suppress(MountError, OSError):  # such as no descriptor left for the list of mounts
            kernel.abort(held.at)
        held.close()
        if may_remount:
            name = f"mount {held.order.mount_id} anew"
            threading.Thread(target=self._remount, args=(held,), name=name, daemon=True).start()

    # ------------------------------------------------------------------ what the patrol finds

    def _watched(self) -> dict[str, Path]:
        """Return the mounts that a worker could serve."""
        with self._lock:
            return {mount_id: held.at for mount_id, held in self._mounts.items() if held.can_be_adopted}

    def _have_killed(self, mount_id: str) -> None:
        log.warning("%s: the worker does not answer the kernel; the mounter is told to kill it", mount_id)
        self._link.tell("kill", id=mount_id, how=f"did not answer the kernel for {self._hang_s:g} s")

    def _give_up(self, mount_id: str, outage_s: float) -> None:
        """End a connection that nobody has served for too long: an error is better than a hang."""
        with self._lock:
            held = self._mounts.get(mount_id)
            if held is None or not held.can_be_adopted:
                return
            self._lose(held, f"nobody came to serve it within {outage_s:.0f} s", may_remount=False)
        self._link.tell("stop", id=mount_id)

    def _remount(self, held: Held) -> None:
        """Mount anew on top of a mount that is lost; where that fails, it stays lost until it is published again."""
        mount_id = held.order.mount_id
        try:
            with self._operations.on(mount_id, _REMOUNT_S):
                with self._lock:
                    if self._mounts.get(mount_id) is not held:
                        return
                self._make(held.order, time.monotonic() + _REMOUNT_S)
        except MountFailure as exc:
            log.warning("%s: could not be mounted anew: %s", mount_id, exc)
            return
        self._on_remounted(mount_id, held.at)
