"""The control socket of a mount: one JSON line in, one JSON line out, for this user only.

The socket lies in a directory that only the user can enter; the peer's uid is checked as well, in case the directory
is passed into a container.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import trio

from tigrismount.control.paths import ensure_runtime_directory
from tigrismount.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping


log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 64 << 10
"""Longest request line; ours are below 1 KiB."""
_IDLE_S = 10.0
"""A client that says nothing for so long is hung up on."""
_ACCEPT_PAUSE_S = 1.0
"""How long to wait when a connection cannot be taken; the next attempt would fail as fast."""
_UCRED = struct.Struct("=iII")  # pid, uid, gid (unix(7), SO_PEERCRED)


class ControlServer:
    """Answers commands on a unix socket.

    Args:
        path: Where; a leftover of a dead worker is replaced.
        handlers: By command: takes the request, returns the reply.
    """

    def __init__(
        self, path: str, handlers: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]]
    ) -> None:
        self._path = path
        self._handlers = handlers

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and answer until cancelled; removes the socket on the way out.

        Raises:
            MountError: The directory is not this user's alone, or the socket cannot be made.
        """
        ensure_runtime_directory(os.path.dirname(self._path))
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            try:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path)
                await listener.bind(self._path)
                os.chmod(self._path, 0o600)
                listener.listen(16)
                ours = os.stat(self._path).st_ino
            except OSError as exc:
                raise MountError(f"{self._path}: the control socket cannot be made: {exc.strerror or exc}") from exc
            try:
                async with trio.open_nursery() as nursery:
                    task_status.started()
                    while True:
                        nursery.start_soon(self._serve, await _accept(listener))
            finally:
                with contextlib.suppress(FileNotFoundError):
                    if os.stat(self._path).st_ino == ours:  # else a successor listens there already
                        os.unlink(self._path)

    async def _serve(self, connection: trio.socket.SocketType) -> None:
        stream = trio.SocketStream(connection)
        async with stream:
            try:
                with trio.move_on_after(_IDLE_S):
                    if _peer_uid(connection) not in (os.geteuid(), 0):
                        return
                    reply = await self._answer(await _line(stream))
                    await stream.send_all(json.dumps(reply).encode() + b"\n")
            except (trio.BrokenResourceError, OSError):
                log.debug("a control client went away")
            except Exception as exc:
                log.exception("control command failed")
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(json.dumps({"error": f"internal error: {exc!r}"}).encode() + b"\n")

    async def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(line)
            handler = self._handlers[request["command"]]
        except (ValueError, TypeError, KeyError):
            return {"error": f"not a command; known are: {', '.join(sorted(self._handlers))}"}
        return await handler(request)


async def _accept(listener: trio.socket.SocketType) -> trio.socket.SocketType:
    """Return the next connection, however long descriptors are short: a mount does not end for that."""
    while True:
        try:
            connection, _ = await listener.accept()
        except OSError as exc:
            log.warning("cannot take a control connection: %s", exc.strerror)
            await trio.sleep(_ACCEPT_PAUSE_S)
        else:
            return connection


async def _line(stream: trio.SocketStream) -> bytes:
    line = bytearray()
    while b"\n" not in line and len(line) < MAX_REQUEST_BYTES:
        data = await stream.receive_some(4096)
        if not data:
            break
        line += data
    return bytes(line)


def _peer_uid(connection: trio.socket.SocketType) -> int:
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)
