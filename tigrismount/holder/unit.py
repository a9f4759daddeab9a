"""What the systemd unit ``tigrismount@NAME`` mounts, and where: its TOML file, or what its name alone says.

Read by the privileged helper and by the command line, so that both mean the same mount. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tigrismount.errors import MountError
from tigrismount.holder.mountinfo import read_mounts

if TYPE_CHECKING:
    from tigrismount.holder.mountinfo import MountEntry

PLACES = "/run/tigrismount-helper"
"""Where the helper writes down which mount each unit has; root alone may look."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One instance of the template unit."""

    name: str
    """What follows the ``@``."""
    source: str
    """What is mounted."""
    mountpoint: str
    """Where."""
    file: str | None
    """Its TOML file, None where it has none."""
    settings: dict[str, Any]
    """What the file says."""


def read_unit(name: str, *, uid: int, home: str) -> Unit:
    """Return what the unit *name* mounts.

    Args:
        name: Its instance name; without a file, the bucket.
        uid: Whose unit: root's are the system's.
        home: Home directory of that user.

    Raises:
        MountError: The name or the file is not valid; says why.
    """
    if not name or "/" in name or name.startswith("."):
        raise MountError(f"unit name {name!r}: is not a file name")
    system = uid == 0
    path = os.path.join("/etc" if system else os.path.join(home, ".config"), "tigrismount", f"{name}.toml")
    settings = _read(path)
    base = "/mnt/tigris" if system else os.path.join(home, "mnt/tigris")
    source = (settings or {}).get("source", f"s3://{name}")
    mountpoint = (settings or {}).get("mountpoint", os.path.join(base, name))
    for key, value in (("source", source), ("mountpoint", mountpoint)):
        if not isinstance(value, str) or not value or not value.isprintable():
            raise MountError(f"{path}: {key} must be a text")
    if not os.path.isabs(mountpoint) or os.path.normpath(mountpoint) != mountpoint:
        raise MountError(f"{path}: mountpoint {mountpoint!r} must be an absolute path without '..' or a '/' at its end")
    return Unit(name, source, mountpoint, None if settings is None else path, settings or {})


def _read(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise MountError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise MountError(f"{path}: is not TOML: {exc}") from exc


def note_place(unit: Unit, made: MountEntry | None) -> None:
    """Write down which mount is the unit's: its file may name another place by the time that it ends."""
    if made is None:
        return
    with contextlib.suppress(OSError):  # as where /run is full; then it is looked for where the file says
        os.makedirs(PLACES, mode=0o700, exist_ok=True)
        for name in _noted_for(made):  # of a mount that is gone: its numbers are given to the next one
            os.unlink(os.path.join(PLACES, name))
        with open(os.path.join(PLACES, unit.name), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(_note(made))


def forget_place(unit: Unit) -> None:
    """Know of no mount of the unit any more."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(PLACES, unit.name))


def made_elsewhere(unit: Unit) -> MountEntry | None:
    """Return the unit's mount if it is there still, seen or covered, and not where its file says by now."""
    try:
        with open(os.path.join(PLACES, unit.name), encoding="utf-8", errors="surrogateescape") as file:
            number, device, place = file.read().split(" ", 2)
    except (OSError, ValueError):
        return None
    there = [entry for entry in read_mounts() if entry.is_ours and entry.mountpoint == place != unit.mountpoint]
    return next((entry for entry in there if (str(entry.mount_id), entry.device) == (number, device)), None)


def is_anothers(unit: Unit, entry: MountEntry) -> bool:
    """Tell whether *entry* is written down as the mount of another unit."""
    names = _noted_for(entry)
    return bool(names) and unit.name not in names


def _noted_for(entry: MountEntry) -> list[str]:
    """Return the names of the units whose mount *entry* is, as far as that is written down."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(PLACES):
            with (
                contextlib.suppress(OSError),  # it is stopped at this moment
                open(os.path.join(PLACES, name), encoding="utf-8", errors="surrogateescape") as file,
            ):
                if file.read() == _note(entry):
                    found.append(name)
    return found


def _note(entry: MountEntry) -> str:
    return f"{entry.mount_id} {entry.device} {entry.mountpoint}"
