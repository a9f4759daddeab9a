"""One sparse file that holds the blocks of one object version at their own offsets.

Reads and writes go past the page cache (``O_DIRECT``) from and to aligned buffers: measured here, that costs 0.08 CPU
seconds per GiB instead of 0.5 to 3.7, and leaves the page cache to the kernel's pages of the mount. A filesystem that
refuses gets ordinary I/O, and so does a file whose caller gave a buffer that is not aligned. The last bytes of a file,
which do not fill a unit of alignment, go through the page cache. So the file ends where the object does at every
moment: the kernel may be reading it by itself (``fuse.passthrough``) while a damaged block is written anew.

An open file is locked (``flock``, shared). Whoever evicts takes that lock alone, for this process and every other,
and passes on when it cannot: so an open version is never evicted. The lock dies with its process. A file can still be
removed by hand; it then lives on until it is closed, reads go on, and ``linked`` tells that writing to it is in vain.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tigrismount.cache.records import ALIGNMENT_BYTES
from tigrismount.errors import CacheCorruptError, CacheError

if TYPE_CHECKING:
    from collections.abc import Callable

UNKNOWN_STATE = 0, 0
"""State of a file that nobody can look at."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""A filesystem without ``flock``: then only this process's own pins protect a file."""
_OPEN_ATTEMPTS = 200
"""An eviction holds its lock for milliseconds; 200 attempts are 2 s of it, then the cache is not worth the wait."""
_RETRY_S = 0.01
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""Flags of fallocate(2), which Python does not offer."""
_libc = ctypes.CDLL(None, use_errno=True)
_FLOCK = struct.Struct("hhqqi4x")
"""``struct flock`` of 64-bit Linux: type, whence, start, length, pid."""
_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", 37)
"""Linux's number; a Python that was built on a C library from before 2014, as those of uv were, has no name for it."""


class LockedError(CacheError):
    """A file is being evicted, or given back in parts, for longer than is worth the wait."""


