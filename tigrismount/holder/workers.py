"""The workers of one mount: the one that serves, and those that finish what they had begun."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

from tigrismount.holder.conversation import WAIT_TURN_S, Conversation
from tigrismount.holder.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tigrismount.holder.events import Events
    from tigrismount.holder.log import DaemonLog

_STUCK_S = 5.0
"""How long a killed worker is waited for. One in the middle of a system call that cannot be interrupted (a disk that
does not answer) ends later; its successor need not wait, as it will never answer a request again."""


_SOON_S = 0.5
"""How long the threads of a killed worker may take to end one after the other; what a thread waits for in the kernel
then, only a successor may be able to answer."""


class Workers:
    """Starts, replaces and ends workers.

    Args:
        command: Program and arguments.
        events: The loop that they are watched in.
        log: Where their lines go.
        stop_s: How long each may take to end.
        keep_journal: Given the descriptor of a journal that one has written anew.
        keep_key: Given a key that one was handed in.
        check: Called while one is talked to; raises where there is a reason to give up.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        events: Events,
        log: DaemonLog,
        *,
        stop_s: float,
        keep_journal: Callable[[int], None],
        keep_key: Callable[[object], None],
        check: Callable[[], None],
    ) -> None:
        self._command = command
        self._events = events
        self._log = log
        self._stop_s = stop_s
        self._keep_journal = keep_journal
        self._keep_key = keep_key
        self._check = check
        self._retired: list[tuple[Worker, float]] = []
        self._stuck: list[Worker] = []
        self.current: Worker | None = None
        """The one that serves, or is to."""

    @property
    def pid(self) -> int:
        """Process id of the current one, 0 without one."""
        return self.current.pid if self.current is not None else 0

    def start(self, within_s: float) -> Conversation:
        """Start a worker, and return what will be said with it *within_s* seconds; it is not the current one yet."""
        worker = Worker.start(self._command, self._events, self._log.line, self._keep_journal, self._keep_key)
        return self.talk(worker, within_s)

    def adopt(self, worker: Worker) -> None:
        """Make a worker that was started before an exec the current one."""
        self.current = worker

    def talk(self, worker: Worker, within_s: float) -> Conversation:
        """Return what will be said with *worker* within *within_s* seconds."""
        return Conversation(worker, self._events, within_s=within_s, check=self._check, warn=self._log.warning)

    def retire(self, worker: Worker) -> None:
        """Let *worker* finish in its own time; ``reap`` sees to its end."""
        self._retired.append((worker, time.monotonic() + self._stop_s))

    def reap(self) -> None:
        """Let go of retired workers that have ended, and kill those that take too long."""
        self._stuck = [worker for worker in self._stuck if not worker.has_ended()]
        for worker, deadline_s in list(self._retired):
            if not worker.has_ended() and time.monotonic() >= deadline_s:
                self._log.warning(f"worker {worker.pid} did not end within {self._stop_s:g} s and is killed")
                self.kill(worker)
            if worker.has_ended():
                worker.close()
                self._retired.remove((worker, deadline_s))

    def has_retired(self) -> bool:
        """Whether some have not ended yet."""
        return bool(self._retired)

    def kill(self, worker: Worker) -> None:
        """End a worker that has nothing to finish, or cannot."""
        worker.send_signal(signal.SIGKILL)
        if not self._wait_for(worker, _SOON_S) and not worker.is_hollow():
            self._wait_for(worker, _STUCK_S)
        worker.close()
        if not worker.has_ended():
            self._stuck.append(worker)

    @contextlib.contextmanager
    def killed_on_failure(self, worker: Worker) -> Iterator[None]:
        """Kill *worker* where what is done in this context fails: it never served, and has nothing to finish."""
        try:
            yield
        except BaseException:
            self.kill(worker)
            raise

    def pause(self, pause_s: float) -> None:
        """Wait, and raise where there is a reason to give up."""
        deadline_s = time.monotonic() + pause_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            self._events.turn(left_s)
            self._check()

    def end(self, worker: Worker, *, ask_first: bool) -> None:
        """Have *worker* end, and kill it where it takes too long.

        Args:
            worker: Which.
            ask_first: Whether it has no reason to end by itself.
        """
        if worker.is_hollow():
            self.kill(worker)
            return
        worker.tell("stop")
        if ask_first:
            worker.send_signal(signal.SIGTERM)
        if self._wait_for(worker, self._stop_s):
            worker.close()
            return
        self._log.warning(f"the worker did not end within {self._stop_s:g} s and is killed")
        self.kill(worker)

    def end_all(self, *, ask_first: bool) -> None:
        """End the current worker, and those that have not finished."""
        if self.current is not None:
            self.end(self.current, ask_first=ask_first)
        for worker, _ in self._retired:
            self.end(worker, ask_first=True)
        self._retired.clear()

    def _wait_for(self, worker: Worker, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not worker.has_ended() and time.monotonic() < deadline_s:
            self._events.turn(min(WAIT_TURN_S, timeout_s))
        return worker.has_ended()
