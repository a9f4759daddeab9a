"""One fetch process, as the worker knows it: its start, its lines, its end."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.objects.fetchers import wire
from tigrismount.objects.fetchers.line import Line

if TYPE_CHECKING:
    from tigrismount.objects.fetchers.memory import SharedMemory

log = logging.getLogger(__name__)

PROGRAM = "tigrismount.fetcher"
"""Module that a fetch process runs."""
_SURELY_ALIVE_S = 1.0
"""After a sign of life the kernel is not asked: this is looked at for each GET, and a system call gives the
interpreter's lock away. Who uses one that has just died finds out."""
END_S = 2.0
"""Longest wait for one to end by itself."""
FULL_S = 30.0
"""How long one that had no thread for a line gets no new ones: each try costs a GET the time above, and tasks may have
been short for a moment only."""
_SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "TIGRIS_STORAGE_ACCESS_KEY_ID",
    "TIGRIS_STORAGE_SECRET_ACCESS_KEY",
)
"""Variables that a fetch process has no use for: its keys come with the requests."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a process may be of no use."""

    silent_s: float = 20.0
    """Without a sign of life, of which it gives two a second: it is stopped or stuck. A machine that is far too busy
    may take seconds over it."""
    let_go_s: float = 10.0
    """Writing into memory after it was told to stop."""
    look_s: float = 1.0
    """Before a thread that waits for it looks at it."""


class FetchProcess:
    """One fetch process. Its lines are handed out and taken back under the lock of the pool.

    Args:
        index: Its line of words in the memory.
        memory: The memory.
        setup: First message.
        patience: When it is killed.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, index: int, memory: SharedMemory, setup: bytes, patience: Patience) -> None:
        self.index = index
        self.busy = 0
        """Lines in use."""
        self.was_useful = False
        """Whether it ever answered."""
        self._memory = memory
        self._patience = patience
        self._free: list[Line] = []
        self._lines = 0
        self._full_until_s = 0.0
        """Until when it can have no more lines."""
        self._dismissed = False
        memory.clear_beat(index)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)  # one that is stopped must not stop us
        self._control_lock = threading.Lock()
        try:
            self._process = _popen(theirs.fileno(), memory.fd)
            self._control.send(setup)
        except OSError:
            self._control.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self._began_s = time.monotonic()

    def serves(self) -> bool:
        """Whether it can be given GETs: it has started, and nobody knows of its end."""
        return not self._dismissed and self._beat_s() > 0.0 and not self.has_ended()

    def has_ended(self) -> bool:
        """Whether the process is known to be over; one that ended a moment ago may not be."""
        alive = self._process.returncode is None and time.monotonic() - self._beat_s() < _SURELY_ALIVE_S
        return not alive and self._process.poll() is not None

    def _beat_s(self) -> float:
        return self._memory.last_beat_s(self.index)

    def take(self) -> Line | None:
        """Return a free line, in use from now on; None where it cannot have another one."""
        if self._free:
            line = self._free.pop()
        elif time.monotonic() < self._full_until_s:
            return None
        else:
            try:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            except OSError:  # no descriptors are left
                return None
            with theirs:
                try:
                    with self._control_lock:
                        socket.send_fds(self._control, [wire.line_message(self._lines)], [theirs.fileno()])
                except OSError:
                    ours.close()
                    return None
            line = Line(self, self._lines, ours, self._patience.look_s)
            self._lines += 1
        self.busy += 1
        return line

    def give(self, line: Line) -> None:
        """Take a line back; it is closed where the process is not to be used any more."""
        self.busy -= 1
        self.was_useful = self.was_useful or line.was_answered
        if self._dismissed or line.has_closed:
            line.close()
        else:
            self._free.append(line)

    def interrupt(self, line: int, serial: int) -> None:
        """Tell it to end the read of a GET on a line."""
        with contextlib.suppress(OSError), self._control_lock:
            self._control.send(wire.interrupt_message(line, serial))

    def look(self, told_s: float | None) -> None:
        """Kill it where it is stuck.

        Args:
            told_s: When it was told to let go of memory, by the monotonic clock; None where it was not.
        """
        now_s = time.monotonic()
        seen_s = max(self._beat_s(), self._began_s)
        if now_s - seen_s > self._patience.silent_s:
            self._kill(f"gives no sign of life for {self._patience.silent_s:g} s")
        elif told_s is not None and now_s - told_s > self._patience.let_go_s:
            self._kill("does not let go of memory")

    def await_end(self, line: Line) -> None:
        """Return once it is over. One of its lines has closed, so it is ending, or of no use any more.

        But one that never said a word has got no memory either: there was no thread for it, and the others go on.
        """
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            if not line.was_answered:
                self._full_until_s = time.monotonic() + FULL_S
                return
            self._kill("has closed a line")
            self._process.wait()

    def dismiss(self) -> None:
        """Give it nothing more to do, and let it end. Under the pool's lock."""
        self._dismissed = True
        with self._control_lock:
            self._control.close()
        while self._free:
            self._free.pop().close()

    def end(self) -> str:
        """Return once it has ended, and how; kill it where it does not by itself."""
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._kill("does not end")
            self._process.wait()
        status = self._process.returncode
        return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"

    def _kill(self, why: str) -> None:
        if self._process.poll() is None:
            log.warning("fetch process %d %s: killing it", self.pid, why)
            self._process.kill()


def _popen(control_fd: int, memory_fd: int) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", PROGRAM, "--control-fd", str(control_fd), "--memory-fd", str(memory_fd)],
        pass_fds=(control_fd, memory_fd),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # what is sent to the worker's group is not for it
        env=environment,
    )
