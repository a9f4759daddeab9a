"""Memory files, also in a Python that was built without them.

``os.memfd_create`` is there where the C library had it when Python was built. The Pythons of conda, and those that uv
installed for years, are built on one from before 2018: they lack it on every machine, whatever its kernel can do.

Source: memfd_create(2); the kernel's tables of system calls.
"""

from __future__ import annotations

import ctypes
import errno
import os

_CLOEXEC, _ALLOW_SEALING = 1, 2
"""linux/memfd.h."""
_SYSCALLS = {"x86_64": 319, "aarch64": 279, "riscv64": 279, "ppc64le": 360, "s390x": 350}
"""Number of the call by machine, where the C library has no function for it either (glibc before 2.27)."""


def make_memory_file(name: str, *, sealable: bool = False) -> int:
    """Return the descriptor of a new, empty memory file, not inherited by others.

    Args:
        name: What it is called in /proc.
        sealable: Whether it may be sealed later.

    Raises:
        OSError: The kernel has none.
    """
    flags = _CLOEXEC | (_ALLOW_SEALING if sealable else 0)
    create = getattr(os, "memfd_create", None)
    return int(create(name, flags)) if create is not None else _call(name.encode(), flags)


def _call(name: bytes, flags: int) -> int:
    libc, number = ctypes.CDLL(None, use_errno=True), _SYSCALLS.get(os.uname().machine)
    if hasattr(libc, "memfd_create"):
        fd = libc.memfd_create(name, ctypes.c_uint(flags))
    elif number is not None:
        fd = libc.syscall(ctypes.c_long(number), name, ctypes.c_uint(flags))
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(fd)
