"""What the CSI services need of whoever makes mounts: the border between gRPC and FUSE.

A mount has an id that the services choose, and a directory that belongs to it alone; pods get bind mounts of that
directory. Secrets cross this border as arguments only: whoever implements it keeps them in memory and nowhere else.
All methods may be called from several threads at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tigrismount.mounter.wire import FailureKind

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FailureKind", "MountFailure", "MountSpec", "MountState", "Mounts", "Secret"]

Secret = Mapping[str, str]
"""``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``; empty for the installation's own key."""


class MountFailure(Exception):  # noqa: N818 -- what a caller answers with, and no fault of a program
    """A mount could not be made, and nothing of it is left.

    Args:
        kind: Why, for a program.
        message: Why, for a person: what, where, and what to do next, in one line.
    """

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class MountSpec:
    """What to mount; holds no secrets, and may be logged and kept."""

    source: str
    """As on the command line: ``s3://bucket/prefix``."""
    options: Mapping[str, str] = field(default_factory=dict)
    """The names and values of ``mount -o``."""


@dataclass(frozen=True, slots=True)
class MountState:
    """How a mount does."""

    served: bool
    """Whether its files can be read now."""
    degraded: str | None = None
    """What works less well than it should while it is served (the store is away, the cache is lost), None for
    nothing."""
    reason: str = ""
    """Why it is not served, or how the last worker ended; empty where all is well."""


class Mounts(Protocol):
    """Makes mounts and keeps them served."""

    def start(self, mount_id: str, at: Path, spec: MountSpec, secret: Secret, deadline_s: float) -> None:
        """Mount *spec* at *at* and return once a look through the mount was answered.

        A mount of that id that is dead is replaced: the new one lies on top of it, so that the directory below is
        never seen. One that serves is left as it is.

        Args:
            mount_id: Chosen by the caller, any text; the same for the same mount.
            at: Where; made here, with whatever lies above it, and removed by :meth:`stop`.
            spec: What.
            secret: The key to sign with; empty for the installation's own.
            deadline_s: Seconds that it may take.

        Raises:
            MountFailure: It does not serve, and nothing of it is left.
        """
        ...

    def rotate(self, mount_id: str, secret: Secret) -> None:
        """Sign with *secret* from now on; readers notice nothing. The key the mount has already is no change.

        Raises:
            MountFailure: The worker could not be told; the successor it gets will have the new key.
        """
        ...

    def stop(self, mount_id: str) -> None:
        """Unmount, end the worker and remove the directory. Idempotent, for dead and unknown mounts as well.

        Raises:
            MountFailure: Something of it is left.
        """
        ...

    def state(self, mount_id: str) -> MountState:
        """Return how the mount does, in less than 3 s whatever state it is in; not served where it is unknown."""
        ...

    def known(self) -> Mapping[str, Path]:
        """Return what is mounted, and where: also what a driver before this one has mounted, and dead mounts."""
        ...

    def ready(self) -> str | None:
        """Return None where a mount could be made now, else why not, in one line."""
        ...
