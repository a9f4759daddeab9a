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
    import io
    from collections.abc import Iterator

MAX_REPLY_BYTES = 16 << 20
"""Longest reply: a status with many load reports is below a MiB; without a bound a foreign socket could fill memory."""


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
        MountError: It did not answer in time, or not with a JSON object, or others could have put it there.
    """
    with _asked(path, command, timeout_s, arguments) as lines:
        return _parse(path, lines.readline(MAX_REPLY_BYTES))


def stream(path: str, command: str, *, timeout_s: float, **arguments: object) -> Iterator[dict[str, Any]]:
    """Yield the lines that the worker sends while it works; the last one is the result. Stopping early ends the work.

    Args:
        path: Its control socket.
        command: What is asked, for example ``warm``.
        timeout_s: Seconds between two lines.
        **arguments: Further members of the request.

    Raises:
        StaleSocketError: Nobody listens there.
        MountError: It fell silent, or a line is no JSON object or an error, or others could have put it there.
    """
    with _asked(path, command, timeout_s, arguments) as lines:
        while line := lines.readline(MAX_REPLY_BYTES):
            yield _parse(path, line)


@contextlib.contextmanager
def _asked(path: str, command: str, timeout_s: float, arguments: dict[str, object]) -> Iterator[io.BufferedReader]:
    """Connect and ask, and give what is answered to read."""
    directory = os.path.dirname(path)
    # In /tmp anybody may have made it: they would be handed in keys, and name the processes to signal.
    if not is_private(directory):
        if not os.path.lexists(directory):  # nor is it made by anybody before we would connect
            raise StaleSocketError(f"{path}: nobody listens there")
        raise MountError(f"{directory}: is not a directory of yours alone; remove it, or set XDG_RUNTIME_DIR")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(path)
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                yield lines
        except (ConnectionRefusedError, FileNotFoundError) as exc:
            raise StaleSocketError(f"{path}: nobody listens there") from exc
        except OSError as exc:
            raise MountError(f"{path}: the mount's daemon does not answer: {exc.strerror or 'timed out'}") from exc


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