class DataFile:
    """The file of one object version; all methods block and may be called from any thread.

    Args:
        path: Where it is or will be.
        size_bytes: Size of the object.
        check: Called once it is open, with what was at the path: raises ``CacheError`` where that is not to be used.
    """

    def __init__(self, path: str, size_bytes: int, *, check: Callable[[], None] = lambda: None) -> None:
        self._check = check
        self._path = path
        self._size_bytes = size_bytes
        self._opening = threading.Lock()
        self._fd = -1
        self._direct = True

    @property
    def inode(self) -> int:
        """Inode number of the open file, 0 when it is not open."""
        return os.fstat(self._fd).st_ino if self._fd >= 0 else 0

    @property
    def state(self) -> tuple[int, int]:
        """Inode number of the open file and when it was written last, in nanoseconds; zeros where nobody can tell.

        The number alone says little: filesystems give that of a removed file to the next one. A file that is not open
        has none, nor has any on a disk that is gone: XFS refuses even to look at those that are open.
        """
        if self._fd < 0:
            return UNKNOWN_STATE
        try:
            facts = os.fstat(self._fd)
        except OSError:
            return UNKNOWN_STATE
        return facts.st_ino, facts.st_mtime_ns

    def open_existing(self) -> bool:
        """Open and lock the file if there is one; return whether it is open now.

        Raises:
            OSError: It cannot be opened.
            CacheError: It is not a plain file, is being evicted for too long, or is not to be used.
        """
        with self._opening:
            return self._fd >= 0 or self._open(0)

    def ensure(self) -> bool:
        """Open the file, made anew where there is none; return whether it is new, so that no block can be in it.

        Raises:
            OSError: It cannot be opened or made.
            CacheError: As for ``open_existing``.
        """
        with self._opening:
            if self._fd >= 0:
                return False
            with suppress(FileExistsError):
                os.mkdir(os.path.dirname(self._path), mode=0o700)
            self._open(os.O_CREAT)
            is_new = os.fstat(self._fd).st_size == 0
            if is_new:
                os.ftruncate(self._fd, self._size_bytes)
            return is_new

    def _open(self, flags: int) -> bool:
        for _ in range(_OPEN_ATTEMPTS):
            try:
                fd = self._open_direct(flags | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return False
            if self._keep(fd):
                return True
            time.sleep(_RETRY_S)
        raise LockedError(f"{self._path} is locked by an eviction")

    def _open_direct(self, flags: int) -> int:
        if self._direct:
            try:
                return os.open(self._path, flags | os.O_DIRECT, 0o600)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct = False
        return os.open(self._path, flags, 0o600)

    def _keep(self, fd: int) -> bool:
        """Take *fd* for ours once it is locked; close it and return False when the file is being evicted."""
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise CacheError(f"{self._path} is not a plain file")
            if _lock_shared(fd) and os.fstat(fd).st_nlink:
                self._check()
                self._fd, fd = fd, -1
                return True
            return False
        finally:
            if fd >= 0:
                os.close(fd)

    def open_again(self) -> int:
        """Return another descriptor of the open file, for reading through the page cache, with a lock of its own.

        Raises:
            OSError: It cannot be opened.
            CacheError: It is not open, was removed, is not whole, or its filesystem has no locks or no leases.
        """
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._check_same(fd)
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            is_unused(fd)
        except OSError as error:
            os.close(fd)
            if error.errno in (*_NO_LOCKS, errno.EINVAL):
                raise CacheError(f"{self._path}: its filesystem has no locks or leases") from error
            raise
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check_same(self, fd: int) -> None:
        facts = os.fstat(fd)
        if not self.is_same(fd) or facts.st_size != self._size_bytes or not facts.st_nlink:
            raise CacheError(f"{self._path} is not the file that it was")

    def is_same(self, fd: int) -> bool:
        """Tell whether *fd* is of the open file, and not of one that has had its name.

        Another disk that is mounted there now may have the number, too: disks that were filled alike have them alike.
        """
        return self._fd >= 0 and os.path.sameopenfile(fd, self._fd)

    def drop_pages(self, offset: int, length_bytes: int) -> None:
        """Have the kernel drop what it keeps of a range, so that it is read from the disk. Never fails.

        A write that failed leaves in memory what the disk does not have.
        """
        with suppress(OSError):
            os.posix_fadvise(self._fd, offset, length_bytes, os.POSIX_FADV_DONTNEED)

    def linked(self) -> bool:
        """Tell whether the open file still has a name."""
        return os.fstat(self._fd).st_nlink > 0

    def read(self, offset: int, buffer: memoryview, length_bytes: int) -> None:
        """Read *length_bytes* at *offset* into the start of *buffer*.

        Raises:
            OSError: The disk failed.
            CacheCorruptError: The file ends before.
        """
        view = buffer[: _aligned(length_bytes)]
        got = 0
        while got < length_bytes:
            count = self._transfer(os.preadv, [view[got:]], offset + got)
            if not count:
                raise CacheCorruptError(f"{self._path} ends at {offset + got}, before {offset + length_bytes}")
            got += count

    def read_bytes(self, offset: int, length_bytes: int) -> bytes:
        """Return *length_bytes* from any *offset* on; for few bytes.

        A filesystem that wants more aligned than we do refuses this and takes blocks: it goes on past the page cache.

        Raises:
            OSError: The disk failed, or the filesystem does not take it.
            CacheCorruptError: The file ends before.
        """
        before_bytes = offset % ALIGNMENT_BYTES
        buffer = memoryview(mmap.mmap(-1, _aligned(before_bytes + length_bytes)))
        got = os.preadv(self._fd, [buffer], offset - before_bytes)
        if got < before_bytes + length_bytes:
            raise CacheCorruptError(
                f"{self._path} ends at {offset - before_bytes + got}, before {offset + length_bytes}"
            )
        return bytes(buffer[before_bytes : before_bytes + length_bytes])

    def write(self, offset: int, buffer: memoryview, length_bytes: int) -> None:
        """Write the first *length_bytes* of *buffer* at *offset*.

        Args:
            offset: Where, in the object; a multiple of the alignment.
            buffer: The bytes, and perhaps more.
            length_bytes: How many count.

        Raises:
            OSError: The disk failed or is full.
        """
        whole_bytes = length_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES
        done = 0
        while done < whole_bytes:
            done += self._transfer(os.pwrite, buffer[done:whole_bytes], offset + done)
        if done < length_bytes:
            self._write_through_cache(offset + done, buffer[done:length_bytes])

    def _write_through_cache(self, offset: int, data: memoryview) -> None:
        fd = os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(fd, data[done:], offset + done)
        finally:
            os.close(fd)

    def _transfer(self, call: Callable[[int, Any, int], int], data: Any, offset: int) -> int:
        was_direct = self._direct  # asked before: other threads may be told the same at the same time
        try:
            return call(self._fd, data, offset)
        except OSError as error:
            if error.errno != errno.EINVAL or not was_direct:
                raise
        # Unaligned memory, or a filesystem that takes the flag and not the I/O: this file goes through the page cache.
        fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT)
        self._direct = False
        return call(self._fd, data, offset)

    def try_claim(self, start: int, length_bytes: int) -> bool:
        """Lock a range of bytes alone, for as long as the file is open or until ``unclaim``; do not wait.

        The lock belongs to the open file description, so it dies with this process and its threads share it. A
        filesystem without such locks gives it always.

        Raises:
            OSError: The filesystem failed.
        """
        try:
            self._set_range_lock(fcntl.F_WRLCK, start, length_bytes)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            if error.errno not in (*_NO_LOCKS, errno.EINVAL):
                raise
        return True

    def unclaim(self, start: int, length_bytes: int) -> None:
        """Take back ``try_claim``."""
        if self._fd >= 0:
            with suppress(OSError):  # there was no lock, then
                self._set_range_lock(fcntl.F_UNLCK, start, length_bytes)

    def _set_range_lock(self, kind: int, start: int, length_bytes: int) -> None:
        fcntl.fcntl(self._fd, _OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length_bytes, 0))

    def sync(self) -> None:
        """Put the data on the disk.

        Raises:
            OSError: It could not be put there; what was written since the last time may be lost.
        """
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file and let it be evicted. Idempotent; nothing else may be running. Never fails."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close_quietly(fd)


