"""One mount in the mounter: a thread that keeps a worker behind a descriptor that somebody else has mounted.

It is to the driver's mounts what ``holder.supervisor`` is to a plain one, made of the same parts, without what needs
privilege: it never mounts, unmounts or looks through the mountpoint, which it need not even see. What it holds comes
from the driver and can go back there at any time::

    start → worker ready → (the driver mounts) → attach → serving ─┐
    adopt → take over from a worker that is gone ──────────────────┴→ RUNNING
    RUNNING ── the worker dies or hangs → take over; no successor → lost: let go, tell the driver
            ── the worker asks to leave → hand over
            ── rotate: another key, for this worker and all after it
            ── stop, or the connection ended → end the worker
            ── leave: this process ends: the worker gives up the connection, for another mounter's to take over

The thread's loop is ``holder.events`` without signals. Messages are put into its inbox from outside and taken in each
turn, also while a successor starts. A worker is killed by the kernel when this thread ends.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import signal
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from tigrismount.errors import ConfigError, MountError
from tigrismount.holder.connection import Connection
from tigrismount.holder.conversation import InterruptedBySignalError, StartError
from tigrismount.holder.events import Events
from tigrismount.holder.mounting import MountSpec
from tigrismount.holder.protocol import Message
from tigrismount.holder.replacement import Replacement
from tigrismount.holder.request import MountRequest, with_snapshot
from tigrismount.holder.watchdog import Watchdog
from tigrismount.holder.workers import Workers
from tigrismount.mounter.inbox import Inbox, drop
from tigrismount.mounter.report import Report
from tigrismount.mounter.volumes import resolve
from tigrismount.mounter.wire import texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.config.model import MountConfig
    from tigrismount.holder.conversation import Conversation
    from tigrismount.holder.log import DaemonLog
    from tigrismount.holder.worker import Worker
    from tigrismount.mounter.report import Say
    from tigrismount.mounter.volumes import Installation
    from tigrismount.mounter.wire import Order

_RELEASE_S = 5.0
"""How long a worker that leaves may take to give up the connection; it takes a tenth of a second."""
_TURN_S = 0.1
"""How often whoever waits for a turn listens to the driver."""
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""This machine is short of something, which says nothing of what is asked for."""
_WHERE_TO_LOOK = "the mounter's log says more, and its memory limit is what most often ends a worker"


