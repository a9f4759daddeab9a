"""Which control groups limit the memory of a process, from what the kernel says about it.

Source: cgroups(7); kernel documentation ``cgroup-v2.rst`` and ``cgroup-v1/memory.rst``.
"""

from __future__ import annotations

from dataclasses import dataclass
from posixpath import dirname, join
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    """A control group as a directory of files."""

    version: int
    """1 or 2; the two have other names for the same things."""
    path: str
    """The directory. It need not be there: a container sees its own group as the root."""

    def file(self, name_v2: str, name_v1: str) -> str:
        """Return the path of the file that has this name in its version."""
        return join(self.path, name_v2 if self.version == 2 else name_v1)


def memory_cgroups(membership: str, mounts: str, controller: str = "memory") -> Iterator[MemoryCgroup]:
    """Yield the groups that may limit a process's memory, from its own up to the root, in both versions.

    Args:
        membership: Text of ``/proc/self/cgroup``.
        mounts: Text of ``/proc/self/mountinfo``, which says where the hierarchies are.
        controller: What else they may limit, such as ``cpu``.
    """
    groups = dict(_groups(membership, controller))
    for line in mounts.splitlines():
        fields, _, kind = line.partition(" - ")
        mountpoint, kind_fields = fields.split()[4:5], kind.split()
        if not mountpoint or not kind_fields:
            continue
        version = {"cgroup2": 2, "cgroup": 1}.get(kind_fields[0], 0)
        if version not in groups or (version == 1 and controller not in kind_fields[-1].split(",")):
            continue
        group = groups[version].strip("/")
        while True:
            yield MemoryCgroup(version, join(mountpoint[0], group))
            if not group:
                break
            group = dirname(group)


def _groups(membership: str, controller: str) -> Iterator[tuple[int, str]]:
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, path
        elif controller in controllers.split(","):
            yield 1, path
