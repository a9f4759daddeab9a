"""What ``--version`` says: ours and that of everything whose version has ever mattered in a report.

What the kernel's FUSE can do is known from three places, none of which needs a mount: its release (which version
brought a feature), its build configuration where the distribution keeps it, and the switch of fuse's module. What
a mount has really agreed on with the kernel is in ``status``; this is what there is to be agreed on.
"""

from __future__ import annotations

import ctypes
import gzip
import os
import platform
import re
from importlib import metadata
from typing import NamedTuple

from tigrismount import __version__

_URING_SWITCH = "sys/module/fuse/parameters/enable_uring"
"""``Y`` where the administrator lets daemons use it; it is off by default."""


class _Feature(NamedTuple):
    name: str
    since: tuple[int, int]
    option: str = ""
    switch: str = ""


_FEATURES = (
    _Feature("resend", (6, 9)),
    _Feature("passthrough", (6, 9), option="CONFIG_FUSE_PASSTHROUGH"),
    _Feature("io_uring", (6, 14), option="CONFIG_FUSE_IO_URING", switch=_URING_SWITCH),
)


def version_lines() -> list[str]:
    """Return one line per component; what is not installed says so."""
    return [
        f"tigrismount {__version__}",
        f"Python {platform.python_version()}",
        f"pyfuse3 {_distribution('pyfuse3')}",
        f"libfuse {_libfuse()}",
        f"{os.uname().sysname} {os.uname().release}",
        f"FUSE in the kernel: {', '.join(kernel_features(os.uname().release))}",
    ]


def kernel_features(release: str, root: str = "/") -> list[str]:
    """Return what the kernel's FUSE offers, one ``NAME yes|no (why)`` each.

    Args:
        release: As ``uname -r`` says.
        root: Directory in which ``proc``, ``sys`` and ``boot`` lie.
    """
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    built = _build_configuration(release, root)
    return [_judge(feature, version, built, root) for feature in _FEATURES]


def _judge(feature: _Feature, version: tuple[int, int], built: str, root: str) -> str:
    if version < feature.since:
        return f"{feature.name} no (from Linux {feature.since[0]}.{feature.since[1]})"
    if feature.option and built and not re.search(rf"^{feature.option}=[ym]$", built, re.MULTILINE):
        return f"{feature.name} no (built without {feature.option})"
    if feature.switch and _read(os.path.join(root, feature.switch)).strip() != b"Y":
        return f"{feature.name} no (off in /{feature.switch})"
    return (
        f"{feature.name} yes" if built or not feature.option else f"{feature.name} yes (if built with {feature.option})"
    )


def _build_configuration(release: str, root: str) -> str:
    """Return the kernel's configuration, empty where the distribution keeps none."""
    packed = _read(os.path.join(root, "proc/config.gz"))
    if packed:
        return gzip.decompress(packed).decode(errors="replace")
    return _read(os.path.join(root, f"boot/config-{release}")).decode(errors="replace")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _distribution(name: str) -> str:
    """Return the version of an installed package, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "is not installed"


def _libfuse() -> str:
    for name in ("libfuse3.so.4", "libfuse3.so.3"):  # from libfuse 3.17 on, and before
        try:
            library = ctypes.CDLL(name)
            library.fuse_pkgversion.restype = ctypes.c_char_p
            return str(library.fuse_pkgversion().decode())
        except (OSError, AttributeError):
            continue
    return "is not installed"
