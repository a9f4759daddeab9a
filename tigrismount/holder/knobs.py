"""Kernel settings of a mount that only the administrator may change.

The kernel reads 128 KiB ahead on a FUSE mount by default, which keeps a single plain reader from ever having more than
two requests outstanding. The setting counts for files opened afterwards, so it is made before anybody is told that the
mount is there.

Source: kernel documentation, ``ABI/testing/sysfs-class-bdi``.
"""

from __future__ import annotations


def raise_read_ahead(device: str, read_ahead_kib: int, *, directory: str = "/sys/class/bdi") -> list[str]:
    """Set the read-ahead of the mount with device number *device*.

    Args:
        device: ``major:minor`` of the mount.
        read_ahead_kib: What to set.
        directory: Where the kernel keeps the settings.

    Returns:
        Warnings, one line each: empty when it is set.
    """
    path = f"{directory}/{device}/read_ahead_kb"
    try:
        with open(path, "r+", encoding="ascii") as file:
            file.write(str(read_ahead_kib))
            file.flush()
            file.seek(0)
            seen = file.read().strip()
    except OSError as exc:
        return [f"kernel read-ahead stays at its default, reads of one file may be slower: {path}: {exc.strerror}"]
    return [] if seen == str(read_ahead_kib) else [f"kernel read-ahead is {seen} KiB, not {read_ahead_kib}: {path}"]
