"""Whether this process may have the kernel read files of the cache by itself, and in words why not."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from tigrismount.fuse.options import NOT_ASKED_FOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.fuse.options import FuseConfig

_CAP_SYS_ADMIN = 21
"""linux/capability.h."""
_ALL_UIDS = 2**32 - 1
"""Length of the map of the initial user namespace, in which alone the capability counts."""
FOR_GOOD = frozenset({errno.EPERM, errno.ELOOP, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS})
"""What the kernel says to every file of this cache, and not for want of memory or of descriptors."""


def why_off(config: FuseConfig, *, verify: str | None, capabilities: int, uid_map: str) -> str:
    """Return why no file can be opened onto a file of the cache, empty where files can, as far as this side knows.

    Args:
        config: What was asked for.
        verify: When cached blocks are checked; None without a cache.
        capabilities: Effective ones of this process, as a bit mask.
        uid_map: Of this process, as ``/proc/self/uid_map`` has it.
    """
    if config.passthrough == "off":
        return NOT_ASKED_FOR
    if verify is None:
        return "there is no disk cache"
    if verify == "always":
        return "--verify always: the kernel verifies nothing"
    if not capabilities >> _CAP_SYS_ADMIN & 1 or uid_map.split() != ["0", "0", str(_ALL_UIDS)]:
        return "this process lacks CAP_SYS_ADMIN"
    return ""


def why_refused(error: OSError) -> str:
    """Return what the kernel meant by refusing a file."""
    if error.errno == errno.EPERM:
        return "this process lacks CAP_SYS_ADMIN"
    if error.errno == errno.ELOOP:
        return "the cache lies on a filesystem that is stacked on another (overlayfs)"
    return f"the kernel does not take the cache's files ({error.strerror})"


def effective_capabilities(read: Callable[[str], str]) -> int:
    """Return this process's effective capabilities as a bit mask.

    Args:
        read: Returns the text of a file, empty where there is none.
    """
    fields = (line.partition(":") for line in read("/proc/self/status").splitlines())
    return next((int(value, 16) for name, _, value in fields if name == "CapEff"), 0)