class Keeper:
    """Keeps one mount served.

    Args:
        order: What is mounted.
        installation: What holds for all mounts here.
        log: The mount's part of the log; closed at the end.
        say: Sends a message to the driver, if there is one: type, descriptors, and members by name.
        on_end: Called from the thread, last of all.
        turns: Taken while a worker takes over from another mounter's: where all of a node's did at once, none would
            be in time.
    """

    def __init__(
        self,
        order: Order,
        installation: Installation,
        log: DaemonLog,
        say: Say,
        on_end: Callable[[Keeper], None],
        turns: threading.Semaphore,
    ) -> None:
        self._turns = turns
        self.order = order
        """What is mounted; replaced when the key is."""
        self._installation = installation
        self._log = log
        self._report = Report(order.mount_id, say)
        self._on_end = on_end
        self._inbox = Inbox()
        self._thread = threading.Thread(target=self._run, name=f"keeper of {order.mount_id}", daemon=True)
        self._events = Events()
        self._events.watch(self._inbox.fileno(), self._inbox.woken)
        self._goal: Message | None = None
        self._hung = ""
        self._attach: Message | None = None
        self._rotating: collections.deque[Message] = collections.deque()
        self.is_serving = False
        """Whether a worker serves, or has served and is being replaced."""
        self.has_released = threading.Event()
        """Set once no worker of this process takes requests of this mount any more."""
        self._connection = Connection(
            MountSpec(mountpoint=order.mountpoint, fsname=order.source, allow_other=True), log.error, may_unmount=False
        )
        deadlines = installation.deadlines
        self._workers = Workers(
            installation.worker_command,
            self._events,
            log,
            stop_s=deadlines.stop_s,
            keep_journal=self._keep_journal,
            keep_key=self._keep_key,
            check=self._obey,
        )
        self._watchdog = Watchdog(None, deadlines.hang_s)
        self._replacement: Replacement

    def begin(self, message: Message) -> None:
        """Start the thread with ``start`` or ``adopt``.

        Raises:
            RuntimeError: The system has none left; the message is still the caller's.
        """
        self._inbox.post(message)
        try:
            self._thread.start()
        except RuntimeError:
            self._inbox.close()
            self._events.close()
            raise

    def post(self, message: Message) -> bool:
        """Have the thread do what *message* says; return whether it is there to do it, and owns its descriptors."""
        return self._inbox.post(message)

    def supersede(self) -> None:
        """Have the thread end, and say no more but answers: what is said of this mount from now on is of another."""
        self._report.hush()
        self.post(Message("stop", {}))

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread."""
        self._thread.join(timeout_s)

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            first = self._inbox.take()
            assert first is not None
            config = self._resolve(first)
            if config is None:
                return
            self._prepare(config)
            if self._start(first) if first.type == "start" else self._adopt(first):
                self._supervise()
        except InterruptedBySignalError:
            self._end()
        except Exception as exc:  # noqa: BLE001 -- whatever it is: the mount must not wait for a thread that is gone
            self._log.error(f"internal error: {exc!r}")
            self._lose(f"internal error: {exc!r}", may_remount=False)
        finally:
            self._close()

    def _resolve(self, first: Message) -> MountConfig | None:
        try:
            return resolve(self.order, self._installation, has_served=first.type == "adopt")
        except ConfigError as exc:
            if first.type == "start":
                self._log.warning(f"was not mounted: {exc}")
                self._report.fail(first, "bad_option", str(exc))
            elif isinstance(exc.__cause__, OSError) and exc.__cause__.errno in _SHORT:
                # Not lost: the driver gives it again, once it has found that nobody serves it.
                self._log.error(f"cannot be served for now: {exc}")
                drop(first)
            else:  # the installation was changed since: the driver can mount it in no other way either
                drop(first)
                self._lose(str(exc), may_remount=False)
            return None

    def _prepare(self, config: MountConfig) -> None:
        request = MountRequest(config=config.to_json(), deadlines=self._installation.deadlines)
        self._replacement = Replacement(self._connection, self._workers, self._log, request)
        self._replacement.private = {"secret": dict(self.order.secret)}

    def _start(self, message: Message) -> bool:
        """Start the first worker of a mount that is not there yet; return whether it serves."""
        within_s = float(message.body["within_s"])
        deadline_s = time.monotonic() + within_s
        try:
            talk = self._workers.start(within_s)
            self._workers.current = talk.worker
            self._make_ready(talk, message)
            message = self._await_attach(talk)
            self._attach_worker(talk, message)
        except InterruptedBySignalError:
            raise
        except (StartError, MountError) as exc:
            kind = exc.kind if isinstance(exc, StartError) else ""
            late = time.monotonic() >= deadline_s
            self._log.warning(f"was not mounted: {exc}")
            text = str(exc) if kind else f"{self.order.source}: {exc}; {_WHERE_TO_LOOK}"
            self._report.fail(message, kind or ("timeout" if late else "internal"), text)
            self._end()
            return False
        self._report.answer(message, "serving", init_reply=self._connection.init_reply.hex())
        self._begin_to_serve()
        return True

    def _make_ready(self, talk: Conversation, message: Message) -> None:
        replacement = self._replacement
        until_s = time.monotonic() + talk.left_s
        ready = talk.start(config=replacement.config, until_s=until_s, **replacement.private)
        replacement.config = with_snapshot(replacement.config, ready.body.get("snapshot_version"))
        fsname, kib = replacement.config["fsname"], replacement.config["kernel_read_ahead_kib"]
        version = replacement.config["s3"]["snapshot_version"]
        self._report.answer(message, "ready", fsname=fsname, read_ahead_kib=kib, snapshot_version=version)

    def _await_attach(self, talk: Conversation) -> Message:
        while self._attach is None:
            if not talk.left_s:
                raise StartError("the driver did not mount in time")
            talk.turn()
        message, self._attach = self._attach, None
        return message

    def _attach_worker(self, talk: Conversation, message: Message) -> None:
        self._hold(message, bytes.fromhex(message.body["init"]), b"")
        self._replacement.begin()
        self._replacement.attach(talk)
        talk.serve()

    def _adopt(self, message: Message) -> bool:
        """Put a worker behind a mount that had one in another mounter; return whether it serves."""
        body = message.body
        init = bytes.fromhex(body["init"]), bytes.fromhex(body["init_reply"])
        self._hold(message, *init)
        self._replacement.begin()
        succession = self._replacement.succession
        succession.count, succession.reason = int(body.get("count", 0)), str(body.get("reason", ""))
        self.is_serving = True
        while not self._turns.acquire(timeout=_TURN_S):
            self._obey()
        try:
            return self._take_over("and its mounter ended")
        finally:
            self._turns.release()

    def _hold(self, message: Message, init: bytes, init_reply: bytes) -> None:
        # Held before the list of mounts is read, which takes a descriptor: here nobody asks where it is mounted.
        with contextlib.suppress(OSError):
            self._connection.adopt(message.fds[0], message.fds[1], init, init_reply)

    def _begin_to_serve(self, *, anew: bool = False) -> None:
        self.is_serving = True
        self._hung = ""  # said of the one before
        if anew and self._workers.current is not None:  # the key may be another one since it was started
            self._workers.current.tell("credentials", **self._replacement.private)
        self._watchdog.reset()
        self._tell_state()

    def _supervise(self) -> None:
        while True:
            worker = self._workers.current
            assert worker is not None
            self._events.turn(self._watchdog.wait_s())
            self._obey()
            self._workers.reap()
            if self._is_over(worker) or not self._connection.is_connected():
                self._workers.end(worker, ask_first=False)
                if not self._connection.is_connected():
                    self._log.info("was unmounted")
                    self._lose("the kernel has ended the connection", may_remount=False)
                    return
                if not self._take_over(worker.describe_end()):
                    return
                continue
            hang = self._hung or self._watchdog.turn(worker)
            self._hung = ""
            if hang:
                self._log.warning(f"the worker {hang} and is killed")
                self._workers.kill(worker)
                if not self._take_over(f"{hang} and was killed"):
                    return
            self._tell_state()

    def _is_over(self, worker: Worker) -> bool:
        over = worker.has_ended() or worker.is_hollow() or not worker.is_connected
        if over:
            worker.drain()
        while worker.messages:
            message = worker.messages.popleft()
            if message.type == "rotated":
                self._rotated(str(message.body.get("error", "")))
                continue
            over = over or message.type in ("stopped", "failed")
            if message.type == "leaving" and not over:
                failure = self._replacement.hand_over("was told to end")
                if not failure:
                    self._has_rotated()
                    self._begin_to_serve(anew=True)
                self._replacement.note(failure)
                break
        return over

    def _take_over(self, how: str) -> bool:
        """Put a successor in the place of a worker that is gone; return whether one serves."""
        self._tell_state(serves=False, reason=f"the worker {how}")
        self._has_rotated()
        refusal = self._replacement.take_over(how)
        if refusal:
            self._log.error(f"the worker {how}; {refusal}; reads fail until it is mounted anew")
            self._lose(f"the worker {how}; {refusal}", may_remount=self._replacement.may_remount)
            return False
        self._begin_to_serve(anew=True)
        return True

    # ------------------------------------------------------------------ what the driver says

    def _obey(self) -> None:
        """Take what was posted.

        Raises:
            InterruptedBySignalError: This mount is no longer this process's business.
        """
        while (message := self._inbox.take()) is not None:
            if message.type == "attach":
                self._attach = message
            elif message.type == "introduce":
                self._introduce()
            elif message.type == "rotate":
                self._rotate(message)
            elif message.type == "kill":
                self._hung = str(message.body.get("how", "does not answer"))
            elif message.type in ("stop", "leave", "abandon"):
                if message.type == "abandon" and self.is_serving:
                    continue
                self._goal = message
                raise InterruptedBySignalError(signal.SIGTERM)

    def _introduce(self) -> None:
        """Tell a driver that has come anew all there is to know."""
        if not self.is_serving:
            return
        connection, succession = self._connection, self._replacement.succession
        self._report.say(
            "have",
            [connection.fuse_fd, connection.journal_fd],
            **{**self.order.to_values(), "snapshot_version": self._replacement.config["s3"]["snapshot_version"]},
            init=connection.init_request.hex(),
            init_reply=connection.init_reply.hex(),
            count=succession.count,
            reason=succession.reason,
        )
        self._report.forget()
        self._tell_state()

    def _rotate(self, message: Message) -> None:
        secret = texts(message.body["secret"])
        if secret != self.order.secret:  # the same one again says nothing of a key that was handed in since
            self._replacement.private = {"secret": secret}
            self.order = replace(self.order, secret=secret)
        self._rotating.append(message)
        worker = self._workers.current
        if worker is None or worker.has_ended() or not self.is_serving:
            self._rotated("")
        else:
            worker.tell("credentials", **self._replacement.private)

    def _rotated(self, error: str) -> None:
        if not self._rotating:
            return
        question = self._rotating.popleft()
        if error:
            self._report.fail(question, "bad_credentials", error)
        else:
            self._report.answer(question, "rotated")

    def _has_rotated(self) -> None:
        """Answer what the worker before would have: who takes over has the key from the start, or is told it."""
        while self._rotating:
            self._rotated("")

    # ------------------------------------------------------------------ what the driver is told

    def _keep_journal(self, fd: int) -> None:
        if self._connection.journal_fd < 0:  # let go of already: what a worker writes while it ends is nobody's
            os.close(fd)
            return
        self._connection.keep_journal(fd)
        self._report.say("journal", [fd])

    def _keep_key(self, key: object) -> None:
        self._replacement.private = {**self._replacement.private, "key": key}

    def _tell_state(self, *, serves: bool = True, reason: str | None = None) -> None:
        worker, succession = self._workers.current, self._replacement.succession
        self._report.state(
            serves=serves,
            degraded=worker.degraded if worker is not None else "",
            reason=succession.reason if reason is None else reason,
            count=succession.count,
            pid=self._workers.pid,
        )

    def _lose(self, message: str, *, may_remount: bool) -> None:
        self._let_go()
        self._report.say("lost", message=message, may_remount=may_remount)

    # ------------------------------------------------------------------ the end

    def _end(self) -> None:
        """End the worker; what it had begun is left to whoever takes over where this process only leaves."""
        worker = self._workers.current
        if self._goal is not None and self._goal.type == "leave" and worker is not None and not worker.has_ended():
            try:
                self._workers.talk(worker, _RELEASE_S).release(cancel=True)
            except (StartError, MountError) as exc:
                # What it takes from now on nobody would ever answer: the next mounter's has it sent again only once.
                self._log.warning(f"worker {worker.pid} is killed: {exc}")
                self._workers.kill(worker)
            self.has_released.set()
            if not worker.has_ended():
                self._workers.end(worker, ask_first=False)
            self._workers.current = None
        self._let_go()
        self._workers.end_all(ask_first=True)

    def _let_go(self) -> None:
        self.is_serving = False
        self._connection.close()

    def _close(self) -> None:
        self._let_go()
        self.has_released.set()
        self._on_end(self)
        # An attach that came together with the end was never begun: held on to, whoever looks at the mount would wait.
        kept = [message for message in (self._goal, self._attach) if message is not None]
        for message in (*self._inbox.close(), *kept):
            drop(message)
            if message.type == "stop":
                self._report.answer(message, "stopped")
        self._events.close()
        self._log.close()
