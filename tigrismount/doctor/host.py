"""What a mount needs of this machine, looked at without changing anything.

Source: fuse(4), fusermount3(1), ``Documentation/filesystems/fuse.rst``; kernel release notes for the features named.
"""

from __future__ import annotations

import os
import re
import resource
from typing import TYPE_CHECKING

from tigrismount.config.units import format_size
from tigrismount.doctor.bytecode import check_bytecode
from tigrismount.doctor.findings import Finding
from tigrismount.errors import MountError
from tigrismount.holder.mounting import MountSpec, check_can_mount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tigrismount.config.model import MountConfig

_RESEND_KERNEL = (6, 9)
"""First kernel that sends a request again to the worker that takes over (FUSE_NOTIFY_RESEND)."""
_OLDEST_KERNEL = (4, 20)
"""First kernel with everything that we rely on (FUSE_CACHE_SYMLINKS, max_pages)."""
_DESCRIPTORS_WANTED = 4096
"""One for each open version, cache file and connection."""
_LITTLE_MEMORY_BYTES = 256 << 20
"""Less for blocks, and a loader's reads begin to wait for room."""
_BDI = "/sys/class/bdi"


def check_host(config: MountConfig, memory_bytes: int) -> Iterator[Finding]:
    """Give the findings about this machine.

    Args:
        config: What a mount here would be configured like.
        memory_bytes: Memory that processes here may use.
    """
    yield _check_fuse(config)
    yield check_kernel(os.uname().release)
    yield check_read_ahead(_BDI, config.kernel_read_ahead_kib)
    yield check_memory(config.blocks.memory_limit_bytes, memory_bytes)
    yield check_descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    yield check_bytecode()


def _check_fuse(config: MountConfig) -> Finding:
    how = "mount(2), as root" if os.geteuid() == 0 else "fusermount3"
    try:
        check_can_mount(MountSpec(mountpoint="/", fsname="doctor", allow_other=config.allow_other))
    except MountError as exc:
        what, _, remedy = str(exc).partition(": ")
        return Finding("FUSE", "fail", what, remedy)
    return Finding("FUSE", "pass", f"/dev/fuse opens, mounts are made with {how}")


def check_kernel(release: str) -> Finding:
    """Return what the kernel can do.

    Args:
        release: As ``uname -r`` says.
    """
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < _OLDEST_KERNEL:
        return Finding("kernel", "fail", f"Linux {release} lacks what a mount needs", "use Linux 4.20 or newer")
    if version < _RESEND_KERNEL:
        detail = f"Linux {release}: reads in progress fail when a daemon crashes"
        return Finding("kernel", "warn", detail, "from Linux 6.9 on they are answered by the daemon that takes over")
    return Finding("kernel", "pass", f"Linux {release}: reads survive a crash of the daemon")


def check_read_ahead(directory: str, wanted_kib: int | None) -> Finding:
    """Return whether a mount may raise the kernel's read-ahead.

    Args:
        directory: Where the kernel keeps the settings.
        wanted_kib: What a mount would set; None leaves it.
    """
    if wanted_kib is None:
        return Finding("read-ahead", "pass", "left to the kernel, as configured")
    try:
        entries = sorted(os.listdir(directory))
    except OSError as exc:
        return Finding("read-ahead", "warn", f"{directory}: {exc.strerror}", "reads of one file may be slower")
    files = [os.path.join(directory, entry, "read_ahead_kb") for entry in entries]
    if any(os.access(path, os.W_OK) for path in files) and os.geteuid() == 0:
        return Finding("read-ahead", "pass", f"can be raised to {wanted_kib} KiB")
    remedy = f"mount as root, or after mounting: echo {wanted_kib} | sudo tee {directory}/0:*/read_ahead_kb"
    return Finding("read-ahead", "warn", "stays at the kernel's 128 KiB: single plain readers are slower", remedy)


def check_memory(limit_bytes: int, memory_bytes: int) -> Finding:
    """Return whether there is enough memory for blocks.

    Args:
        limit_bytes: What a mount would use at the most.
        memory_bytes: What processes here may use.
    """
    detail = f"{format_size(limit_bytes)} for blocks, of {format_size(memory_bytes)} that processes here may use"
    if limit_bytes > memory_bytes // 2:
        return Finding("memory", "warn", detail, "lower --memory-limit, or the loader has too little left")
    if limit_bytes < _LITTLE_MEMORY_BYTES:
        return Finding("memory", "warn", detail, "give --memory-limit 256MiB or more, or the container more memory")
    return Finding("memory", "pass", detail)


def check_descriptors(limit: int) -> Finding:
    """Return whether enough files can be open.

    Args:
        limit: The hard limit; a mount raises its own soft one to it.
    """
    detail = "no limit on open files" if limit == resource.RLIM_INFINITY else f"{limit} files may be open"
    if 0 <= limit < _DESCRIPTORS_WANTED:
        return Finding("open files", "warn", detail, f"raise the hard limit to {_DESCRIPTORS_WANTED} ('ulimit -Hn')")
    return Finding("open files", "pass", detail)
