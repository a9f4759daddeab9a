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
_LAST_WORDS = 1000  # characters that are quoted: a successor is told, and a message that is too long is never sent


class Worker:
    """A running worker; what it says is collected in each turn of *events*.

    Args:
        pid: A child of this process.
        channel: Our end of the conversation.
        output_fd: Where what it writes can be read.
        events: The loop that its descriptors are watched in.
        log: Told each line that it writes.
        keep_journal: Given the descriptor of a journal that it has written anew.
        keep_key: Given a key that it was handed in.
    """

    def __init__(
        self,
        pid: int,
        channel: Channel,
        output_fd: int,
        events: Events,
        log: Callable[[str], None],
        keep_journal: Callable[[int], None] = os.close,
        keep_key: Callable[[object], object] = id,
    ) -> None:
        self.pid = pid
        self.channel = channel
        self.messages: collections.deque[Message] = collections.deque()
        self.is_connected = True
        self.last_line = ""
        self.unanswered = 0
        """Pings since the last answer to one."""
        self.degraded = ""
        """What worked less well than it should at the last answer to one; empty for nothing."""
        self._status: int | None = None
        self._events = events
        self._log = log
        self._keep_journal = keep_journal
        self._keep_key = keep_key
        self._partial = b""
        self._output_fd = output_fd
        os.set_blocking(self._output_fd, False)
        self.channel.set_blocking(False)
        events.watch(self._output_fd, self._take_output)
        events.watch(self.channel.fileno(), self._take_message)

    @classmethod
    def start(
        cls,
        command: tuple[str, ...],
        events: Events,
        log: Callable[[str], None],
        keep_journal: Callable[[int], None] = os.close,
        keep_key: Callable[[object], object] = id,
    ) -> Worker:
        """Start a worker.

        Args:
            command: Program and arguments; ``--holder-fd N`` is added.
            events: See above.
            log: See above.
            keep_journal: See above.
            keep_key: See above.

        Raises:
            MountError: It cannot be started.
        """
        try:
            channel, theirs = Channel.pair()
        except OSError as exc:  # such as no descriptor left on this machine
            raise _cannot_start(command, exc) from exc
        try:
            output_fd, write_fd = os.pipe()
        except OSError as exc:
            channel.close()
            theirs.close()
            raise _cannot_start(command, exc) from exc
        try:
            process = subprocess.Popen(
                [*command, "--holder-fd", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=write_fd,
                stderr=write_fd,
                start_new_session=True,  # Ctrl-C in the foreground is for the supervisor alone
            )
        except OSError as exc:
            channel.close()
            os.close(output_fd)
            raise _cannot_start(command, exc) from exc
        finally:
            theirs.close()
            os.close(write_fd)
        process.returncode = 0  # waited for by its id, as a worker that was inherited over an exec is
        return cls(process.pid, channel, output_fd, events, log, keep_journal, keep_key)

    def inherit(self) -> tuple[int, int]:
        """Return its channel and its output for the program that replaces this one in an exec."""
        return self.channel.fileno(), self._output_fd

    def ping(self) -> None:
        """Ask whether its loop still turns; ``unanswered`` goes back to 0 with the answer."""
        self.unanswered += 1
        self.tell("ping")

    def tell(self, type_: str, fds: tuple[int, ...] = (), /, **body: object) -> None:
        """Send a message; one that cannot be sent to a worker that ends, or is stuck, is not missed."""
        with contextlib.suppress(MountError):
            self.channel.send(type_, fds, **body)

    def has_ended(self) -> bool:
        """Whether the process is over; collects its exit status."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has collected it, so how it ended is not known
                pid, status = self.pid, 0
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def is_hollow(self) -> bool:
        """Whether it was killed and is not over: the kernel keeps one of its threads until somebody answers that.

        A page that is pushed waits for a READ of the same page, which the worker itself was to answer. Its descriptors
        stay open meanwhile, so nothing but the state of its first thread tells.
        """
        if self.has_ended():
            return False
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
        except OSError:
            return False
        return state == b"Z" and not self.has_ended()  # it may have ended just now

    def describe_end(self) -> str:
        """Return how it ended and, where there are any, its last words."""
        status = self._status
        if status is None:
            how = "was killed in the middle of a system call" if self.is_hollow() else "closed its connection"
        elif status < 0:
            how = f"was killed by {_name_of(-status)}"
        else:
            how = f"ended with exit status {status}"
        return f"{how}: {self.last_line[:_LAST_WORDS]}" if self.last_line else how

    def drain(self) -> None:
        """Take everything that it has sent and written so far."""
        while self.is_connected and self._receive():
            pass
        if self._output_fd >= 0:
            self._take_output()

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            if not self.has_ended():
                os.kill(self.pid, number)

    def close(self) -> None:
        """Let go of its descriptors; the process should have ended."""
        self.drain()
        if self.is_connected:
            self._disconnect()
        self.channel.close()
        if self._output_fd >= 0:
            self._close_output()

    def _take_message(self) -> None:
        self._receive()

    def _receive(self) -> bool:
        """Take the next message, if there is one; return whether there may be another."""
        try:
            message = self.channel.receive()
        except BlockingIOError:
            return False
        except MountError as exc:  # such as of a journal that came while this machine had no descriptor left
            self._log(f"worker {self.pid}: what it said is lost: {exc}")
            return True
        if message is None:
            self._disconnect()
            return False
        keep = self._keep_journal if message.type == "journal" and len(message.fds) == 1 else os.close
        for fd in message.fds:
            keep(fd)
        if message.type == "pong":
            self.unanswered = 0
            self.degraded = "; ".join(map(str, message.body.get("degraded", ())))
        elif message.type == "key":
            self._keep_key(message.body.get("key"))
        elif message.type != "journal":
            self.messages.append(message)
        return True

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


def _cannot_start(command: tuple[str, ...], exc: OSError) -> MountError:
    return MountError(f"{command[0]}: cannot be started: {exc.strerror}")


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals
        return f"signal {number}"
