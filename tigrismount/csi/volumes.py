"""What publishing, unpublishing and asking about a volume mean here: one mount per volume, options and key.

The first target of a volume makes a mount in a directory of the driver's, served by a worker. Each target is a bind
mount of it, and the ledger counts them; with the last one the mount goes. A further target with the same options and
key shares the mount; with another key it gets one of its own, so that nobody reads from a cache what his own key could
not have looked up.

*Publish* answers only when somebody who looks through the target itself is answered by our filesystem. Until then every
step is undone on failure, in reverse. Kubernetes repeats *publish* for volumes that pods use, with today's Secret: the
mount gets the key without being made anew, and what has died meanwhile is healed, for all targets of the mount.

Nothing here waits for ever: a call has a budget, and no filesystem is touched but by a child that may hang.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tigrismount.csi.ledger import Ledger, Record, with_target, without_target
from tigrismount.csi.look import UNKNOWN, Amount
from tigrismount.csi.mounts import MountFailure
from tigrismount.csi.refusal import Code, RefusalError, invalid, refusal_of
from tigrismount.csi.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tigrismount.csi.attributes import VolumeSpec
    from tigrismount.csi.binds import Binds
    from tigrismount.csi.mounts import Mounts

log = logging.getLogger(__name__)

BUDGET_S = 28.0
"""Longest time of a call: the kubelet would wait two minutes, a person who watches a pod would not."""
MOST_STARTS = max(8, 4 * (os.cpu_count() or 1))
"""Mounts made at once. A start takes a second or two of a core, so that a node which boots with a hundred pods would
have all of them run out of time together, again and again; in turns some come through, and then the others."""
_TURN_S = 8.0
"""Longest wait for another call about the same volume."""
_PROOF_S = 5.0
"""Longest wait for an answer through a target; a healthy mount takes milliseconds."""
_UNDO_S = 5.0
"""What is kept back for taking down what did not come to serve."""
_LOOK_S = 3.0
"""The same where nothing depends on it."""
_LEAST_START_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A target that is to show a volume."""

    volume_id: str
    """As Kubernetes calls it."""
    target: str
    """Canonical path."""
    spec: VolumeSpec
    """What is mounted."""
    keys: Mapping[str, str]
    """The volume's own key; empty for the driver's."""


@dataclass(frozen=True, slots=True)
class Condition:
    """How a published volume does."""

    complaint: str
    """What is wrong, empty for nothing."""
    space: Amount = UNKNOWN
    """In bytes; a bucket does not know, and says 0."""
    files: Amount = UNKNOWN
    """In files and directories; likewise."""


