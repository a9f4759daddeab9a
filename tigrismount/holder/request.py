"""What the command line asks of a supervisor, and what it hears back: plain values that travel as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from typing import Any

from tigrismount.errors import MountError
from tigrismount.holder.mounting import MountSpec

WORKER_COMMAND = (sys.executable, "-P", "-m", "tigrismount.app")
"""Starts a worker. ``-P`` keeps the working directory, which may be anybody's, off the module path."""

_READ_MEMBERS = frozenset(
    ("mountpoint", "fsname", "allow_other", "nonempty", "kernel_read_ahead_kib", "log_file", "log_format", "log_level")
)
"""Members of the configuration that the supervisor itself reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long the supervisor waits for others."""

    start_s: float = 60.0
    """From the worker's start to the proven mount; the store's own metadata timeout is half of it."""
    unmount_grace_s: float = 10.0
    """How long a busy mount is given before it is taken away lazily, when the supervisor is told to stop."""
    takeover_s: float = 60.0
    """Longest time without a worker: beyond it, whoever waits for a read is better off with an error."""
    hang_s: float = 20.0
    """How long a worker may leave its supervisor, or the kernel, without an answer before it counts as hung."""
    release_s: float = 30.0
    """How long a worker that is replaced may take to finish requests, where the kernel cannot send them again."""
    stop_s: float = 10.0
    """How long a worker may take to end, before it is killed; it has the cache's last records to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRequest:
    """One mount to make and look after."""

    config: dict[str, Any]
    """The worker's configuration; the supervisor reads the few members below and passes the whole on."""
    worker_command: tuple[str, ...] = WORKER_COMMAND
    """Program and arguments of the worker; ``--holder-fd N`` is added."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    """How long to wait."""
    reload_command: tuple[str, ...] = ()
    """Prints this request as it would be made today: files read again, by the program that is installed. Empty: as it
    was."""
    use_resend: bool = True
    """Whether to rely on the kernel's sending requests again; without, all is as on a kernel that cannot."""
    directory: str = "/"
    """Where the mount was asked for, and *reload_command* runs."""

    @property
    def spec(self) -> MountSpec:
        """What the kernel is told."""
        return MountSpec(
            mountpoint=self.config["mountpoint"],
            fsname=self.config["fsname"],
            allow_other=self.config["allow_other"],
        )

    @property
    def nonempty(self) -> bool:
        """Whether the mountpoint may hold something."""
        return bool(self.config["nonempty"])

    @property
    def kernel_read_ahead_kib(self) -> int | None:
        """Read-ahead to set on the mount, None to leave it alone."""
        value = self.config["kernel_read_ahead_kib"]
        return None if value is None else int(value)

    def to_values(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return dataclasses.asdict(self)

    def to_json(self) -> bytes:
        """Return it as one JSON document."""
        return json.dumps(self.to_values()).encode()

    @classmethod
    def from_json(cls, data: bytes) -> MountRequest:
        """Return what ``to_json`` was called on.

        Raises:
            MountError: *data* is something else.
        """
        try:
            values = json.loads(data)
            missing = _READ_MEMBERS - values["config"].keys()
            request = cls(
                config=values["config"],
                worker_command=tuple(values["worker_command"]),
                deadlines=_deadlines(values["deadlines"]),
                reload_command=tuple(values.get("reload_command", ())),
                use_resend=values.get("use_resend", True),
                directory=values.get("directory", "/"),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise MountError(f"the request to the supervisor is not valid: {exc!r}") from exc
        if missing:
            raise MountError(f"the request to the supervisor is not valid: its configuration lacks {sorted(missing)}")
        return request


def _deadlines(values: dict[str, float]) -> Deadlines:
    """Return those of *values* that this version knows; what is missing has its default."""
    known = {item.name for item in dataclasses.fields(Deadlines)}
    return Deadlines(**{name: value for name, value in values.items() if name in known})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How starting went."""

    ok: bool
    """Whether the mount serves."""
    exit_code: int = 0
    """What the command line should exit with."""
    message: str = ""
    """Why not, in one line."""
    pid: int = 0
    """The supervisor."""
    worker_pid: int = 0
    """The process that answers the kernel."""
    warnings: tuple[str, ...] = ()
    """What works less well than it could, one line each."""

    def to_json(self) -> bytes:
        """Return it as one JSON line."""
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Outcome:
        """Return what ``to_json`` was called on.

        Raises:
            MountError: *data* is something else.
        """
        try:
            values = json.loads(data)
            return cls(**{**values, "warnings": tuple(values["warnings"])})
        except (ValueError, KeyError, TypeError) as exc:
            raise MountError("the supervisor ended without saying why") from exc


def with_snapshot(config: dict[str, Any], version: str | None) -> dict[str, Any]:
    """Return *config* with the version that the first worker found for its snapshot, for all workers after it."""
    return config if version is None else {**config, "s3": {**config["s3"], "snapshot_version": version}}


def keep_snapshot(config: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Return *config* with the snapshot's version that was found for *before*: a mount stays with one version."""
    return {**config, "s3": {**config["s3"], "snapshot_version": before["s3"].get("snapshot_version")}}
