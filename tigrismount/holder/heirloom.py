"""What a supervisor leaves to the program that takes its place: an exec for an upgrade, or the next start by systemd.

An upgrade must replace the supervisor's own code as well. It leaves its state in a memory file and executes the
installed program anew, under the same process id and with the same descriptors, while the worker goes on serving.
The format is the contract between versions: members are added, and what is missing has a default.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tigrismount.errors import MountError
from tigrismount.holder.request import MountRequest
from tigrismount.memoryfile import make_memory_file

if TYPE_CHECKING:
    from tigrismount.holder.events import Events

_MOST_BYTES = 1 << 20  # a configuration is a few KiB
PROGRAM = (sys.executable, "-P", "-m", "tigrismount.holder")
"""The supervisor as a program; ``-P`` keeps the working directory, which may be anybody's, off the module path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heirloom:
    """The state of a supervisor."""

    request: dict[str, Any]
    """As ``MountRequest.to_json`` wrote it, with what the first worker found out."""
    init_request: str
    """The kernel's INIT request, in hexadecimal."""
    init_reply: str
    """What was answered."""
    count: int = 0
    """Takeovers so far."""
    reason: str = ""
    """How the last worker ended."""
    held_by_systemd: bool = False
    """Whether systemd keeps the descriptors too, and somebody privileged unmounts."""
    foreground: bool = False
    """Whether messages go to standard error unless said otherwise."""
    refusal: str = ""
    """Why the upgrade is already known to be incomplete; empty where it is not."""
    worker_pid: int = 0
    """The worker that serves; 0 without one."""
    fds: dict[str, int] = field(default_factory=dict)
    """Inherited descriptors: ``fuse``, ``journal``, ``channel``, ``output``; ``covered`` where a plain user mounted."""
    journal: str = ""
    """Name of the journal in systemd's store."""
    journal_is_there: bool = True
    """Whether what is kept by that name is the journal among *fds*, and not one before it."""
    lost: list[int] = field(default_factory=list)
    """Numbers of the lost mounts that this one lies on."""
    mount_id: int = -1
    """The mount's own number, 0 for none; -1 where it says nothing, as the next process of a unit sees others."""
    device: str = ""
    """Its filesystem's."""
    served: dict[str, Any] = field(default_factory=dict)
    """What the worker that serves was given; empty where it says nothing, or no worker is left."""
    private: dict[str, Any] = field(default_factory=dict, repr=False)
    """What workers are told besides; empty for systemd, whose store outlives what it starts."""

    def to_bytes(self) -> bytes:
        """Return it as one JSON document."""
        return json.dumps(dataclasses.asdict(self)).encode()

    def mount_request(self) -> MountRequest:
        """Return what is mounted.

        Raises:
            MountError: It is from a version that asked in another way.
        """
        return MountRequest.from_json(json.dumps(self.request).encode())

    @classmethod
    def from_bytes(cls, data: bytes) -> Heirloom:
        """Return what ``to_bytes`` was called on, by this version or another.

        Raises:
            MountError: *data* is something else.
        """
        try:
            values = json.loads(data)
            known = {item.name for item in dataclasses.fields(cls)}
            heirloom = cls(**{name: value for name, value in values.items() if name in known})
            bytes.fromhex(heirloom.init_request + heirloom.init_reply)
        except (ValueError, TypeError, AttributeError) as exc:
            raise MountError(f"the state of the supervisor before this one is not valid: {exc!r}") from exc
        heirloom.mount_request()
        return heirloom


def write_memory_file(data: bytes) -> int:
    """Return a new memory file that holds *data*, not inherited by others."""
    fd = make_memory_file("tigrismount-state")
    try:
        os.pwrite(fd, data, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def read_memory_file(fd: int) -> bytes:
    """Return what the memory file holds; it stays open."""
    return os.pread(fd, _MOST_BYTES, 0)


def execute(heirloom: Heirloom, events: Events) -> None:
    """Replace this program by the one that is installed now; returns only where that fails.

    Args:
        heirloom: What it goes on with.
        events: The loop of this program; signals that it has not taken yet are left to the next one.

    Raises:
        OSError: It cannot be executed; everything is as before.
    """
    state_fd = write_memory_file(heirloom.to_bytes())
    fds = [*heirloom.fds.values(), state_fd]
    events.block()
    try:
        for fd in fds:
            os.set_inheritable(fd, True)
        os.execv(PROGRAM[0], [*PROGRAM, "--state-fd", str(state_fd)])  # noqa: S606 -- a program of ours
    finally:
        for fd in fds:
            os.set_inheritable(fd, False)
        os.close(state_fd)
        events.unblock()
