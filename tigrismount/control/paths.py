"""Where the control sockets are: one directory per user, one socket per mount.

root's are in ``/run/tigrismount``, a user's in ``$XDG_RUNTIME_DIR/tigrismount``, else in ``/tmp/tigrismount-<uid>``.
The last one lies in a directory where anybody may have made it before us, so it counts only if it is ours alone.
A socket is named by a hash of the mountpoint: names of sockets are limited to 107 bytes, paths are not.
"""

from __future__ import annotations

import hashlib
import os
import socket
import stat
from typing import TYPE_CHECKING

from tigrismount.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Mapping

SUFFIX = ".sock"
"""What the name of every control socket ends with."""

UNITS_DIRECTORY = "/run/tigrismount-units/tigrismount"
"""Control sockets of mounts that systemd units serve, as a user of their own."""

_MODE = 0o700  # a control socket answers whoever can reach it


def runtime_directory(environment: Mapping[str, str], *, uid: int) -> str:
    """Return the directory of the control sockets of user *uid*; it need not exist.

    Args:
        environment: Where ``XDG_RUNTIME_DIR`` is looked up.
        uid: Effective user.
    """
    if uid == 0:
        return "/run/tigrismount"
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    return os.path.join(runtime, "tigrismount") if os.path.isabs(runtime) else f"/tmp/tigrismount-{uid}"  # noqa: S108


def runtime_directories(environment: Mapping[str, str], *, uid: int) -> list[str]:
    """Return the directories of all control sockets that user *uid* may ask: root's view has those of units as well."""
    own = runtime_directory(environment, uid=uid)
    return [own, UNITS_DIRECTORY] if uid == 0 else [own]


def find_socket(environment: Mapping[str, str], *, uid: int, mountpoint: str) -> str:
    """Return the control socket of the mount at *mountpoint*: the one that is there, else where it would be.

    Where there are two, one may have been left by a daemon that was killed before another one mounted there.
    """
    paths = [socket_path(directory, mountpoint) for directory in runtime_directories(environment, uid=uid)]
    there = [path for path in paths if os.path.exists(path)] or paths[:1]
    return next((path for path in there[:-1] if _is_listened_on(path)), there[-1])


def _is_listened_on(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        try:
            connection.connect(path)
        except BlockingIOError:  # so many ask that its queue is full
            return True
        except OSError:
            return False
    return True


def ensure_runtime_directory(directory: str) -> None:
    """Make *directory* when it is missing, and check that nobody else can put anything there.

    Raises:
        MountError: It cannot be made, or is not a directory of this user alone.
    """
    try:
        os.makedirs(directory, mode=_MODE, exist_ok=True)
    except OSError as exc:
        raise MountError(f"{directory}: cannot be made: {exc.strerror}") from exc
    if not is_private(directory):
        raise MountError(f"{directory}: is not a directory of yours alone; remove it, or set XDG_RUNTIME_DIR")


def is_private(directory: str) -> bool:
    """Tell whether *directory* is a real directory that belongs to this user and that no other may write to.

    For root, the directory of the units is one too: only root can have given it to their user.
    """
    try:
        facts = os.lstat(directory)
    except OSError:
        return False
    ours = facts.st_uid == os.geteuid() or (os.geteuid() == 0 and directory == UNITS_DIRECTORY)
    return stat.S_ISDIR(facts.st_mode) and ours and not facts.st_mode & 0o022


def socket_path(directory: str, mountpoint: str) -> str:
    """Return the control socket of the mount at *mountpoint* (absolute, without symbolic links)."""
    digest = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()
    return os.path.join(directory, digest[:16] + SUFFIX)
