"""Keeps the C library's heap from growing with every thread.

glibc gives threads heaps of their own, up to eight for each core, and memory that is freed in one serves no other. Our
threads come and go, and each allocates a little (answers of the store, records of the index) in whichever heap it got,
so for as long as a mount is used all of them grow. Nearly everything is allocated with Python's lock held, so threads
do not fight over two.

Source: mallopt(3), ``M_ARENA_MAX``.
"""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8
"""malloc.h"""
_HEAPS = 2
"""The main one, and one for who would wait for it."""


def share_heaps() -> None:
    """Let all threads of this process share two heaps; call before there are any. Without glibc nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _HEAPS)
