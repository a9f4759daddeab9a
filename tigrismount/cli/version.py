"""What ``--version`` says: ours and that of everything whose version has ever mattered in a report."""

from __future__ import annotations

import ctypes
import os
import platform
from importlib import metadata

from tigrismount import __version__


def version_lines() -> list[str]:
    """Return one line per component; what is not installed says so."""
    return [
        f"tigrismount {__version__}",
        f"Python {platform.python_version()}",
        f"pyfuse3 {_distribution('pyfuse3')}",
        f"libfuse {_libfuse()}",
        f"{os.uname().sysname} {os.uname().release}",
    ]


def _distribution(name: str) -> str:
    """Return the version of an installed package, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "is not installed"


def _libfuse() -> str:
    try:
        library = ctypes.CDLL("libfuse3.so.3")
        library.fuse_pkgversion.restype = ctypes.c_char_p
        return str(library.fuse_pkgversion().decode())
    except (OSError, AttributeError):
        return "is not installed"
