"""The supervisor's one loop: signals and descriptors, nothing runs beside it.

``turn`` waits for whatever comes first and calls what was registered for it. Signals arrive as bytes in a socket
(``signal.set_wakeup_fd``), so that nothing happens between two statements: they are taken where the supervisor asks.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

FOR_WORKERS = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals that mean the worker, whoever of the two they were sent to."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, *FOR_WORKERS)
_MOST_SIGNALS = 4096  # read at once; far more than can wait between two turns


class Events:
    """Descriptors and signals, waited for together. A context: signal handlers are put back on leaving."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._previous: dict[int, Any] = {}
        self._previous_wakeup_fd = -1
        self.signals: list[int] = []
        """Signals that came and were not taken yet, oldest first; SIGCHLD only wakes the loop."""

    def __enter__(self) -> Self:
        self._previous_wakeup_fd = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, _wake_only) for number in _SIGNALS}
        self.watch(self._woken.fileno(), self._take_signals)
        self.unblock()  # blocked over an exec, when nobody could take them
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_wakeup_fd)
        self.close()

    def close(self) -> None:
        """Let go of everything; for a loop in a thread, which is entered by nobody and sees no signals."""
        self._selector.close()
        self._woken.close()
        self._waker.close()

    def block(self) -> None:
        """Leave signals pending, for the program that is executed next: those that came but were not taken, too."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        with contextlib.suppress(BlockingIOError):
            self._take_signals()
        while (number := self.take_signal()) is not None:
            os.kill(os.getpid(), number)

    @staticmethod
    def unblock() -> None:
        """Take signals again."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        """Call *call* in each turn in which *fd* is readable or at its end."""
        self._selector.register(fd, selectors.EVENT_READ, call)

    def unwatch(self, fd: int) -> None:
        """Forget *fd*; before it is closed."""
        self._selector.unregister(fd)

    def turn(self, timeout_s: float | None) -> None:
        """Wait for the next event and handle all that are there.

        Args:
            timeout_s: Seconds to wait at most; None waits as long as it takes.
        """
        for key, _ in self._selector.select(timeout_s):
            key.data()

    def take_signal(self) -> int | None:
        """Return the oldest signal that was not taken yet."""
        return self.signals.pop(0) if self.signals else None

    def _take_signals(self) -> None:
        self.signals += [number for number in os.read(self._woken.fileno(), _MOST_SIGNALS) if number != signal.SIGCHLD]


def _wake_only(_number: int, _frame: object) -> None:
    """Do nothing: the byte in the socket is the event. A handler must exist for Python to write it."""
