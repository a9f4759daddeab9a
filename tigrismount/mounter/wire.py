"""Messages between the driver and the mounter, and where the two meet.

The driver is privileged and mounts; the mounter is not, and keeps a worker behind each mount. Both hold everything that
a mount needs to live on (its descriptor, the kernel's INIT request and its answer, the journal, the volume's key), so
that either can be replaced while the other one remembers.

The channel is that of ``holder.protocol``. The driver listens on a socket in the *comm directory*, the mounter
connects, again and again for as long as it runs. Questions carry a number, ``order``, that their answers repeat::

    driver → mounter   start {id, source, options, mountpoint, secret, within_s}
    mounter → driver   ready {fsname, read_ahead_kib}: the store answers, so it is worth mounting; or failed
    driver → mounter   attach {id, init} + [fuse, journal]
    mounter → driver   serving {init_reply}, or failed
    driver → mounter   rotate {id, secret}, answered with rotated or failed
    driver → mounter   stop {id}, answered with stopped
    driver → mounter   ping, answered with pong
    mounter → driver   failed {kind, message}: nothing of it is left in the mounter

Without a number::

    mounter → driver   hello {ids}: what it holds, first of all; a have for each follows
    mounter → driver   have {the order, init, init_reply, count, reason} + [fuse, journal]
    driver → mounter   adopt, the same: put a worker behind this mount, which had one before
    mounter → driver   state {id, serves, degraded, reason, count, pid}: whenever it is another one
    mounter → driver   journal {id} + [journal], where a worker has written it anew
    mounter → driver   lost {id, message, may_remount}: no worker can serve it any more
    driver → mounter   kill {id, how}: the worker does not answer the kernel
    mounter → driver   unknown {id}: told to kill the worker of a mount it does not hold; an adopt follows

Members are added, never renamed: the two are replaced one after the other. Nothing in a message from the mounter is
taken for a path or an option by the driver unless it has asked for the same itself, but for the name and the
read-ahead of a mount.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tigrismount.errors import MountError
from tigrismount.holder.protocol import Channel

FailureKind = Literal[
    "bad_option", "no_bucket", "denied", "bad_credentials", "unreachable", "no_mounter", "internal", "timeout"
]
"""Why a mount could not be made: ``bad_option`` the source or an option means nothing; ``no_bucket`` there is no such
bucket, or nothing under the prefix; ``denied`` the store knows the key and refuses; ``bad_credentials`` the store does
not take the key, or there is none; ``unreachable`` the store does not answer; ``no_mounter`` there is nobody
to serve it; ``timeout`` nobody served in time; ``internal`` all else."""


_SEND_S = 5
"""How long a message may wait for room: a process that is stopped must not stop the other one too."""
_UCRED = struct.Struct("=iII")  # pid, uid, gid (unix(7), SO_PEERCRED)
_TIMEVAL = struct.Struct("@ll")


def peer_uid(sock: socket.socket) -> int:
    """Return whose process is at the other end."""
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


def channel_on(sock: socket.socket) -> Channel:
    """Return *sock* as a channel that waits for messages, and for room to send them only a while."""
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(_SEND_S, 0))
    return Channel(sock)


def driver_socket(comm_dir: str) -> str:
    """Return where the driver listens."""
    return os.path.join(comm_dir, "driver.sock")


def failure_kind(text: object) -> FailureKind:
    """Return *text* where it is a kind of failure, else ``internal``."""
    return next((kind for kind in get_args(FailureKind) if kind == text), "internal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One mount that somebody wants served."""

    mount_id: str
    """The caller's name for it."""
    source: str
    """As on the command line."""
    options: Mapping[str, str]
    """The names and values of ``mount -o``."""
    mountpoint: str
    """Where it is, for the driver and for ``status``; the mounter need not see it."""
    secret: Mapping[str, str] = field(repr=False)
    """The key, by the names of the environment's variables; empty for the installation's own."""
    snapshot_version: str | None = None
    """What the first worker found its snapshot to be."""

    def to_values(self) -> dict[str, Any]:
        """Return it as members of a message."""
        return {
            "id": self.mount_id,
            "source": self.source,
            "options": dict(self.options),
            "mountpoint": self.mountpoint,
            "secret": dict(self.secret),
            "snapshot_version": self.snapshot_version,
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Order:
        """Return what ``to_values`` was called on.

        Raises:
            MountError: *values* are something else.
        """
        try:
            return cls(
                mount_id=_text(values["id"]),
                source=_text(values["source"]),
                options=texts(values["options"]),
                mountpoint=_text(values["mountpoint"]),
                secret=texts(values["secret"]),
                snapshot_version=None if values.get("snapshot_version") is None else _text(values["snapshot_version"]),
            )
        except (KeyError, TypeError) as exc:
            raise MountError(f"the other process asks in a way that this version does not know: {exc!r}") from exc


def texts(values: object) -> dict[str, str]:
    """Return *values* as a dictionary of texts.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"expected an object, got {type(values).__name__}")
    return {_text(name): _text(value) for name, value in values.items()}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return value
