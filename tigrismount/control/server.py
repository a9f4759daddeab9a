"""The control socket of a mount: one JSON line in, one JSON line out, for this user only.

A long command is a *stream*: it sends lines as it goes on and a last one with its result. Who asked may leave at any
time, which ends the command.

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
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from tigrismount.control.paths import ensure_runtime_directory
from tigrismount.errors import MountError

log = logging.getLogger(__name__)

Handler = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Takes a request, returns the reply."""
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Sends one line of a stream."""
Streamer = Callable[[Mapping[str, Any], Send], Awaitable[Mapping[str, Any]]]
"""Takes a request, sends lines meanwhile, returns the last one."""

MAX_REQUEST_BYTES = 64 << 10
"""Longest request line; ours are below 1 KiB."""
_IDLE_S = 10.0
"""A client that says nothing for so long is hung up on."""
_ANSWER_S = 60.0
"""How long an answer may take; nobody waits longer for one. It may take a look at each file of a model in the cache, or
the look-ups that the kernel has to end first, or the program of a profile that the key before was from."""
_ACCEPT_PAUSE_S = 1.0
"""How long to wait when a connection cannot be taken; the next attempt would fail as fast."""
_SEND_S = 10.0
"""A client that takes nothing of what it is sent for so long is hung up on."""
_UCRED = struct.Struct("=iII")  # pid, uid, gid (unix(7), SO_PEERCRED)


class ControlServer:
    """Answers commands on a unix socket.

    Args:
        path: Where; a leftover of a dead worker is replaced.
        handlers: By command: takes the request, returns the reply.
        streams: Long commands, likewise.
    """

    def __init__(
        self, path: str, handlers: Mapping[str, Handler], streams: Mapping[str, Streamer] | None = None
    ) -> None:
        self._path = path
        self._handlers = handlers
        self._streams = streams or {}

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
                if _peer_uid(connection) not in (os.geteuid(), 0):
                    return
                request: Mapping[str, Any] | None = None
                with trio.move_on_after(_IDLE_S):
                    request = _parse(await _line(stream))
                if request is not None:
                    await self._obey(stream, request)
            except (trio.BrokenResourceError, OSError):
                log.debug("a control client went away")
            except Exception as exc:
                log.exception("control command failed")
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(json.dumps({"error": f"internal error: {exc!r}"}).encode() + b"\n")

    async def _obey(self, stream: trio.SocketStream, request: Mapping[str, Any]) -> None:
        streamer = self._streams.get(str(request.get("command")))
        if streamer is not None:
            await _run_stream(stream, streamer, request)
            return
        reply: Mapping[str, Any] | None = None
        with trio.move_on_after(_ANSWER_S):
            reply = await self._answer(request)
        if reply is not None:
            with trio.move_on_after(_SEND_S):
                await _send(stream, reply)

    async def _answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        handler = self._handlers.get(str(request.get("command")))
        if handler is None:
            return {"error": f"not a command; known are: {', '.join(sorted((*self._handlers, *self._streams)))}"}
        return await handler(request)


async def _run_stream(stream: trio.SocketStream, streamer: Streamer, request: Mapping[str, Any]) -> None:
    """Run a long command as long as its client stays."""

    async def send(line: Mapping[str, Any]) -> None:
        try:
            with trio.fail_after(_SEND_S):
                await _send(stream, line)
        except (trio.TooSlowError, trio.BrokenResourceError):
            nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint()

    async def end_with_client() -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some(4096):
                pass  # it has nothing more to say
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_with_client)
        await send(await streamer(request, send))
        nursery.cancel_scope.cancel()


async def _send(stream: trio.SocketStream, line: Mapping[str, Any]) -> None:
    await stream.send_all(json.dumps(line).encode() + b"\n")


def _parse(line: bytes) -> Mapping[str, Any]:
    """Return a request; what is none is one of no command."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return request if isinstance(request, dict) else {}


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
