"""The library behind a socket: requests are handed to it, and its answers to the kernel.

Both ends live in one event loop. The library writes an answer with a call that blocks when the socket is full, and then
nobody would be left to empty it. So the socket's buffer is made large, what an answer may need of it is set aside
before its request is handed over, and requests that find no room wait here. ``statfs`` does not wait: with it somebody
asks whether this process is alive.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import trio

from tigrismount.fuse import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.fuse.kernel import Kernel

log = logging.getLogger(__name__)

_SO_SNDBUFFORCE = 32
"""asm-generic/socket.h; not among Python's constants."""
_BUFFER_BYTES = 16 << 20
"""Answers of four thousand look-ups, or of two hundred listings; memory is taken only by what is in it."""
_OVERHEAD_BYTES = 4096
"""What the kernel counts for a message beyond its bytes, and what an answer without a size of its own has: less."""
LISTING_BYTES = 64 << 10
"""Longest answer of a listing; the kernel comes back for the rest."""
FORGETS_BYTES = 64 << 10
"""Longest request to forget nodes. The kernel's fill what it is given to read into, a megabyte, and no socket that was
not enlarged takes them; one that is lost is never asked again, and its nodes would be kept for ever."""
_ANSWER_BYTES = 128 << 10
"""Room for any answer: an attribute is 64 KiB at most."""


class _Handed(NamedTuple):
    """A request that the library has."""

    cost_bytes: int
    on_answer: Callable[[bool], None] | None


class Relay:
    """Hands requests to the library.

    Args:
        ours: Our end of a ``SOCK_SEQPACKET`` pair.
        room_bytes: What the library's end takes of answers, as ``enlarge`` said.
        kernel: Gets the answers.
    """

    def __init__(self, ours: socket.socket, room_bytes: int, kernel: Kernel) -> None:
        self._ours = ours
        self._ours.setblocking(False)
        self._kernel = kernel
        self._room_bytes = room_bytes
        self._handed: dict[int, _Handed] = {}
        self._waiting: deque[tuple[bytes, Callable[[bool], None] | None]] = deque()
        self._is_full = False
        self._changed = trio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether the library has answered everything."""
        return not self._handed and not self._waiting

    async def changed(self) -> None:
        """Wait until something has been answered, or nothing is waited for any more."""
        await self._changed.wait()

    def hand(self, message: memoryview, on_answer: Callable[[bool], None] | None = None) -> None:
        """Hand a request over, now or when there is room. Never waits.

        Args:
            message: The request; copied where it has to wait.
            on_answer: Called once it has been answered, with whether it succeeded and somebody waited for it.
        """
        request = wire.parse_request(message)
        if request.opcode == wire.BATCH_FORGET and len(message) > FORGETS_BYTES:
            for piece in wire.split_forgets(message, FORGETS_BYTES):
                self.hand(memoryview(piece))
            return
        if request.opcode in (wire.READDIR, wire.READDIRPLUS):
            wire.limit_listing(message, LISTING_BYTES)
        is_urgent = request.opcode == wire.STATFS and not self._is_full
        if (self._waiting and not is_urgent) or not self._send(request, message, on_answer, is_urgent):
            self._waiting.append((bytes(message), on_answer))
            if self._is_full:  # else an answer, which gives room, wakes who sends the rest
                self._changed.set()

    def _send(
        self,
        request: wire.Request,
        message: memoryview | bytes,
        on_answer: Callable[[bool], None] | None,
        is_urgent: bool = False,
    ) -> bool:
        """Return whether it is the library's now, or has failed."""
        cost_bytes = 0
        if request.opcode not in wire.NEVER_ANSWERED:
            cost_bytes = _OVERHEAD_BYTES + wire.reply_limit(request, memoryview(message))
        if cost_bytes > self._room_bytes and self._handed and not is_urgent:
            return False
        try:
            self._ours.send(message)
        except BlockingIOError:
            self._is_full = True
            return False
        except OSError as exc:
            log.warning("a request (%d) cannot be handed to the library: %s", request.opcode, exc.strerror)
            self._kernel.answer(wire.answer(request.unique, error=errno.EIO))
            if on_answer is not None:
                on_answer(False)
            return True
        if cost_bytes:
            self._room_bytes -= cost_bytes
            self._handed[request.unique] = _Handed(cost_bytes, on_answer)
        return True

    async def run(self) -> None:
        """Pass answers on until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_answers)
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                was_waiting = bool(self._waiting)
                while self._waiting:
                    if self._is_full:
                        await trio.lowlevel.wait_writable(self._ours)
                        self._is_full = False
                    message, on_answer = self._waiting[0]
                    if self._send(wire.parse_request(memoryview(message)), message, on_answer):
                        self._waiting.popleft()
                    elif not self._is_full:
                        break
                if was_waiting and self.is_idle:
                    self._changed.set()  # the last of them are never answered

    async def _pass_answers(self) -> None:
        buffer = memoryview(bytearray(_ANSWER_BYTES))
        while True:
            try:
                length = self._ours.recv_into(buffer)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._ours)
                continue
            self._pass_answer(buffer[:length])

    def _pass_answer(self, message: memoryview) -> None:
        unique, error = wire.parse_answer(message)
        was_waited_for = self._kernel.answer(message)
        handed = self._handed.pop(unique, None)
        if handed is not None:
            self._room_bytes += handed.cost_bytes
            if handed.on_answer is not None:
                handed.on_answer(was_waited_for and not error)
        self._changed.set()


def enlarge(sock: socket.socket) -> int:
    """Give a socket a large buffer for what it sends, as far as we may; return how many bytes of messages it takes."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_BYTES)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)  # cut to what the system allows
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2  # the kernel doubles it for its own accounts
