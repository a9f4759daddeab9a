"""Settings of the host that a mount would be faster with, and the command that makes each.

They are looked at from outside, where they are in force, not where they were asked for: an unprivileged mount may not
set its own read-ahead, and an administrator may have set it since.

Source: kernel documentation, ``ABI/testing/sysfs-class-bdi`` and ``filesystems/fuse.rst``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tigrismount.holder.mountinfo import MountEntry

_MAX_BACKGROUND = 64
"""Read-ahead requests of 1 MiB that the kernel should be able to have outstanding; 12 is its default."""


def missing_knobs(entry: MountEntry, config: Mapping[str, Any], *, root: str = "/sys") -> list[dict[str, Any]]:
    """Return the settings that are lower than they should be: name, value, what is wanted, and the command for it.

    Args:
        entry: The mount.
        config: What its daemon says of its configuration.
        root: Where the kernel's settings are.
    """
    minor = entry.device.rpartition(":")[2]
    wanted_kib = config.get("kernel_read_ahead", {}).get("value")
    looked_at = (
        ("kernel read-ahead (KiB)", f"{root}/class/bdi/{entry.device}/read_ahead_kb", wanted_kib),
        ("requests in the background", f"{root}/fs/fuse/connections/{minor}/max_background", _MAX_BACKGROUND),
    )
    knobs = []
    for name, path, wanted in looked_at:
        value = _read(path)
        if value is not None and isinstance(wanted, int) and value < wanted:
            command = f"echo {wanted} | sudo tee {path}"
            knobs.append({"name": name, "value": value, "wanted": wanted, "command": command})
    return knobs


def _read(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None  # another kernel, or a container that is not shown it
