"""Memory that several processes see: block buffers, and a line of words for each fetch process.

It is one anonymous file, mapped whole by everybody at the start. It is far larger than what may be in use: pages come
when they are first touched, and go back to the kernel, out of every mapping at once, when a buffer is given back.

Who may write to which buffer is agreed in messages (``wire``). The words are written by one process each and read by
the worker; they are aligned, so a read never sees half of one.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import struct
import time

from tigrismount.core.arena import LARGE_BYTES, Arena, rounded
from tigrismount.memoryfile import make_memory_file

SPARE = 4
"""Addresses for each byte that may be in use: enough that a hole for the largest buffer is always found in practice."""
_WORDS_BYTES = LARGE_BYTES
"""Before the buffers, which begin at a huge page."""
_USUAL_PAGE_BYTES = 4096
"""With which a huge page has ``LARGE_BYTES``."""
_LINE_BYTES = 64
"""One cache line for each process: what one writes must not slow another down."""
MOST_PROCESSES = 64
_BEAT = struct.Struct("d")
_SEALS = 0x0001 | 0x0002 | 0x0004
"""``F_SEAL_SEAL``, ``F_SEAL_SHRINK``, ``F_SEAL_GROW``: nobody can take mapped pages away under anybody."""
_F_ADD_SEALS = 1033


class SharedMemory:
    """The mapping of one process.

    Args:
        fd: The file; closed with the last reference to this object.
        size_bytes: Its size.
    """

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.fd = fd
        self.size_bytes = size_bytes
        self._map = mmap.mmap(fd, size_bytes)
        with contextlib.suppress(OSError, AttributeError):  # where shared memory may have huge pages at all
            # With larger pages a huge one is larger, too: up to 512 MiB, and the first block would take a whole one.
            advice = mmap.MADV_HUGEPAGE if mmap.PAGESIZE == _USUAL_PAGE_BYTES else mmap.MADV_NOHUGEPAGE
            self._map.madvise(advice, _WORDS_BYTES, size_bytes - _WORDS_BYTES)
        self._all = memoryview(self._map)
        self._base = _address(self._all)
        self._arena = Arena(_WORDS_BYTES, size_bytes)

    @classmethod
    def create(cls, limit_bytes: int) -> SharedMemory:
        """Return new memory of which *limit_bytes* may be in use at once.

        Raises:
            OSError: The kernel has none such, or takes no pages of it back; or an address space is too small.
        """
        size_bytes = _WORDS_BYTES + -(-limit_bytes * SPARE // LARGE_BYTES) * LARGE_BYTES
        fd = make_memory_file("tigrismount-blocks", sealable=True)
        try:
            os.ftruncate(fd, size_bytes)
            fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(fd)
            raise
        memory = cls(fd, size_bytes)  # from here on it goes with the object, also where that comes to nothing
        memory._map.madvise(mmap.MADV_REMOVE, _WORDS_BYTES, mmap.PAGESIZE)  # not every kernel takes pages back
        return memory

    def __del__(self) -> None:
        """Let go of the file; the pages go with the last mapping."""
        with contextlib.suppress(OSError):
            os.close(self.fd)

    # -- the owner's: buffers --------------------------------------------------------------------------------------

    def take(self, size_bytes: int) -> memoryview:
        """Return writable memory of *size_bytes*, which are whole pages; trio thread only.

        Raises:
            OSError: There is no such range left.
        """
        offset = self._arena.take(size_bytes)
        if offset is None:
            raise OSError(f"no room for a buffer of {size_bytes} bytes")
        return self._all[offset : offset + size_bytes]

    def give(self, buffer: memoryview) -> None:
        """Take back what :meth:`take` returned, and give its pages to the kernel; nobody touches it any more."""
        offset = self.offset(buffer)
        assert offset is not None, "a buffer of this memory"
        # With what lies behind it up to the next huge page, which came with its last bytes where there are such.
        self._map.madvise(mmap.MADV_REMOVE, offset, rounded(len(buffer)))
        self._arena.give(offset, len(buffer))

    def offset(self, view: memoryview) -> int | None:
        """Return where a writable *view*, which is not empty, begins; None where it lies elsewhere."""
        offset = _address(view) - self._base
        return offset if 0 <= offset < self.size_bytes else None

    # -- the fetch processes' ----------------------------------------------------------------------------------------

    def view(self, offset: int, size_bytes: int) -> memoryview:
        """Return the memory of a range; of buffers alone."""
        if not _WORDS_BYTES <= offset <= offset + size_bytes <= self.size_bytes:
            raise ValueError(f"[{offset}, +{size_bytes}) is no range of the buffers")
        return self._all[offset : offset + size_bytes]

    def beat(self, index: int) -> None:
        """Note that process *index* is alive now."""
        _BEAT.pack_into(self._map, index * _LINE_BYTES, time.monotonic())

    def clear_beat(self, index: int) -> None:
        """Forget that process *index* ever was."""
        _BEAT.pack_into(self._map, index * _LINE_BYTES, 0.0)

    def last_beat_s(self, index: int) -> float:
        """Return when process *index* was last seen alive, by the monotonic clock; 0 for not yet."""
        found: float = _BEAT.unpack_from(self._map, index * _LINE_BYTES)[0]
        return found


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
