"""Getting file data out of the kernel's page cache, and proof that it is out.

A load "from NVMe" measures memory unless the pages are gone. ``posix_fadvise`` asks for that, file by file, and harms
nobody else; the kernel may keep pages all the same (a reader's, or large folios), so ``mincore`` counts what is left.
Only where that is not zero, and only for root (who may not in a container), ``/proc/sys/vm/drop_caches`` empties the
cache of the whole machine.

Source: posix_fadvise(2), mincore(2), ``Documentation/admin-guide/sysctl/vm.rst``.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

_DROP_CACHES = "/proc/sys/vm/drop_caches"
_PAGES_ONLY = b"1\n"


def drop_pages(paths: Iterable[str]) -> tuple[str, int]:
    """Drop the cached pages of files.

    Args:
        paths: Files; closed and unmapped everywhere.

    Returns:
        What did it (``posix_fadvise`` or ``drop_caches``), and how many bytes are cached after all.
    """
    files = list(paths)
    for path in files:
        _advise(path)
    left_bytes = sum(map(resident_bytes, files))
    if left_bytes == 0 or os.geteuid() != 0:
        return "posix_fadvise", left_bytes
    os.sync()
    try:
        with open(_DROP_CACHES, "wb", buffering=0) as file:
            file.write(_PAGES_ONLY)
    except OSError:  # in a container, root may not
        return "posix_fadvise", left_bytes
    return "drop_caches", sum(map(resident_bytes, files))


def resident_bytes(path: str) -> int:
    """Return how much of a file is in the page cache; looking brings nothing in.

    Args:
        path: A file of this user; about others the kernel tells only lies (everything is cached).

    Raises:
        OSError: The kernel refuses to tell.
    """
    size_bytes = os.stat(path).st_size
    if size_bytes == 0:
        return 0
    pages = -(-size_bytes // mmap.PAGESIZE)
    found = np.zeros(pages, np.uint8)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size_bytes, prot=mmap.PROT_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(
            ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(size_bytes), ctypes.c_void_p(found.ctypes.data)
        )
        code = ctypes.get_errno()
        # The mapping cannot be closed while the array looks into it.
        del view
    if failed:
        raise OSError(code, os.strerror(code), path)
    return int((found & 1).sum()) * mmap.PAGESIZE


def _advise(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        # Dirty pages stay; a read-only filesystem has none, and some answer with an error.
        with contextlib.suppress(OSError):
            os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
