"""Putting another worker in the place of one: of one that has ended, or of one that serves.

*Take over*: the worker has ended. A successor starts, takes the connection, and has the kernel send again what the dead
one had taken. Requests wait meanwhile.

*Hand over*: the worker serves. The successor is started beside it and made ready up to its answer to INIT, which takes
a second or two and is nobody's pause. Only then the old one is told to take no new request; it answers what it can at
once, the rest is sent again, and the successor serves. Where the kernel cannot send again, the old one finishes what it
has begun before the successor is let in.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tigrismount.errors import MountError
from tigrismount.holder.conversation import Conversation, InterruptedBySignalError, StartError
from tigrismount.holder.succession import Succession

if TYPE_CHECKING:
    from tigrismount.holder.connection import Connection
    from tigrismount.holder.log import DaemonLog
    from tigrismount.holder.request import MountRequest
    from tigrismount.holder.worker import Worker
    from tigrismount.holder.workers import Workers


class OtherAnswerError(StartError):
    """A successor would speak to the kernel in another way than was agreed; another try would, too."""


class Replacement:
    """Replaces workers of one connection.

    Args:
        connection: What they serve.
        workers: Starts and ends them.
        log: Told what happens.
        request: What is mounted.
    """

    def __init__(self, connection: Connection, workers: Workers, log: DaemonLog, request: MountRequest) -> None:
        self._connection = connection
        self._workers = workers
        self._log = log
        self._deadlines = request.deadlines
        self._use_resend = request.use_resend
        self.config = request.config
        """What each worker is given."""
        self.served: dict[str, Any] | None = None
        """What the worker that serves was given, where the next one is given something else."""
        self.private: dict[str, object] = {}
        """What each worker is told besides, and nobody else is: the key of a volume, one that was handed in."""
        self.succession = Succession(can_resend=False, outage_max_s=request.deadlines.takeover_s)
        """What became of the workers so far."""
        self.may_remount = False
        """Whether the last refusal was one that a new connection would not meet."""
        self._attached_journal = 0
        """Number of the journal that was handed over last, with the connection."""

    def begin(self) -> None:
        """Take note of what the kernel can, once a connection has been made or adopted."""
        self.succession.can_resend = self._use_resend and self._connection.kernel.has_resend

    def history(self) -> dict[str, object]:
        """Return what a worker is told of those before it: nothing where there was none."""
        succession = self.succession
        return {"takeovers": succession.count, "takeover_reason": succession.reason} if succession.count else {}

    def attach(self, talk: Conversation) -> None:
        """Hand the connection to a worker: the first one's answer goes to the kernel, all others' must be the same."""
        connection = self._connection
        first = not connection.init_reply
        self._attached_journal = connection.journal_number  # while it is read, the one who serves may write it anew
        reply = talk.attach(
            [connection.fuse_fd, connection.journal_fd],
            init=connection.init_request.hex(),
            first=first,
            answered=connection.init_reply.hex(),
            mountpoint=connection.spec.mountpoint,
        )
        if first:
            connection.answer(reply)
        elif reply != connection.init_reply:
            raise OtherAnswerError("the next worker's FUSE library speaks to the kernel in another way")

    def note(self, failure: str) -> None:
        """Let the worker's ``status`` say how the last attempt to replace it went."""
        if self._workers.current is not None:
            self._workers.current.tell("note", handover=failure)

    # ------------------------------------------------------------------ take over

    def take_over(self, how: str) -> str:
        """Put a successor in the place of a worker that ended; return why not, empty where it serves.

        Args:
            how: How it ended.
        """
        succession = self.succession
        succession.note_death(time.monotonic(), how)
        self.may_remount = False
        while not (refusal := succession.refusal(time.monotonic())):
            if not self._connection.is_connected():
                return "the kernel has ended the connection"
            try:
                self._succeed()
            except OtherAnswerError as exc:
                self.may_remount = True
                return str(exc)
            except InterruptedBySignalError:
                raise
            except (StartError, MountError) as exc:
                succession.note_failure(time.monotonic())
                self._log.warning(f"another worker did not come to serve: {exc}")
                self._go_back()
                self._workers.pause(min(succession.pause_s(), succession.left_s(time.monotonic())))
            else:
                return ""
        self.may_remount = not succession.can_resend and not succession.is_spent(time.monotonic())
        return refusal

    def _succeed(self) -> None:
        """Start one successor, up to where it serves."""
        succession = self.succession
        began_s = time.monotonic()
        self._log.warning(f"the worker {succession.reason}; starting another one")
        talk = self._workers.start(succession.left_s(began_s))
        with self._workers.killed_on_failure(talk.worker):
            self._prepare(talk)
            talk.serve(resend=True)
        self.served = None
        self._workers.current = talk.worker
        succession.note_served()
        self._log.info(f"worker {talk.worker.pid} has taken over after {time.monotonic() - began_s:.2f} s")

    def _go_back(self) -> None:
        """Give the next worker what the last one that served was given: with something else none came to serve."""
        if self.served is not None and self.served != self.config:
            self._log.warning("going on with the configuration of before")
            self.config = self.served

    def _prepare(self, talk: Conversation) -> None:
        succession = self.succession
        changed = {"before": self.served} if self.served is not None and self.served != self.config else {}
        talk.start(
            config=self.config,
            takeovers=succession.count + 1,
            takeover_reason=succession.reason,
            **changed,
            **self.private,
        )
        self.attach(talk)

    # ------------------------------------------------------------------ hand over

    def hand_over(self, reason: str) -> str:
        """Put a successor in the place of a worker that serves; return why not, empty where it serves.

        Args:
            reason: Why, for ``status``: follows on "the worker".
        """
        old = self._workers.current
        assert old is not None
        before = self.succession.reason
        self.succession.reason = reason
        try:
            talk = self._workers.start(self._deadlines.start_s)
            with self._workers.killed_on_failure(talk.worker):
                self._prepare(talk)
        except InterruptedBySignalError:
            raise
        except (StartError, MountError) as exc:
            self.succession.reason = before
            self._log.warning(f"worker {old.pid} goes on, as no other could be put in its place: {exc}")
            self._go_back()
            return str(exc)
        try:
            with self._workers.killed_on_failure(talk.worker):
                self._exchange(old, talk)
        except InterruptedBySignalError:
            raise
        except (StartError, MountError) as exc:
            self._log.warning(f"the worker put in the place of {old.pid} did not come to serve: {exc}")
            self._workers.kill(old)  # it takes no requests any more; a successor follows as after any death
            return str(exc)
        return ""

    def _exchange(self, old: Worker, talk: Conversation) -> None:
        """The pause: between the last request that *old* takes and the first that its successor takes."""
        began_s = time.monotonic()
        resend = self._release(old)
        is_another = self._connection.journal_number != self._attached_journal
        fds = (self._connection.journal_fd,) if is_another else ()
        talk.serve(fds, resend=resend)
        self.served = None
        self._workers.current = talk.worker
        self._workers.retire(old)
        self.succession.note_served()
        took_s = time.monotonic() - began_s
        self._log.info(f"worker {talk.worker.pid} has taken over from {old.pid}, requests waited {took_s:.3f} s")

    def _release(self, old: Worker) -> bool:
        """Have *old* take no more requests; return whether some must be sent again.

        Raises:
            StartError: It does not, and what it has begun cannot be sent again: with it, the connection has to end.
        """
        can_resend = self.succession.can_resend
        try:
            return self._workers.talk(old, self._deadlines.release_s).release(cancel=can_resend)
        except InterruptedBySignalError:
            raise
        except (StartError, MountError) as exc:
            if not can_resend:
                raise
            self._log.warning(f"worker {old.pid} is killed: {exc}")
            self._workers.kill(old)
            return can_resend
