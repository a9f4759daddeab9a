"""PATH or SOURCE: what an argument means, for the commands that take both."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from tigrismount.cli.failure import NOT_FOUND, CommandFailure
from tigrismount.holder.mountinfo import MountEntry

_SOURCE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*|[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]:.*", re.DOTALL)


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
    absolute = os.path.abspath(path)
    ours = [entry.mountpoint for entry in mounts if entry.is_ours]
    for candidate in (absolute, os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))):
        under = [point for point in ours if candidate == point or candidate.startswith(point.rstrip("/") + "/")]
        if under:
            mountpoint = max(under, key=len)
            return mountpoint, candidate[len(mountpoint) :].strip("/")
    return None
