"""Reading the kernel's list of mounts.

``/proc/self/mountinfo`` is the only truthful source: ``os.path.ismount`` and ``stat`` ask the filesystem itself, which
may be dead or hung. Names in it have blank, tab, newline and backslash written as octal escapes.

It is longer than what one system call gives. Before Linux 5.8 the place in it is a count of mounts: where one goes away
between two calls, the list lacks another one that is there. So it counts once it has been read twice alike.

Source: proc_pid_mountinfo(5); Linux commit 9f6c61f96f2d ("proc/mounts: add cursor").
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

FUSE_TYPE = "fuse.tigrismount"
"""Filesystem type of every mount of ours."""

_ESCAPE = re.compile(rb"\\([0-7]{3})")
_MOST_READS = 8  # where mounts come and go all the time
_MOST_LINKS = 40  # as in the kernel


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One mounted filesystem."""

    mount_id: int
    """The kernel's number of this mount; given to another one as soon as it is gone."""
    device: str
    """``major:minor``, which also names its entry in ``/sys/class/bdi``."""
    mountpoint: str
    """Where, absolute."""
    type: str
    """Filesystem type."""
    source: str
    """What is mounted, as the filesystem names it."""
    super_options: tuple[str, ...]
    """Options of the filesystem, such as ``user_id=0`` and ``allow_other``."""

    @property
    def is_ours(self) -> bool:
        """Whether a tigrismount made it."""
        return self.type == FUSE_TYPE

    @property
    def owner_uid(self) -> int | None:
        """The user who mounted it, for FUSE filesystems."""
        for option in self.super_options:
            name, _, value = option.partition("=")
            if name == "user_id" and value.isdecimal():
                return int(value)
        return None

    def is_same_as(self, other: MountEntry, *, may_have_moved: bool) -> bool:
        """Whether this is the mount that *other* was read of earlier.

        Args:
            other: What was read.
            may_have_moved: Whether its place says nothing. Numbers alone tell only while that mount lasts for certain.
        """
        numbers_agree = (self.mount_id, self.device) == (other.mount_id, other.device)
        return numbers_agree and (may_have_moved or self.mountpoint == other.mountpoint)


def read_mounts() -> list[MountEntry]:
    """Return all mounts that this process sees, in the kernel's order: what hides another comes later."""
    text = _read_list()
    for _ in range(_MOST_READS):
        before, text = text, _read_list()
        if text == before:
            break
    return parse_mounts(text)


def parse_mounts(text: bytes) -> list[MountEntry]:
    """Return the mounts listed in *text*, in the format of ``/proc/self/mountinfo``; other lines are left out."""
    entries = []
    for line in text.split(b"\n"):
        fields, separator, rest = line.partition(b" - ")
        before, after = fields.split(b" "), rest.split(b" ")
        if not separator or len(before) < 6 or len(after) < 2 or not before[0].isdigit():
            continue
        entries.append(
            MountEntry(
                mount_id=int(before[0]),
                device=_text(before[2]),
                mountpoint=_text(before[4]),
                type=_text(after[0]),
                source=_text(after[1]),
                super_options=tuple(_text(b" ".join(after[2:])).split(",")),
            )
        )
    return entries


def mount_at(mountpoint: str, mounts: Iterable[MountEntry] | None = None) -> MountEntry | None:
    """Return the mount that is seen at *mountpoint*, None when nothing is mounted right there.

    Args:
        mountpoint: Absolute, without symbolic links.
        mounts: Where to look; None reads the kernel's list.
    """
    found = None
    for entry in read_mounts() if mounts is None else mounts:
        if entry.mountpoint == mountpoint:
            found = entry
    return found


def canonical_mountpoint(path: str) -> str:
    """Return *path* absolute and without symbolic links, as the kernel will list it.

    The last component, or what it links to, is not looked at where something is mounted there: a hung filesystem would
    hang us too, and so would one whose first worker is still to come.

    Raises:
        ConfigError: It is empty, as an unset variable of a script is; the working directory is not meant by that. Or
            it begins at a working directory that is gone.
    """
    if not path:
        raise ConfigError("the mountpoint is empty: name a directory")
    try:
        path = os.path.abspath(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: the working directory was removed; run this in another one") from None
    for _ in range(_MOST_LINKS):
        parent, name = os.path.split(path)
        if name in (".", ".."):  # at the end of what a link says
            break
        path = os.path.join(os.path.realpath(parent), name)
        if mount_at(path) is not None:
            return path
        try:
            target = os.readlink(path)
        except OSError:  # no link, or nothing at all
            return path
        path = os.path.join(os.path.dirname(path), target.rstrip("/") or "/")
    return os.path.realpath(path)


def _read_list() -> bytes:
    with open("/proc/self/mountinfo", "rb") as file:
        return file.read()


def _text(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field))