class Volumes:
    """The volumes of this node.

    Args:
        mounts: Makes and serves mounts.
        binds: Shows them at targets.
        ledger: Remembers them.
        directory: Where the mounts go, canonical, one directory each.
        budget_s: Longest time of a call.
        most_starts: Mounts that are made at once.
    """

    def __init__(
        self,
        mounts: Mounts,
        binds: Binds,
        ledger: Ledger,
        directory: Path,
        *,
        budget_s: float = BUDGET_S,
        most_starts: int = MOST_STARTS,
    ) -> None:
        self._mounts = mounts
        self._binds = binds
        self._ledger = ledger
        self._directory = directory
        self._budget_s = budget_s
        self._turns = Turns()
        self._starts = threading.BoundedSemaphore(most_starts)

    def publish(self, wanted: Publication) -> None:
        """Show a volume at a target, or see to it that it is still shown.

        Raises:
            RefusalError: It is not shown; what was begun is undone.
        """
        deadline_s = time.monotonic() + self._budget_s
        with self._turn(wanted.volume_id, wanted.target):
            record = self._ledger.at(wanted.target)
            if record is None:
                self._publish_anew(wanted, deadline_s)
            else:
                self._publish_again(record, wanted, deadline_s)

    def unpublish(self, volume_id: str, target: str) -> None:
        """Take a volume away from a target; also one that never was there, or has died.

        Raises:
            RefusalError: Something is left, and the call is to be repeated.
        """
        with self._turn(volume_id, target):
            record = self._ledger.at(target)
            if record is not None and record.volume_id != volume_id:
                raise RefusalError(Code.NOT_FOUND, f"{target}: shows volume {record.volume_id!r}, not {volume_id!r}")
            self._binds.unbind(target)
            if record is not None:
                self._ledger.put(without_target(record, target))
            for left in self._ledger.of(volume_id):
                if not left.targets:  # also of a call before this one that did not come to its end
                    self._drop(left)
                    log.info("volume %r: nobody uses %s any more, unmounted", volume_id, left.source)

    def condition(self, volume_id: str, target: str) -> Condition:
        """Return how a volume does at a target, in a few seconds whatever state it is in.

        Raises:
            RefusalError: It is not published there.
        """
        record = self._ledger.at(target)
        if record is None or record.volume_id != volume_id:
            where = "it is not published on this node" if not self._ledger.of(volume_id) else f"not at {target}"
            raise RefusalError(Code.NOT_FOUND, f"volume {volume_id!r}: {where}")
        state = self._mounts.state(record.mount_id)
        if not state.served:
            return Condition(state.reason or "it is not served")
        if not self._binds.is_bound(self._at(record), target):
            return Condition(f"{target} does not show the volume; the next call to publish heals it")
        seen = self._binds.look(target, _LOOK_S)
        return Condition(state.degraded or seen.fault, seen.space, seen.files)

    def show_again(self, mount_id: str) -> None:
        """Have all targets of a mount that was made anew show it.

        Args:
            mount_id: Which; one that is in no record is nobody's.
        """
        record = next((known for known in self._ledger.records() if known.mount_id == mount_id), None)
        if record is None:
            return
        with self._reported(), self._turns.take(f"volume {record.volume_id}", timeout_s=self._budget_s):
            self._bind_again(self._current(record))

    def reconcile(self) -> None:
        """Bring ledger, mounts and kernel together: once, at the start, before calls are taken.

        After a restart of the driver all is as it was, and stays. After a restart of the machine nothing is mounted,
        and the records go. What is mounted and in no record goes too: its publication was never answered.
        """
        for record in self._ledger.records():
            bound = tuple(target for target in record.targets if self._binds.has_mount(target))
            if bound != record.targets:
                gone = len(record.targets) - len(bound)
                log.info("volume %r: %d of its targets are gone, forgotten", record.volume_id, gone)
                self._ledger.put(replace(record, targets=bound))
        for record in self._ledger.records():
            if not record.targets:
                with self._reported():
                    self._drop(record)
        kept = {record.mount_id for record in self._ledger.records()}
        for mount_id in sorted({*self._mounts.known(), *self._directories()} - kept):
            log.info("mount %s: belongs to no volume, removed", mount_id)
            with self._reported():
                self._stop(mount_id)

    # -- publishing ----------------------------------------------------------------------------------------------

    def _publish_anew(self, wanted: Publication, deadline_s: float) -> None:
        secret = self._ledger.fingerprint(wanted.keys)
        shared = self._ledger.same(wanted.volume_id, wanted.spec.own, secret)
        record = shared or self._ledger.new(wanted.volume_id, wanted.spec.own, secret)
        with contextlib.ExitStack() as undo:
            if shared is None:
                undo.callback(self._undo, lambda: self._drop(record))
                self._ledger.put(record)  # before there is anything, so that a successor knows whose it is
            undo.callback(self._undo, lambda: self._binds.unbind(wanted.target))
            # What a call before this one has left there, and nobody has a record of.
            self._binds.unbind(wanted.target)
            self._start(record, wanted, deadline_s)
            self._bind_again(record)
            self._binds.bind(self._at(record), wanted.target)
            self._prove(record, wanted.target, deadline_s)
            self._ledger.put(with_target(record, wanted.target))
            undo.pop_all()
        log.info("volume %r: %s is published at %s", wanted.volume_id, record.source, wanted.target)

    def _publish_again(self, record: Record, wanted: Publication, deadline_s: float) -> None:
        if (record.volume_id, record.spec) != (wanted.volume_id, wanted.spec.own):
            raise RefusalError(Code.ALREADY_EXISTS, _difference(record, wanted))
        if record.secret and not wanted.keys:
            # To the mounter no key means its own: the next worker of this mount would sign with that.
            raise invalid(f"{wanted.target}: its Secret has no key any more; the mount goes on with the one it has")
        self._rotate(record, wanted)
        self._start(record, wanted, deadline_s)
        self._bind_again(record)
        self._prove(record, wanted.target, deadline_s)

    def _rotate(self, record: Record, wanted: Publication) -> None:
        """Let the mount sign with today's key; also the same one, which a driver that was restarted has not."""
        try:
            self._mounts.rotate(record.mount_id, wanted.keys)
        except MountFailure as exc:
            if self._mounts.state(record.mount_id).served:
                raise refusal_of(exc, wanted.keys) from exc
        secret = self._ledger.fingerprint(wanted.keys)
        if secret != record.secret:
            self._ledger.put(replace(record, secret=secret))
            log.info("volume %r: signs with the new key of its Secret", record.volume_id)

    def _start(self, record: Record, wanted: Publication, deadline_s: float) -> None:
        """Have the mount served; nothing happens where it is."""
        if self._mounts.state(record.mount_id).served:
            return
        give_up_s = deadline_s - _PROOF_S - _UNDO_S
        if not self._starts.acquire(timeout=max(give_up_s - time.monotonic(), 0)):
            raise RefusalError(
                Code.UNAVAILABLE, f"{record.source}: the node is busy with other volumes; it is tried again by itself"
            )
        try:
            left_s = max(give_up_s - time.monotonic(), _LEAST_START_S)
            self._mounts.start(record.mount_id, self._at(record), wanted.spec.full, wanted.keys, left_s)
        except MountFailure as exc:
            raise refusal_of(exc, wanted.keys) from exc
        finally:
            self._starts.release()

    def _bind_again(self, record: Record) -> None:
        """Have all targets of *record* show the mount, also where it had died and was made anew."""
        for target in record.targets:
            if not self._binds.is_bound(self._at(record), target):
                log.warning("volume %r: %s shows a mount that has ended, bound anew", record.volume_id, target)
                self._binds.bind(self._at(record), target)

    def _prove(self, record: Record, target: str, deadline_s: float) -> None:
        """Look through *target* as the pod will.

        Raises:
            RefusalError: It is not our filesystem that answers there, or nobody does.
        """
        seen = self._binds.look(target, min(_PROOF_S, max(deadline_s - time.monotonic(), _LEAST_START_S)))
        fault = seen.fault or ("" if self._binds.is_bound(self._at(record), target) else "another filesystem is there")
        if fault:
            raise RefusalError(Code.UNAVAILABLE, f"{target}: the mount of {record.source} does not answer: {fault}")

    # -- taking away ---------------------------------------------------------------------------------------------

    def _drop(self, record: Record) -> None:
        """End a mount that no target shows, and forget it; it stays in the ledger where that fails."""
        self._stop(record.mount_id)
        self._ledger.remove(record.mount_id)

    def _stop(self, mount_id: str) -> None:
        try:
            self._mounts.stop(mount_id)
        except MountFailure as exc:
            raise refusal_of(exc, {}) from exc
        with contextlib.suppress(OSError):
            os.rmdir(self._directory / mount_id)  # left by a driver that ended between making and mounting

    def _undo(self, step: Callable[[], None]) -> None:
        """Take *step*; a failure must not hide the one that made it necessary."""
        with self._reported():
            step()

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except RefusalError as exc:
            log.warning("cleaning up: %s", exc.message)

    # -- names ---------------------------------------------------------------------------------------------------

    def _turn(self, volume_id: str, target: str) -> contextlib.AbstractContextManager[None]:
        return self._turns.take(f"volume {volume_id}", f"target {target}", timeout_s=_TURN_S)

    def _at(self, record: Record) -> Path:
        return self._directory / record.mount_id

    def _current(self, record: Record) -> Record:
        found = (known for known in self._ledger.records() if known.mount_id == record.mount_id)
        return next(found, record)

    def _directories(self) -> list[str]:
        try:
            return os.listdir(self._directory)
        except FileNotFoundError:
            return []


def _difference(record: Record, wanted: Publication) -> str:
    """Say in what a repeated publication differs from the first."""
    if record.volume_id != wanted.volume_id:
        return f"{wanted.target}: shows volume {record.volume_id!r} already"
    own = wanted.spec.own
    if record.source != own.source:
        return f"{wanted.target}: shows {record.source} already, not {own.source}; restart the pod"
    mine, other = dict(record.options), dict(own.options)
    changed = ", ".join(sorted(key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key)))
    return f"{wanted.target}: shows {record.source} already, with another {changed}; restart the pod"
