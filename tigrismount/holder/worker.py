"""The process that answers the kernel, seen from the supervisor: its messages, its last words, its end."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from tigrismount.errors import MountError
from tigrismount.holder.protocol import Channel, Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.holder.events import Events

_READ_BYTES = 64 << 10
_MOST_LINE_BYTES = 64 << 10  # a longer line is passed on in pieces


class Worker:
    """A running worker; what it says is collected in each turn of *events*.

    Args:
        command: Program and arguments; ``--holder-fd N`` is added.
        events: The loop that its descriptors are watched in.
        log: Told each line that it writes.
        keep_journal: Given the descriptor of a journal that it has written anew.

    Raises:
        MountError: It cannot be started.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        events: Events,
        log: Callable[[str], None],
        keep_journal: Callable[[int], None] = os.close,
    ) -> None:
        self._events = events
        self._log = log
        self._keep_journal = keep_journal
        self.channel, theirs = Channel.pair()
        self.messages: collections.deque[Message] = collections.deque()
        self.is_connected = True
        self._partial = b""
        self.last_line = ""
        self._output_fd, write_fd = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*command, "--holder-fd", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=write_fd,
                stderr=write_fd,
                start_new_session=True,  # Ctrl-C in the foreground is for the supervisor alone
            )
        except OSError as exc:
            self.channel.close()
            os.close(self._output_fd)
            raise MountError(f"{command[0]}: cannot be started: {exc.strerror}") from exc
        finally:
            theirs.close()
            os.close(write_fd)
        os.set_blocking(self._output_fd, False)
        self.channel.set_blocking(False)
        events.watch(self._output_fd, self._take_output)
        events.watch(self.channel.fileno(), self._take_message)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Whether the process is over; collects its exit status."""
        return self._process.poll() is not None

    def describe_end(self) -> str:
        """Return how it ended and, where there are any, its last words."""
        status = self._process.returncode
        if status is None:
            how = "closed its connection"
        elif status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        else:
            how = f"ended with exit status {status}"
        return f"{how}: {self.last_line}" if self.last_line else how

    def drain(self) -> None:
        """Take everything that it has sent and written so far."""
        waiting = -1
        while self.is_connected and waiting != len(self.messages):
            waiting = len(self.messages)
            self._take_message()
        if self._output_fd >= 0:
            self._take_output()

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def close(self) -> None:
        """Let go of its descriptors; the process should have ended."""
        self.drain()
        if self.is_connected:
            self._disconnect()
        self.channel.close()
        if self._output_fd >= 0:
            self._close_output()

    def _take_message(self) -> None:
        try:
            message = self.channel.receive()
        except BlockingIOError:
            return
        if message is None:
            self._disconnect()
            return
        keep = self._keep_journal if message.type == "journal" and len(message.fds) == 1 else os.close
        for fd in message.fds:
            keep(fd)
        if message.type != "journal":
            self.messages.append(message)

    def _disconnect(self) -> None:
        self._events.unwatch(self.channel.fileno())
        self.is_connected = False

    def _take_output(self) -> None:
        try:
            data = os.read(self._output_fd, _READ_BYTES)
        except BlockingIOError:
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        if self._partial and (not data or len(self._partial) > _MOST_LINE_BYTES):
            lines, self._partial = [*lines, self._partial], b""
        for line in lines:
            self._take_line(line.decode(errors="backslashreplace"))
        if not data:
            self._close_output()

    def _take_line(self, line: str) -> None:
        if line.strip():
            self.last_line = line.strip()
        self._log(line)

    def _close_output(self) -> None:
        self._events.unwatch(self._output_fd)
        os.close(self._output_fd)
        self._output_fd = -1
