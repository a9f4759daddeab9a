"""PATH or SOURCE: what an argument means, for the commands that take both."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from tigrismount.cli.failure import NOT_FOUND, CommandFailure
from tigrismount.errors import ConfigError
from tigrismount.holder.mountinfo import MountEntry

_SOURCE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*|[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]:.*", re.DOTALL)
_MOST_LINKS = 40  # as in the kernel


def is_source(text: str) -> bool:
    """Tell whether *text* is a SOURCE: it has a scheme, or is ``bucket:prefix``; anything else is a path."""
    return _SOURCE.fullmatch(text) is not None


def locate(path: str, mounts: Sequence[MountEntry]) -> tuple[str, str]:
    """Return the mountpoint that *path* lies under, and the rest of it; nothing in the mount is touched.

    Raises:
        CommandFailure: It lies under none of ours.
    """
    found = find_mount(path, mounts)
    if found is None:
        raise CommandFailure(f"{path}: is not under a mount; 'tigrismount status' lists the mounts", NOT_FOUND)
    return found


def find_mount(path: str, mounts: Sequence[MountEntry]) -> tuple[str, str] | None:
    """Return the same, None where it lies under none of ours."""
    ours = [entry.mountpoint for entry in mounts if entry.is_ours]
    absolute = absolute_path(path)
    for _ in range(_MOST_LINKS):
        if found := _under(absolute, ours):
            return found
        real = os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
        if found := _under(real, ours):
            return found
        try:  # it lies in no mount: where it is a link it may lead to one
            absolute = os.path.normpath(os.path.join(os.path.dirname(real), os.readlink(real)))
        except OSError:
            return None
    return None


def absolute_path(path: str) -> str:
    """Return *path* from the root on.

    Raises:
        ConfigError: It begins at a working directory that is gone.
    """
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: the working directory was removed; run this in another one") from None


def _under(path: str, mountpoints: Sequence[str]) -> tuple[str, str] | None:
    above = [point for point in mountpoints if path == point or path.startswith(point.rstrip("/") + "/")]
    if not above:
        return None
    mountpoint = max(above, key=len)
    return mountpoint, path[len(mountpoint) :].strip("/")
