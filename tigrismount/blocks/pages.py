"""Fresh memory for buffers, in huge pages where those are cheap.

A huge page is cleared at once and needs one fault in place of 512: 0.1 CPU s/GiB against 0.4 of small pages. But a
virtual machine that reports free memory to its host gives away exactly what huge pages are made of, and has it back
page by page: 2.5 CPU s/GiB, more than all else that a cold load takes. Small pages come from what was never given away.

No kernel says which it is, so we look: of each fresh buffer the first huge page is filled in at once, which had to be
done anyway, and where that takes too long, this buffer and the next ones are of small pages.
"""

from __future__ import annotations

import contextlib
import mmap
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HUGE_BYTES = 2 << 20
"""A huge page; smaller buffers have none."""
SLOW_S = 1.5e-3
"""CPU time for one that is too much. Clearing it takes 0.2 ms, 512 small faults 0.8, having it back from a host 5."""
SMALL_BUFFERS = 63
"""Buffers of small pages until the next look: where huge ones are dear, looking costs each buffer 0.1 ms."""
_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE (Linux 5.14), which Python has no name for."""


class Pages:
    """Maps memory; used from one thread.

    Args:
        advise: ``mmap.madvise``.
        cpu_s: CPU time of this thread: what others do meanwhile says nothing.
    """

    def __init__(
        self,
        advise: Callable[..., None] = mmap.mmap.madvise,
        cpu_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._advise = advise
        self._cpu_s = cpu_s
        self._small_left = 0

    def map(self, size: int) -> memoryview:
        """Return page-aligned memory of *size*.

        Raises:
            OSError: The kernel has none.
        """
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if size < HUGE_BYTES:
            return memoryview(memory)
        if self._small_left:
            self._small_left -= 1
        else:
            with contextlib.suppress(OSError, AttributeError):  # not every kernel has huge pages, or fills them in
                self._try_huge(memory)
        return memoryview(memory)

    def _try_huge(self, memory: mmap.mmap) -> None:
        self._advise(memory, mmap.MADV_HUGEPAGE)
        began_s = self._cpu_s()
        self._advise(memory, _POPULATE_WRITE, 0, HUGE_BYTES)
        if self._cpu_s() - began_s > SLOW_S:
            self._advise(memory, mmap.MADV_NOHUGEPAGE)
            self._small_left = SMALL_BUFFERS
