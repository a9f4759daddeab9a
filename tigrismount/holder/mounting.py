"""Making and removing the mount itself: mount(2) for root, ``fusermount3`` for everybody else.

Both ways end with an open ``/dev/fuse`` descriptor in our hands, which is what lets a worker be replaced without the
mount going away; so libfuse, which would keep it to itself, has no part in mounting. The mount is read-only in the
kernel too: writes fail with ``EROFS`` before they reach us.

Source: ``Documentation/filesystems/fuse.rst`` (mount options), fuse(4), fusermount3(1), libfuse's
``_FUSE_COMMFD`` convention.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shlex
import socket
import stat
import subprocess
from dataclasses import dataclass

from tigrismount.errors import MountError
from tigrismount.holder.mountinfo import FUSE_TYPE

DEVICE = "/dev/fuse"
"""The device every FUSE connection begins with."""

_FUSERMOUNT = "fusermount3"
_FUSE_CONF = "/etc/fuse.conf"
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOATIME = 1, 2, 4, 1024
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_NOT_THEIRS = ("no write access", "not owned by user")
"""How the helper says that a plain user may not mount there."""
_IN_CONTAINER = "in a container, run it with --device /dev/fuse --cap-add SYS_ADMIN"


class BusyError(MountError):
    """It is still in use and was not unmounted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSpec:
    """What the kernel is told about a mount."""

    mountpoint: str
    """Where, absolute, without symbolic links."""
    fsname: str
    """First column of ``df``."""
    allow_other: bool
    """Whether other users may enter."""
    owner: tuple[int, int] = (0, 0)
    """User and group that the kernel takes for the mount's, where root mounts for a daemon that is not root."""


def check_can_mount(spec: MountSpec) -> None:
    """Check what mounting needs, so that what is missing is said before anything is started.

    Raises:
        MountError: Something is missing; says what to do about it.
    """
    is_root = os.geteuid() == 0
    os.close(_open_device(is_root=is_root))
    if is_root:
        return
    _find_fusermount()
    if spec.allow_other and not _user_allow_other():
        raise MountError(
            f"allow_other: the administrator must permit it with a line 'user_allow_other' in {_FUSE_CONF}; "
            "or mount with --no-allow-other"
        )


def mount(spec: MountSpec) -> int:
    """Mount and return the descriptor of the new FUSE connection; nobody serves it yet.

    Raises:
        MountError: It could not be mounted; nothing is left mounted.
    """
    return _mount_as_root(spec) if os.geteuid() == 0 else _mount_as_user(spec)


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """Unmount *mountpoint*; what is mounted there must be ours.

    Args:
        mountpoint: Absolute, without symbolic links.
        lazy: Take it out of sight now even if it is in use; it ends with its last user.

    Raises:
        BusyError: It is in use.
        MountError: It could not be unmounted for another reason.
    """
    if os.geteuid() != 0:
        _unmount_as_user(mountpoint, lazy=lazy)
        return
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    if _libc().umount2(os.fsencode(mountpoint), flags):
        code = ctypes.get_errno()
        fault = BusyError if code == errno.EBUSY else MountError
        raise fault(f"{mountpoint}: cannot be unmounted: {os.strerror(code)}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _open_device(*, is_root: bool) -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            remedy = f"run 'modprobe fuse'; {_IN_CONTAINER}"
        elif is_root:
            remedy = _IN_CONTAINER
        else:
            remedy = f"'sudo chmod 666 {DEVICE}' lets all users mount"
        raise MountError(f"{DEVICE}: cannot be opened: {exc.strerror}; {remedy}") from exc


def _mount_as_root(spec: MountSpec) -> int:
    fd = _open_device(is_root=True)
    try:
        _mount_connection(spec, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _mount_connection(spec: MountSpec, fd: int) -> None:
    try:
        root_mode = stat.S_IFMT(os.stat(spec.mountpoint).st_mode)
    except OSError as exc:
        if exc.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
            raise MountError(f"{spec.mountpoint}: cannot be mounted on: {exc.strerror}") from exc
        root_mode = stat.S_IFDIR  # a mount that is lost: the new one goes on top of it
    uid, gid = spec.owner
    options = f"fd={fd},rootmode={root_mode:o},user_id={uid},group_id={gid},default_permissions"
    options += ",allow_other" if spec.allow_other else ""
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOATIME
    arguments = (os.fsencode(spec.fsname), os.fsencode(spec.mountpoint), FUSE_TYPE.encode(), flags, options.encode())
    if _libc().mount(*arguments):
        code = ctypes.get_errno()
        remedy = f"; {_IN_CONTAINER}" if code in (errno.EPERM, errno.EACCES) else ""
        raise MountError(f"{spec.mountpoint}: cannot be mounted: {os.strerror(code)}{remedy}")


def _mount_as_user(spec: MountSpec) -> int:
    """Let the setuid helper mount; it sends the descriptor over the socket that ``_FUSE_COMMFD`` names."""
    options = f"ro,nosuid,nodev,noatime,default_permissions,subtype={FUSE_TYPE.partition('.')[2]}"
    options += f",fsname={_escape(spec.fsname)}" + (",allow_other" if spec.allow_other else "")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        finished = _run_fusermount("-o", options, "--", spec.mountpoint, comm_fd=theirs.fileno())
        theirs.close()  # so that recv sees the end where the helper sent nothing
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    if finished.returncode or not fds:
        complaint = _complaint(finished)
        remedy = ""
        if any(words in complaint for words in _NOT_THEIRS):
            give = f"sudo chown {os.geteuid()} {shlex.quote(spec.mountpoint)}"
            remedy = f"; name a directory of yours, or '{give}' first"
        raise MountError(f"{spec.mountpoint}: cannot be mounted: {complaint}{remedy}")
    os.set_inheritable(fds[0], False)
    return fds[0]


def _unmount_as_user(mountpoint: str, *, lazy: bool) -> None:
    finished = _run_fusermount("-u", *(["-z"] if lazy else []), "--", mountpoint)
    if finished.returncode:
        complaint = _complaint(finished)
        fault = BusyError if os.strerror(errno.EBUSY) in complaint else MountError
        raise fault(f"{mountpoint}: cannot be unmounted: {complaint}")


def _run_fusermount(*arguments: str, comm_fd: int | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    if comm_fd is not None:
        environment["_FUSE_COMMFD"] = str(comm_fd)
    program = _find_fusermount()
    try:
        return subprocess.run(
            [program, *arguments],
            env=environment,
            pass_fds=() if comm_fd is None else (comm_fd,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as exc:  # such as no process left
        raise MountError(f"{program}: cannot be started: {exc.strerror}") from exc


def _complaint(finished: subprocess.CompletedProcess[str]) -> str:
    """Return what the helper said, in one line."""
    lines = finished.stderr.strip().splitlines()
    return lines[-1].removeprefix(f"{_FUSERMOUNT}: ") if lines else f"{_FUSERMOUNT} ended with {finished.returncode}"


def _find_fusermount() -> str:
    for directory in (*os.get_exec_path(), "/usr/bin", "/bin"):
        path = os.path.join(directory, _FUSERMOUNT)
        if os.path.isabs(path) and os.access(path, os.X_OK):
            return path
    raise MountError(f"{_FUSERMOUNT}: not found; plain users mount with it: 'sudo apt-get install fuse3'")


def _user_allow_other() -> bool:
    try:
        with open(_FUSE_CONF, encoding="utf-8", errors="replace") as file:
            return any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        return False


def _escape(text: str) -> str:
    """Return *text* as a value in fusermount3's option list, where a comma ends it."""
    return text.replace("\\", "\\\\").replace(",", "\\,")
