"""One GET in a fetch process, as the thread in the worker sees it that waits for it.

The body looks like any other: ``readinto`` lends the memory to the process and returns once the process has given it
back, or is no more. So whatever holds for a thread that receives by itself holds here: when a read has returned, nobody
writes there. An ``interrupt`` from another thread is passed on, and a process that takes no notice is killed.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import TYPE_CHECKING, Protocol

from tigrismount.errors import ObjectUnavailableError
from tigrismount.objects.fetchers import wire
from tigrismount.objects.ranges import RangeAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tigrismount.objects.fetchers.memory import SharedMemory
    from tigrismount.objects.ranges import RangeGet
    from tigrismount.objects.responses import Target


class Process(Protocol):
    """The process at the other end: ``process.FetchProcess``."""

    def interrupt(self, line: int, serial: int) -> None:
        """Tell it to end the read of a GET on a line."""

    def look(self, told_s: float | None) -> None:
        """Kill it where it is stuck."""

    def await_end(self, line: Line) -> None:
        """Return once it is over, or once it is clear that a line alone is."""

    def give(self, line: Line) -> None:
        """Take a line back."""


class Owner(Protocol):
    """Who hands out lines: ``pool.FetchProcesses``."""

    memory: SharedMemory

    def give(self, line: Line) -> None:
        """Take a line back."""


class Line:
    """A way to one thread of a fetch process, used by one thread here at a time.

    Args:
        process: At the other end.
        number: Its name there.
        connection: Our end.
        look_s: How long a thread waits for a word before it looks whether the process still lives.
    """

    def __init__(self, process: Process, number: int, connection: socket.socket, look_s: float) -> None:
        self.process = process
        self._number = number
        self._connection = connection
        # The kernel bounds the wait: a timeout of Python's would cost a system call for each message.
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(look_s), int(look_s % 1 * 1e6))
        )
        self.was_answered = False
        """Whether anything was ever said here."""
        self.has_closed = False
        """Whether nothing will be said here any more."""
        self._serial = 0
        self._told_s: float | None = None

    def ask(self, get: RangeGet, key: wire.SigningKey | None) -> bytes:
        """Send a GET; return the message that came."""
        self._serial += 1
        self._told_s = None
        return self.exchange(wire.get_message(self._serial, get, key), wire.HEAD_BYTES, get.target)

    def exchange(self, message: bytes, most_bytes: int, target: Target) -> bytes:
        """Say something and return what is said to it.

        Raises:
            ObjectUnavailableError: The process is no more.
        """
        try:
            self._connection.send(message)
            while True:
                try:
                    reply = self._connection.recv(most_bytes)
                    break
                except BlockingIOError:
                    self.process.look(self._told_s)
        except (OSError, MemoryError):  # who cannot listen must not leave either: memory may be lent
            reply = b""
        if reply:
            self.was_answered = True
            return reply
        self.has_closed = True
        self.process.await_end(self)
        raise ObjectUnavailableError("a fetch process has ended", bucket=target.bucket, key=target.key)

    def say(self, message: bytes) -> None:
        """Say something that needs no answer."""
        with contextlib.suppress(OSError):  # the next one that needs an answer will find out
            self._connection.send(message)

    def interrupt(self) -> None:
        """Have the read that is going on end; from any thread while the GET is there."""
        self._told_s = time.monotonic()
        self.process.interrupt(self._number, self._serial)

    def close(self) -> None:
        """Let go of it."""
        self._connection.close()


class LineBody:
    """The body of a GET in a fetch process.

    Args:
        owner: Gets the line back.
        line: Where its answer came.
        target: What the request is about.
    """

    def __init__(self, owner: Owner, line: Line, target: Target) -> None:
        self._owner = owner
        self._line = line
        self._target = target

    def readinto(self, view: memoryview) -> int:
        """Have *view*, which lies in shared memory, filled as far as the body goes; return the count.

        Raises:
            ObjectError: The body failed, or the process did.
        """
        offset = self._owner.memory.offset(view)
        if offset is None:
            raise ObjectUnavailableError("memory that is not shared", bucket=self._target.bucket, key=self._target.key)
        message = self._line.exchange(wire.read_message(offset, len(view)), wire.SHORT_BYTES, self._target)
        return wire.take_filled(message)

    def interrupt(self) -> None:
        """Make a read that hangs in another thread end now."""
        self._line.interrupt()

    def close(self, *, complete: bool) -> None:
        """Give the line back, and the connection to the store to its pool if nothing of the body is left on it."""
        self._line.say(wire.end_message(complete=complete))
        self._owner.give(self._line)


def send(
    owner: Owner,
    line: Line,
    get: RangeGet,
    key: Callable[[], wire.SigningKey | None],
    observe: Callable[[Mapping[str, str]], None],
) -> RangeAnswer:
    """Send a GET from a fetch process, and return what came, once its head has.

    Args:
        owner: Gets the line back: when the body is closed, or here where there is none.
        line: A way to the process, not to be used any more.
        get: What to ask for.
        key: Returns what to sign with; None where there is nothing.
        observe: Told headers of the answer, also where it is an error.

    Raises:
        ObjectError: The answer is an error, none came, or the process ended.
    """
    try:
        message = line.ask(get, key())
        observe(wire.seen_headers(message))
        head = wire.take_head(message)
    except BaseException:
        owner.give(line)
        raise
    observe(head.headers)
    return RangeAnswer(head.status, head.headers, head.version_id, LineBody(owner, line, get.target))
