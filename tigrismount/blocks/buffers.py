"""Page-aligned block buffers under one hard budget.

Every byte that is fetched or read back lives in one of these. Buffers are anonymous mappings, or pieces of memory that
fetch processes see too (``objects.fetchers.memory``): page-aligned for ``O_DIRECT``, and returned to the kernel when
dropped. Freed buffers are kept for reuse, because first-touching fresh
pages costs more CPU than receiving the bytes (0.5 to 3 s/GiB on virtual machines that hand freed memory back to
their host, against 0.3 for the copy from the socket).
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from tigrismount.blocks.pages import Pages

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE_BYTES = 4096
"""Alignment of ``O_DIRECT`` and of demand parts."""


def page_ceil(size: int) -> int:
    """Return *size* rounded up to whole pages, which are the kernel's: 64 KiB on some arm64.

    Less is not had of it, and less is not given back: the rest of a page may be another buffer's.
    """
    page_bytes = max(PAGE_BYTES, mmap.PAGESIZE)
    return -(-size // page_bytes) * page_bytes


class BufferPool:
    """Hands out page-aligned memory and never holds more than its limit.

    The limit counts buffers in use *and* those kept for reuse. Not thread-safe: used from the trio thread only.

    Args:
        limit_bytes: Most bytes ever held.
        map_pages: Gets page-aligned memory of a size; raises OSError when there is none.
        unmap_pages: Gives it back to the kernel; None where it goes with the last reference to it.
    """

    def __init__(
        self,
        limit_bytes: int,
        map_pages: Callable[[int], memoryview] | None = None,
        unmap_pages: Callable[[memoryview], None] | None = None,
    ) -> None:
        self.limit_bytes = limit_bytes
        self._map_pages = map_pages or Pages().map
        self._unmap_pages = unmap_pages
        self.used_bytes = 0
        self._free: dict[int, list[memoryview]] = {}
        self._free_bytes = 0
        self._surplus_bytes = 0
        """Least that was free since :meth:`give_back_surplus`."""

    @property
    def held_bytes(self) -> int:
        """Bytes in use or kept for reuse."""
        return self.used_bytes + self._free_bytes

    def can_take(self, size_bytes: int, reserve_bytes: int = 0) -> bool:
        """Tell whether :meth:`take` would succeed while leaving *reserve_bytes* untouched."""
        return self.used_bytes + page_ceil(size_bytes) + reserve_bytes <= self.limit_bytes

    def has_free(self, size_bytes: int) -> bool:
        """Tell whether :meth:`take` would reuse memory instead of asking the kernel for fresh one."""
        return bool(self._free.get(page_ceil(size_bytes)))

    def take(self, size_bytes: int) -> memoryview:
        """Return writable, page-aligned memory of *size_bytes* rounded up to pages; contents are undefined.

        Raises:
            MemoryError: It would exceed the limit; ask :meth:`can_take` first.
            OSError: The kernel has none.
        """
        size = page_ceil(size_bytes)
        if self.used_bytes + size > self.limit_bytes:
            raise MemoryError(f"buffer budget of {self.limit_bytes} bytes is spent")
        same = self._free.get(size)
        if same:
            self.used_bytes += size
            self._free_bytes -= size
            self._surplus_bytes = min(self._surplus_bytes, self._free_bytes)
            return same.pop()
        self._shrink(self.limit_bytes - self.used_bytes - size)
        buffer = self._map_pages(size)
        self.used_bytes += size
        return buffer

    def give(self, buffer: memoryview) -> None:
        """Take *buffer* back; the caller and its threads no longer touch it."""
        size = len(buffer)
        self.used_bytes -= size
        self._free_bytes += size
        self._free.setdefault(size, []).append(buffer)
        self._shrink(self.limit_bytes - self.used_bytes)

    def give_back_surplus(self) -> None:
        """Return what nobody has needed since the last call to the kernel."""
        self._shrink(self._free_bytes - self._surplus_bytes)
        self._surplus_bytes = self._free_bytes

    def _shrink(self, keep_bytes: int) -> None:
        if self._free_bytes <= keep_bytes:
            return
        # Odd sizes (small files) go first: they are the least likely to fit again.
        for size in sorted(self._free):
            buffers = self._free[size]
            while buffers and self._free_bytes > keep_bytes:
                buffer = buffers.pop()
                self._free_bytes -= size
                if self._unmap_pages is not None:
                    self._unmap_pages(buffer)
            if not buffers:
                del self._free[size]
        self._surplus_bytes = min(self._surplus_bytes, self._free_bytes)
