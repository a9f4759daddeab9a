"""Messages for a thread that waits in a loop of events: put in from any other thread, taken in turns."""

from __future__ import annotations

import collections
import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tigrismount.holder.protocol import Message

_WAKE_BYTES = 4096  # read at once; far more than can wait between two turns


class Inbox:
    """Where one thread gets its messages; a message that is in it owns its descriptors."""

    def __init__(self) -> None:
        self._messages: collections.deque[Message] = collections.deque()
        self._lock = threading.Lock()
        self._is_closed = False
        self._ours, self._wake = socket.socketpair()
        self._wake.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable with a message."""
        return self._ours.fileno()

    def post(self, message: Message) -> bool:
        """Put *message* in; return whether somebody is there to take it."""
        with self._lock:
            if self._is_closed:
                return False
            self._messages.append(message)
            with contextlib.suppress(BlockingIOError):  # thousands wait already
                self._wake.send(b"\0")
        return True

    def woken(self) -> None:
        """Let the descriptor be readable no longer."""
        self._ours.recv(_WAKE_BYTES)

    def take(self) -> Message | None:
        """Return the oldest message, None where there is none."""
        return self._messages.popleft() if self._messages else None

    def close(self) -> list[Message]:
        """Take no more messages, and return those that were not taken."""
        with self._lock:
            self._is_closed = True
            self._ours.close()
            self._wake.close()
        return list(self._messages)


def drop(message: Message) -> None:
    """Close the descriptors of a message that nobody wants."""
    for fd in message.fds:
        with contextlib.suppress(OSError):
            os.close(fd)
