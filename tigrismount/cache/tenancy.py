"""One pid namespace at a time in a cache directory: who is in it is told by a lock, whose namespace by a file.

The index knows processes by their ids: its readers, and who has set room aside. An id means nothing in another pid
namespace (another container), where nobody has it or somebody else. So the processes of one namespace share a
directory, and those of another one get a directory of their own for as long as that lasts.

Whoever uses a directory holds a shared lock on ``users`` in it. Who finds nobody there writes its namespace into the
file, whatever was in it: so a cache outlives a container, and what an init container warmed serves the next one.
"""

from __future__ import annotations

import errno
import fcntl
import os

from tigrismount.errors import CacheError

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""A filesystem without ``flock``: nobody can be told to be there, nor to have a file open that is to be evicted."""
_NAME_MAX_BYTES = 200
"""Longer than any boot id and namespace."""
MOUNTS_PATH = "/proc/self/mountinfo"
"""What is mounted with which options (proc_pid_mountinfo(5))."""
_LOCAL_LOCKS = {"local_lock=all", "local_lock=flock", "localflock", "localflocks", "nobrl"}
"""Options of NFS, Lustre, GFS2, OCFS2 and CIFS with which a lock is seen on this machine alone."""


class Tenancy:
    """This process's use of a directory, until ``leave``.

    Args:
        fd: ``users``, locked.
        alone: Whether nobody was there when it began: every process that the index still knows is dead.
    """

    def __init__(self, fd: int, *, alone: bool) -> None:
        self._fd = fd
        self.alone = alone
        """Whether nobody was there when it began."""

    def leave(self) -> None:
        """Use the directory no longer. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def enter(directory: str, namespace: str) -> Tenancy | None:
    """Begin to use *directory*; None while processes of another pid namespace do. With its ``lock`` held.

    Args:
        directory: The cache directory.
        namespace: Ours, see ``pid_namespace``.

    Raises:
        CacheError: The filesystem has no locks, or none that other machines see.
        OSError: The file cannot be opened or written.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(os.path.join(directory, "users"), flags, 0o600)
    try:
        _check_locks_reach_others(fd)
        alone = _lock(fd, fcntl.LOCK_EX)
        if alone:
            # Over what is there, and cut only then: a disk may be so full that what is given back cannot be had again.
            os.pwrite(fd, namespace.encode(), 0)
            os.ftruncate(fd, len(namespace.encode()))
        elif os.pread(fd, _NAME_MAX_BYTES, 0) != namespace.encode():
            return None
        _lock(fd, fcntl.LOCK_SH)
        tenancy, fd = Tenancy(fd, alone=alone), -1
        return tenancy
    finally:
        if fd >= 0:
            os.close(fd)


def _check_locks_reach_others(fd: int) -> None:
    """Refuse a filesystem that other machines may have mounted, and whose locks they do not see.

    Two of them, as the nodes that share a home directory, would write one index, and give back what the other reads.
    """
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}".encode()
    try:
        with open(MOUNTS_PATH, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        mount, _, filesystem = line.partition(b" - ")
        if mount.split()[2:3] == [wanted]:
            options = filesystem.rpartition(b" ")[2].decode(errors="replace").split(",")
            for option in sorted(_LOCAL_LOCKS.intersection(options)):
                raise CacheError(
                    f"the disk cache cannot be used: its filesystem has locks for this machine alone ({option}); "
                    "choose one on a local disk with --cache-dir"
                )


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise CacheError("the disk cache cannot be used: its filesystem has no locks (flock)") from error
    return True


def pid_namespace(boot_id: str) -> str:
    """Return a name of this process's pid namespace that no other one on this or another machine has now.

    Args:
        boot_id: This boot of the machine.
    """
    try:
        return f"{boot_id} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no /proc, or a kernel without namespaces: then there is one
        return boot_id
