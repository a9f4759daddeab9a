"""The stages that a worker goes through until it serves, each waited for under one deadline.

The first worker of a mount and each of its successors go the same way; ``protocol`` has the messages. A wait ends with
the message that is due, with what the worker says or does instead, or with the deadline: never later.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from tigrismount.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tigrismount.holder.events import Events
    from tigrismount.holder.protocol import Message
    from tigrismount.holder.worker import Worker

WAIT_TURN_S = 0.1
"""How often a worker's end is looked for, should its signal have been missed."""
_FAILED = 1


class StartError(Exception):
    """Starting failed.

    Args:
        message: Why, in one line.
        exit_code: What the command line should exit with.
        kind: Why, for a program, where the worker said so: a member of ``protocol.KINDS``.
    """

    def __init__(self, message: str, exit_code: int = _FAILED, kind: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.kind = kind


class InterruptedBySignalError(StartError):
    """Somebody wants this process to end.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        self.signal_name = signal.Signals(number).name
        """Its name."""
        super().__init__(f"interrupted by {self.signal_name}")


class Conversation:
    """What is said with one worker until it serves.

    Args:
        worker: It has just been started.
        events: The loop that it is watched in.
        within_s: Seconds until the last stage must be over.
        check: Called after each event; raises where there is a reason to give up.
        warn: Told what is odd.
    """

    def __init__(
        self,
        worker: Worker,
        events: Events,
        *,
        within_s: float,
        check: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        self.worker = worker
        """The other side."""
        self._events = events
        self.within_s = within_s
        """Seconds that all of it may take."""
        self._deadline_s = time.monotonic() + within_s
        self._check = check
        self._warn = warn

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, 0 once it has passed."""
        return max(0.0, self._deadline_s - time.monotonic())

    def start(self, **body: object) -> Message:
        """Give the worker its configuration and return its ``ready``."""
        self._say("start", **body)
        return self._expect("ready", "did not become ready")

    def attach(self, fds: Sequence[int], **body: object) -> bytes:
        """Hand the connection to the worker and return its answer to the kernel's INIT."""
        self._say("attach", fds, **body)
        message = self._expect("attached", "did not take the connection")
        try:
            return bytes.fromhex(message.body["init_reply"])
        except (KeyError, TypeError, ValueError) as exc:
            raise StartError(f"the worker's answer to the kernel is not valid: {exc!r}") from exc

    def serve(self, fds: Sequence[int] = (), *, resend: bool = False) -> list[str]:
        """Let the worker serve, wait until it does, and return what it warns of.

        Args:
            fds: The journal, where it is another one than was handed over with the connection.
            resend: Have the kernel send again what a worker before this one took and did not answer.
        """
        self._say("serve", fds, resend=resend)
        return warnings_of(self._expect("serving", "did not begin to serve"))

    def turn(self) -> None:
        """Take one turn of the loop.

        Raises:
            StartError: The worker ended.
        """
        worker = self.worker
        if worker.has_ended() or not worker.is_connected:
            worker.drain()
            if worker.messages:
                return
            self._wait_for_exit_status()
            worker.drain()
            raise StartError(f"the worker {worker.describe_end()}")
        self._events.turn(min(1.0, self.left_s))
        self._check()

    def _wait_for_exit_status(self) -> None:
        """Give a worker that has hung up a moment to end, so that it can be said how."""
        deadline_s = time.monotonic() + WAIT_TURN_S
        while not self.worker.has_ended() and time.monotonic() < deadline_s:
            self._events.turn(WAIT_TURN_S)

    def release(self, *, cancel: bool) -> bool:
        """Have a worker that serves take no new request; return whether some that it took must be sent again.

        Args:
            cancel: Leave requests unanswered that are not answered soon; else wait for them.
        """
        self._say("release", cancel=cancel)
        return bool(self._expect("released", "did not let go of the connection").body.get("resend"))

    def _say(self, type_: str, fds: Sequence[int] = (), /, **body: object) -> None:
        """Send a message; how a worker has ended that is gone already is for who waits for the answer to say.

        Raises:
            MountError: It is there, and does not take it.
        """
        try:
            self.worker.channel.send(type_, fds, **body)
        except MountError:
            self._wait_for_exit_status()
            if not self.worker.has_ended():
                raise

    def _expect(self, type_: str, complaint: str) -> Message:
        """Wait for a message of the worker.

        Raises:
            StartError: It sent ``failed``, ended, or let the deadline pass.
        """
        while self.left_s:
            while self.worker.messages:
                message = self.worker.messages.popleft()
                if message.type == type_:
                    return message
                if message.type == "failed":
                    raise _failure(message)
                self._warn(f"the worker sent {message.type!r} while {type_!r} was expected")
            self.turn()
        raise StartError(f"the worker {complaint} within {self.within_s:g} s")


def warnings_of(message: Message) -> list[str]:
    """Return what a worker's message tells whoever mounts."""
    return [str(warning) for warning in message.body.get("warnings", ())]


def _failure(message: Message) -> StartError:
    exit_code = message.body.get("exit_code")
    text = message.body.get("message")
    return StartError(
        text if isinstance(text, str) and text else "the worker failed without saying why",
        exit_code if isinstance(exit_code, int) and exit_code > 0 else _FAILED,
        str(message.body.get("kind", "")),
    )
