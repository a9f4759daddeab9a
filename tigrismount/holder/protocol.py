"""Messages between the supervisor and its worker: JSON objects, one per packet, file descriptors beside them.

The channel is a ``SOCK_SEQPACKET`` pair, so a message is whole or not there, and the end of the other side is seen
as an empty packet. Both ends may block or not, as the socket says; the worker waits for readability in trio and then
receives. Nothing here trusts lengths: an outgoing message above the limit is refused before it is sent, an incoming
one that the kernel had to cut is an error, and descriptors that came with a bad message are closed.

Conversation::

    supervisor → worker   start {config}, for a successor with {takeovers, takeover_reason}, and with {before} where the
                          worker before it had another configuration; in pods with {secret}, and
                          with {until_s}, by the monotonic clock, where it is the first one; with {key} where
                          one was handed in to a worker before it
    worker → supervisor   ready {listable, warnings, snapshot_version}, or failed {exit_code, kind, message}
    supervisor → worker   attach {init, first, answered, mountpoint} + [fuse fd, journal fd]
    worker → supervisor   attached {init_reply}
    supervisor → worker   serve {resend} + [journal fd, where it was replaced since attach]
    worker → supervisor   serving {warnings}, later journal + [journal fd], and at last stopped {reason}

While it serves, at any time::

    supervisor → worker   ping, answered with pong {degraded}
    supervisor → worker   credentials {secret}, answered with rotated {error}: sign with this key from now on
    supervisor → worker   note {handover}: how the last attempt to replace it went, for ``status``
    supervisor → worker   release {cancel}, answered with released {resend}; then it finishes and ends
    supervisor → worker   stop: finish and end
    worker → supervisor   key {key}: it was handed in, and those after this worker are to have it too
    worker → supervisor   leaving: it was told to end and wants to be replaced
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tigrismount.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_MESSAGE_BYTES = 64 << 10
"""Largest message: far above any configuration, far below the default socket buffer (208 KiB)."""

MAX_FDS = 8
"""Most descriptors in one message; two are needed today."""


@dataclass(frozen=True, slots=True)
class Message:
    """One received message. The receiver owns the descriptors."""

    type: str
    """What it says, the ``type`` member."""
    body: dict[str, Any]
    """The whole JSON object."""
    fds: tuple[int, ...] = ()
    """Descriptors that came with it, close-on-exec."""


class Channel:
    """One end of the conversation.

    Args:
        sock: A connected ``AF_UNIX``/``SOCK_SEQPACKET`` socket; owned from now on.
    """

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return two connected ends, both close-on-exec."""
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(first), cls(second)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """Return the end that was inherited as descriptor *fd*.

        Raises:
            MountError: *fd* is not an open socket.
        """
        try:
            os.set_inheritable(fd, False)
            return cls(socket.socket(fileno=fd))
        except OSError as exc:
            raise MountError(f"descriptor {fd} is not a socket: {exc.strerror}") from exc

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        return self._sock.fileno()

    def send(self, type_: str, fds: Sequence[int] = (), /, **body: object) -> None:
        """Send one message.

        Args:
            type_: Its ``type`` member.
            fds: Descriptors to pass; the receiver gets duplicates.
            **body: The other members; must be JSON.

        Raises:
            MountError: The message is too large, or the other side is gone.
        """
        data = json.dumps({"type": type_, **body}, allow_nan=True).encode()
        if len(data) > MAX_MESSAGE_BYTES or len(fds) > MAX_FDS:
            raise MountError(f"message {type_!r} is too large ({len(data)} bytes, {len(fds)} descriptors)")
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
        except OSError as exc:
            raise MountError(f"cannot send {type_!r} to the other process: {exc.strerror}") from exc

    def receive(self) -> Message | None:
        """Return the next message, or None when the other side has closed its end.

        Raises:
            BlockingIOError: The socket is non-blocking and nothing is there.
            MountError: What came is not a message of ours.
        """
        fd_bytes = array.array("i").itemsize * MAX_FDS
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                MAX_MESSAGE_BYTES, socket.CMSG_SPACE(fd_bytes), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return None  # the peer died with unread messages: as gone as one that closed
        fds = _descriptors(ancillary)
        if not data and not fds:
            return None
        try:
            return Message(*_parse(data, flags), fds)
        except MountError:
            for fd in fds:
                os.close(fd)
            raise

    def set_blocking(self, blocking: bool) -> None:
        """Make ``receive`` wait for a message, or raise ``BlockingIOError`` instead."""
        self._sock.setblocking(blocking)

    def shutdown(self) -> None:
        """End the conversation from another thread than the one that receives, which then closes."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end; the other side sees the end of the conversation. Idempotent."""
        self._sock.close()


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, ...]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return tuple(fds)


def _parse(data: bytes, flags: int) -> tuple[str, dict[str, Any]]:
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise MountError("a message from the other process was cut: larger than this version expects")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise MountError("a message from the other process is not JSON") from exc
    if not isinstance(body, dict) or not isinstance(body.get("type"), str):
        raise MountError("a message from the other process has no type")
    return body["type"], body
