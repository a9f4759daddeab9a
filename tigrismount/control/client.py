"""Asking a mount's worker: one JSON line there, one JSON line back, over its control socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from tigrismount.control.paths import SUFFIX, is_private
from tigrismount.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_REPLY_BYTES = 16 << 20
"""Longest reply: a status with many load reports is below a MiB; without a bound a foreign socket could fill memory."""

_READ_BYTES = 64 << 10


class StaleSocketError(MountError):
    """Nobody listens on the socket: its worker is gone."""


def request(path: str, command: str, *, timeout_s: float, **arguments: object) -> dict[str, Any]:
    """Return the reply of the worker that listens on *path*.

    Args:
        path: Its control socket.
        command: What is asked, for example ``status``.
        timeout_s: Seconds each step of the conversation may take.
        **arguments: Further members of the request.

    Raises:
        StaleSocketError: Nobody listens there.
        MountError: It did not answer in time, or not with a JSON object.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(path)
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            reply = _read_line(connection)
        except (ConnectionRefusedError, FileNotFoundError) as exc:
            raise StaleSocketError(f"{path}: nobody listens there") from exc
        except OSError as exc:
            raise MountError(f"{path}: the mount's daemon does not answer: {exc.strerror or 'timed out'}") from exc
    return _parse(path, reply)


def sockets(directory: str) -> Iterator[str]:
    """Yield the control sockets in *directory*, in a stable order; none where the directory is not this user's own."""
    if not is_private(directory):
        return
    for name in sorted(os.listdir(directory)):
        if name.endswith(SUFFIX):
            yield os.path.join(directory, name)


def drop_stale(path: str) -> None:
    """Remove a socket that nobody listens on; it may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _read_line(connection: socket.socket) -> bytes:
    reply = bytearray()
    while not reply.endswith(b"\n") and len(reply) < MAX_REPLY_BYTES:
        data = connection.recv(_READ_BYTES)
        if not data:
            break
        reply += data
    return bytes(reply)


def _parse(path: str, reply: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(reply)
    except ValueError as exc:
        raise MountError(f"{path}: the mount's daemon gave no valid answer ({len(reply)} bytes)") from exc
    if not isinstance(parsed, dict):
        raise MountError(f"{path}: the mount's daemon gave no valid answer")
    if "error" in parsed:
        raise MountError(str(parsed["error"]))
    return parsed
