"""What the driver does to the node's mounts, which is all that it needs its privilege for.

Looks through a mount are made by a child that executes a program of its own: threads of this process do not fork, and
whoever looks at a mount that nobody serves does not come back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tigrismount.errors import MountError
from tigrismount.holder.init import INIT_REQUEST_BYTES, describe_init
from tigrismount.holder.knobs import raise_read_ahead
from tigrismount.holder.mountinfo import mount_at
from tigrismount.holder.mounting import BusyError, MountSpec, mount, unmount
from tigrismount.holder.probe import Finding, Health, finding_from

if TYPE_CHECKING:
    from pathlib import Path

_LOOK = """
import os, sys
try:
    os.statvfs(sys.argv[1])
    answer = b"ok"
except OSError as exc:
    answer = b"statvfs %d" % exc.errno
os.write(1, answer)
"""
_HIDING_MODE = 0o000
"""Mode of mountpoints made here: should the mount ever be missing, nobody takes the directory for an empty bucket."""
_READ_S = 1.0
"""How long it may take to read what a child has written that has ended: it is there."""
_MOST_STACKED = 64
_MNT_FORCE, _UMOUNT_NOFOLLOW = 1, 8


class Look:
    """A child that calls ``statvfs``.

    Args:
        at: On what.
    """

    def __init__(self, at: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LOOK, str(at)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},  # it needs none, and the driver's may hold a key
        )

    def finding(self, timeout_s: float = 0.0) -> Finding:
        """Return what it saw; ``HUNG`` where there is no answer in time."""
        # Where it may take no time at all, communicate() gives up before it has looked what is there.
        if timeout_s <= 0 and self._process.poll() is None:
            return Finding(Health.HUNG)
        try:
            answer, _ = self._process.communicate(timeout=timeout_s if timeout_s > 0 else _READ_S)
        except subprocess.TimeoutExpired:
            return Finding(Health.HUNG)
        return finding_from(answer, answered=True)

    def close(self) -> None:
        """End it; one that even a kill cannot end at once is left to the kernel."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=0.2)
        if self._process.stdout is not None:
            self._process.stdout.close()


def look(at: Path, timeout_s: float) -> Finding:
    """Return whether the filesystem at *at* answers."""
    child = Look(at)
    try:
        return child.finding(timeout_s)
    finally:
        child.close()


def make_directory(at: Path) -> None:
    """Make *at* and what lies above it; it may be there.

    Raises:
        MountError: It cannot be made.
    """
    try:
        os.makedirs(at.parent, mode=0o755, exist_ok=True)
        os.mkdir(at, mode=_HIDING_MODE)
    except FileExistsError:
        pass
    except OSError as exc:
        raise MountError(f"{at}: cannot be made: {exc.strerror}") from exc


def make_mount(at: Path, fsname: str, read_ahead_kib: int | None) -> tuple[int, bytes]:
    """Mount, on top of what may be there; return the connection and the kernel's INIT request.

    Raises:
        MountError: It could not be mounted; nothing is left mounted.
    """
    fd = mount(MountSpec(mountpoint=str(at), fsname=fsname, allow_other=True))
    try:
        init = os.read(fd, INIT_REQUEST_BYTES)
        describe_init(init)
        entry = mount_at(str(at))
    except (OSError, MountError) as exc:  # while the connection is held, whoever looks at the mount waits for ever
        os.close(fd)
        unmount(str(at), lazy=True)
        raise MountError(f"{at}: the mount could not be begun with: {exc}") from exc
    if entry is not None and read_ahead_kib is not None:
        raise_read_ahead(entry.device, read_ahead_kib)
    return fd, init


def is_mounted(at: Path) -> bool:
    """Whether a mount of ours is there, dead or alive."""
    entry = mount_at(str(at))
    return entry is not None and entry.is_ours


def unmount_top(at: Path) -> None:
    """Unmount what is on top at *at*, out of sight at once where it is in use.

    Raises:
        MountError: It could not be unmounted.
    """
    try:
        unmount(str(at))
    except BusyError:
        unmount(str(at), lazy=True)


def unmount_all(at: Path) -> None:
    """Unmount everything of ours at *at*, and remove the directory.

    Raises:
        MountError: Something is left.
    """
    for _ in range(_MOST_STACKED):
        if not is_mounted(at):
            break
        unmount_top(at)
    remove_directory(at)


def remove_directory(at: Path) -> None:
    """Remove *at*, if it is there.

    Raises:
        MountError: It is in the way of something.
    """
    try:
        os.rmdir(at)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise MountError(f"{at}: cannot be removed: {exc.strerror}") from exc


def abort(at: Path) -> None:
    """Have the kernel end the connection at *at*, whoever holds it: who waits gets an error, the mount stays.

    A forced unmount ends the connection first; that the mount is in use then keeps it where it is.

    Raises:
        MountError: It could not be ended.
    """
    try:
        fd = os.open(at, os.O_PATH | os.O_CLOEXEC)  # asks the filesystem nothing, and keeps it in use
    except OSError as exc:
        raise MountError(f"{at}: cannot be aborted: {exc.strerror}") from exc
    try:
        if not is_mounted(at):
            return
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(at), _MNT_FORCE | _UMOUNT_NOFOLLOW):
            code = ctypes.get_errno()
            if code != errno.EBUSY:
                raise MountError(f"{at}: cannot be aborted: {os.strerror(code)}")
    finally:
        os.close(fd)
