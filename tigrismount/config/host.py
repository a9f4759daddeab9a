"""What the defaults depend on: memory, identity, directories and the space on a disk.

The facts are values, so that ``resolve`` is pure and its tests need no particular machine; the functions here are the
only ones of this package that look at the host.

Source: cgroups(7); kernel documentation ``cgroup-v2.rst`` (``memory.max``) and ``cgroup-v1/memory.rst``.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.core.cgroups import memory_cgroups
from tigrismount.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_FALLBACK_MEMORY_BYTES = 1 << 30  # where /proc says nothing: small enough to hurt nobody
_FUSE_SETTINGS = "/proc/sys/fs/fuse"
_LEAST_PATIENCE_S = 15.0  # the kernel looks so often


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The process and its machine."""

    memory_bytes: int
    """Memory this process may use: the machine's, or its cgroup's limit where that is less."""
    uid: int
    """Effective user."""
    gid: int
    """Effective group."""
    cwd: str
    """Working directory, which relative paths are relative to."""
    home: str
    """Home directory, what ``~`` means."""
    cache_home: str
    """Where a plain user's caches go (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    cores: float = 1.0
    """Processors this process may use: those it may run on, or its cgroup's share of time where that is less."""
    fuse_patience_s: float = math.inf
    """How long the kernel waits for an answer to a FUSE request before it ends the whole mount."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpace:
    """One filesystem, as ``df`` counts it for a plain user."""

    usable_bytes: int
    """Used and available together; blocks kept for root are not in it."""
    free_bytes: int
    """Available now."""
    device: int = 0
    """Number of the filesystem, so that two directories on one can be told from two disks."""


def read_host_facts(environment: Mapping[str, str]) -> HostFacts:
    """Return the facts of this host.

    Args:
        environment: Where ``HOME`` and ``XDG_CACHE_HOME`` are looked up.
    """
    home = environment.get("HOME") or "/"
    cache_home = environment.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache_home):  # the XDG specification: relative ones must be ignored
        cache_home = os.path.join(home, ".cache")
    return HostFacts(
        memory_bytes=_memory_bytes(),
        uid=os.geteuid(),
        gid=os.getegid(),
        cwd=_working_directory(),
        home=home,
        cache_home=cache_home,
        cores=usable_cores(),
        fuse_patience_s=fuse_patience_s(),
    )


def read_disk_space(directory: str) -> DiskSpace:
    """Return the space of the filesystem that *directory* is on, or will be on once it is made."""
    while True:
        try:
            facts = os.statvfs(directory)
        except OSError:
            if directory in ("", "/"):
                return DiskSpace(usable_bytes=0, free_bytes=0)
            directory = os.path.dirname(directory)
            continue
        used = facts.f_blocks - facts.f_bfree
        return DiskSpace(
            usable_bytes=(used + facts.f_bavail) * facts.f_frsize,
            free_bytes=facts.f_bavail * facts.f_frsize,
            device=os.stat(directory).st_dev,
        )


def fuse_patience_s(directory: str = _FUSE_SETTINGS) -> float:
    """Return how long the kernel waits for an answer before it ends a connection, infinite where it does not do that.

    Args:
        directory: Where its settings for FUSE are.

    Source: kernel documentation, ``admin-guide/sysctl/fs.rst`` (``default_request_timeout``; since Linux 6.15).
    """
    limits = []
    for name in ("default_request_timeout", "max_request_timeout"):
        try:
            with open(os.path.join(directory, name), encoding="ascii") as file:
                limits.append(int(file.read()))
        except (OSError, ValueError):
            continue
    return max(_LEAST_PATIENCE_S, min((limit for limit in limits if limit > 0), default=math.inf))


def cgroup_memory_limit_bytes(membership: str, mounts: str) -> int | None:
    """Return the tightest memory limit of the process's cgroup and those above it, None when there is none.

    Args:
        membership: Text of ``/proc/self/cgroup``.
        mounts: Text of ``/proc/self/mountinfo``, which says where the hierarchies are.
    """
    limits = []
    for group in memory_cgroups(membership, mounts):
        try:
            with open(group.file("memory.max", "memory.limit_in_bytes"), encoding="ascii") as file:
                text = file.read().strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text.isdecimal():  # version 2 says "max" for none; version 1 a number beyond any machine
            limits.append(int(text))
    return min(limits, default=None)


def cgroup_cores(membership: str, mounts: str) -> float | None:
    """Return the smallest share of processor time of the process's cgroup and those above it, None for no limit.

    Args:
        membership: Text of ``/proc/self/cgroup``.
        mounts: Text of ``/proc/self/mountinfo``, which says where the hierarchies are.
    """
    shares = []
    for group in memory_cgroups(membership, mounts, "cpu"):
        try:
            with open(group.file("cpu.max", "cpu.cfs_quota_us"), encoding="ascii") as file:
                quota, *period = file.read().split()
            if group.version == 1:
                with open(group.file("", "cpu.cfs_period_us"), encoding="ascii") as file:
                    period = file.read().split()
            if quota.isdecimal() and period and int(period[0]):  # "max" and -1 are no limit
                shares.append(int(quota) / int(period[0]))
        except (OSError, ValueError):
            continue
    return min(shares, default=None)


def usable_cores() -> float:
    """Return how many processors this process may use: those it may run on, or its cgroup's share if that is less."""
    cores = float(len(os.sched_getaffinity(0)))
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as membership, open("/proc/self/mountinfo", "rb") as mounts:
            limit = cgroup_cores(membership.read(), mounts.read().decode(errors="surrogateescape"))
    except (OSError, ValueError):
        return cores
    return min(cores, limit) if limit else cores


def _memory_bytes() -> int:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        with open("/proc/self/cgroup", encoding="utf-8") as membership, open("/proc/self/mountinfo", "rb") as mounts:
            limit = cgroup_memory_limit_bytes(membership.read(), mounts.read().decode(errors="surrogateescape"))
    except (OSError, ValueError):
        return _FALLBACK_MEMORY_BYTES
    return min(total, limit) if limit else total


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise ConfigError("the working directory was removed; run this in another one") from None