def close_quietly(fd: int) -> None:
    """Close a descriptor of a data file. Never fails: what close says is left to syncing."""
    with suppress(OSError):  # as a network's filesystem does for a write that was lost, or when its server is gone
        os.close(fd)


def _lock_shared(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def is_unused(fd: int) -> bool:
    """Tell whether nobody has a file open, or mapped, but for this descriptor (opened for reading) and what shares it.

    The kernel gives a lease for writing to nobody else's file, and counts every open one, its own and those that are
    only mapped among them. The lease is given back at once. Who opens the file in that moment waits for it, and the
    signal that tells us so must be ignored (SIGIO).

    Raises:
        OSError: The filesystem has no leases (EINVAL, ENOTSUP), or the file is not ours (EACCES).
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return False
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True


def remove_file(path: str, before: Callable[[], bool]) -> bool:
    """Remove a data file that nobody has open.

    Args:
        path: The file; a missing one counts as removed.
        before: Called with the file locked, so that nobody can open it: makes the index forget the file first, and
            returns whether to go on.

    Returns:
        Whether it is gone. False when some process has it open, or *before* said so.

    Raises:
        OSError: It cannot be opened or removed.
    """
    try:
        return _remove_file(path, before, os.O_RDONLY)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
    return _remove_file(path, before, os.O_RDWR)  # NFS locks alone only what is open for writing


def _remove_file(path: str, before: Callable[[], bool], mode: int) -> bool:
    try:
        fd = os.open(path, mode | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return before()
    try:
        if not _lock_alone(fd):
            return False
        if not os.fstat(fd).st_nlink:
            return True  # evicted by another process; what has this name now, if anything, is a new file
        if not before():
            return False
        os.unlink(path)
        return True
    finally:
        os.close(fd)


def punch_holes(path: str, choose: Callable[[], list[tuple[int, int]]]) -> bool:
    """Give back the space of some ranges of a data file that nobody has open.

    Args:
        path: The file; a missing one has nothing to give back.
        choose: Called with the file locked, so that nobody can open it: makes the index forget what is in the ranges
            first, and returns them as start and stop.

    Returns:
        Whether it was done. False when some process has the file open, or there is none.

    Raises:
        OSError: It cannot be opened or punched.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        if not _lock_alone(fd) or not os.fstat(fd).st_nlink:
            return False
        for start, stop in choose():
            _punch(fd, start, stop)
        return True
    finally:
        os.close(fd)


def _punch(fd: int, start: int, stop: int) -> None:
    mode = _KEEP_SIZE | _PUNCH_HOLE
    while _libc.fallocate(fd, mode, ctypes.c_int64(start), ctypes.c_int64(stop - start)):
        number = ctypes.get_errno()
        if number != errno.EINTR:  # a signal says nothing of the disk
            raise OSError(number, os.strerror(number))


def _lock_alone(fd: int) -> bool:
    """Lock a file alone; return False when somebody has it open. Another eviction is waited for."""
    for _ in range(_OPEN_ATTEMPTS):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _lock_shared(fd):
                return False
            time.sleep(_RETRY_S)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return True
        else:
            return True
    return False


def _aligned(length_bytes: int) -> int:
    return -(-length_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
