"""The privileged part of a mount under systemd: opens /dev/fuse, mounts, sets the read-ahead, unmounts. Nothing else.

``python -I -m tigrismount.holder.helper mount|unmount NAME`` runs as root before the unit's process starts and after it
has ended (``ExecStartPre=+``, ``ExecStopPost=+``). The process itself has no capability, no /dev/fuse and no setuid
helper: the descriptor and the kernel's INIT request come to it through systemd's store. This module, what it imports of
the supervisor's, the standard library, and no network: that is all that root runs.

``mount`` leaves alone a connection that systemd still holds, which waits for a worker to take over, and replaces a dead
one that nothing covers. ``unmount`` acts where the unit was stopped or did not start; after a crash it leaves the mount
to the next start. What somebody else has mounted there and serves is refused by the one, and left by the other.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys
from dataclasses import replace

from tigrismount.errors import MountError
from tigrismount.holder.heirloom import write_memory_file
from tigrismount.holder.init import INIT_REQUEST_BYTES
from tigrismount.holder.knobs import raise_read_ahead
from tigrismount.holder.mountinfo import MountEntry, canonical_mountpoint, mount_at, read_mounts
from tigrismount.holder.mounting import BusyError, MountSpec, mount, unmount
from tigrismount.holder.notify import Notifier
from tigrismount.holder.probe import Health, probe
from tigrismount.holder.store import NAMES
from tigrismount.holder.unit import Unit, forget_place, is_anothers, made_elsewhere, note_place, read_unit

USER = "tigrismount"
"""Whose processes serve the units' mounts."""

_CLONE_NEWNS = 0x20000
_PROBE_S = 0.3
"""A dead mount answers at once with an error; one that waits for a worker does not answer at all."""
_FAILED_START = ("1", "2", "3")
"""Exit statuses of a supervisor that never served; afterwards nothing may be left mounted."""
_READ_AHEAD_KIB = 4096
"""What ``--kernel-read-ahead auto`` means; the process that comes refuses what is no number."""
_HIDING_MODE = 0o000
"""Mode of mountpoints made here: should the mount ever be missing, nobody takes the directory for an empty bucket."""


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit status."""
    if len(arguments) != 2 or arguments[0] not in ("mount", "unmount"):
        print("usage: python -m tigrismount.holder.helper mount|unmount NAME", file=sys.stderr)  # noqa: T201
        return 2
    try:
        _enter_host_namespace()
        try:
            unit = read_unit(arguments[1], uid=0, home="/root")
        except MountError:
            if arguments[0] == "mount":  # the process that comes says why, unless systemd holds a mount that goes on
                return 0
            _unmount(Unit(arguments[1], "", "", None, {}))  # where it was made, whatever the file says by now
            raise
        # As the kernel lists it: where a symbolic link leads there, nothing is ever found by the name in the file.
        unit = replace(unit, mountpoint=canonical_mountpoint(unit.mountpoint))
        if arguments[0] == "mount":
            _mount(unit)
        else:
            _unmount(unit)
    except MountError as exc:
        print(f"tigrismount: error: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _enter_host_namespace() -> None:
    """See and change the mounts that everybody sees: a sandbox gives a unit's ``+`` lines a view of their own."""
    fd = os.open("/proc/1/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNS):
            raise MountError(f"the host's mounts cannot be reached: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(fd)


def _mount(unit: Unit) -> None:
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        raise MountError(f"there is no user {USER}: run 'tigrismount install-systemd', or systemd-sysusers") from None
    elsewhere = made_elsewhere(unit)
    if elsewhere is not None:
        is_seen = mount_at(elsewhere.mountpoint) == elsewhere
        if not is_seen or probe(elsewhere.mountpoint, timeout_s=_PROBE_S).health is not Health.DEAD:
            return  # its file names another place by now, for the next time that it is stopped and started
        unmount(elsewhere.mountpoint, lazy=True)
    while (entry := mount_at(unit.mountpoint)) is not None and entry.is_ours:
        health = probe(unit.mountpoint, timeout_s=_PROBE_S).health
        if health is Health.HUNG:
            return
        if health is not Health.DEAD and (entry.owner_uid != user.pw_uid or is_anothers(unit, entry)):
            raise MountError(f"{unit.mountpoint}: {entry.source} is mounted there already, and not by this unit")
        if health is Health.FAILED:
            # As where the child that looked was killed for want of memory. Should systemd hold nothing of it, the
            # process that comes does not start, and "unmount" takes the mount away.
            return
        unmount(unit.mountpoint, lazy=True)
    if entry is not None and any(each.owner_uid == user.pw_uid for each in _ours_at(unit.mountpoint)):
        # It may wait for a worker: systemd is not to forget it, and what covers it is not ours to hide.
        print(f"tigrismount: {unit.mountpoint}: {entry.source} is mounted over it", file=sys.stderr)  # noqa: T201
        return
    _make_directory(unit.mountpoint)
    owner = (user.pw_uid, user.pw_gid)
    notify = Notifier(os.environ)
    if not notify.remove(*NAMES):
        # With the state of the mount before, this one would be taken for it, and the kernel never be answered.
        raise MountError(f"{unit.mountpoint}: not mounted: systemd cannot be told to forget the mount before")
    fd = mount(MountSpec(mountpoint=unit.mountpoint, fsname=unit.source, allow_other=True, owner=owner))
    notify.store("init", write_memory_file(os.read(fd, INIT_REQUEST_BYTES)))
    notify.store("fuse", fd)
    notify.wait_until_heard()
    note_place(unit, made := mount_at(unit.mountpoint))
    kib = _read_ahead_kib(unit)
    if made is not None and kib > 0:
        raise_read_ahead(made.device, kib)


def _ours_at(mountpoint: str) -> list[MountEntry]:
    return [entry for entry in read_mounts() if entry.is_ours and entry.mountpoint == mountpoint]


def _read_ahead_kib(unit: Unit) -> int:
    """Return what the unit's file asks for, as the option's parser would, which is not for root to load."""
    written = str(unit.settings.get("kernel-read-ahead", unit.settings.get("kernel_read_ahead", "auto"))).strip()
    return int(written) if written.isdecimal() else _READ_AHEAD_KIB


def _make_directory(path: str) -> None:
    os.umask(0o022)  # the unit's own is for the daemon's files, and would shut everybody out of what lies above
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.mkdir(path, mode=_HIDING_MODE)
    except FileExistsError:
        pass
    except OSError as exc:
        raise MountError(f"{path}: cannot be made: {exc.strerror}") from exc


def _unmount(unit: Unit) -> None:
    result, status = os.environ.get("SERVICE_RESULT", "success"), os.environ.get("EXIT_STATUS", "")
    if result != "success" and not (result == "exit-code" and status in _FAILED_START):
        return
    try:
        uid = pwd.getpwnam(USER).pw_uid
    except KeyError:  # then nothing was mounted for it
        return
    elsewhere = made_elsewhere(unit)
    place = unit.mountpoint if elsewhere is None else elsewhere.mountpoint  # where the file says may be another unit's
    while (entry := mount_at(place)) is not None and entry.is_ours and entry.owner_uid == uid:
        if is_anothers(unit, entry):  # of one that has the same mountpoint
            break
        try:
            unmount(place)
        except BusyError:
            unmount(place, lazy=True)
    forget_place(unit)
    notify = Notifier(os.environ)
    notify.remove(*NAMES)  # else a start that the file prevents goes on with a mount that nobody can see
    notify.wait_until_heard()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
