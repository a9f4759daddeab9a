"""One mount from start to end: the process that owns it while workers come and go.

The supervisor holds what must outlive a worker: the mount, a duplicate of its ``/dev/fuse`` descriptor, and the
kernel's INIT request. It starts the worker *first* and mounts only once the worker says that the bucket answers, so
that a mistake leaves nothing behind; and it calls the mount made only once ``statvfs`` and a listing have come back
through the mountpoint itself. Whatever fails on the way is undone.

The stages, each with its way out::

    check the mountpoint → start the worker → ready → mount, read INIT → attached → serving → prove → RUNNING
            │                     │             │          any failure, signal or deadline: undo, report
    RUNNING ── SIGTERM, SIGINT ──→ unmount (lazily after a grace) → stop the worker → exit 0
            ── unmounted by others → the worker sees it and stops → exit 0
            ── the worker dies ────→ let the connection die: reads fail with an error, never an empty directory → exit 1
            ── SIGHUP ────────────→ open the log file again

One thread, one loop (``events``); blocking calls are only those that cannot block.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from tigrismount.errors import MountError
from tigrismount.holder.events import Events
from tigrismount.holder.init import INIT_REQUEST_BYTES, describe_init
from tigrismount.holder.knobs import raise_read_ahead
from tigrismount.holder.mountinfo import MountEntry, mount_at, read_mounts
from tigrismount.holder.mounting import BusyError, check_can_mount, mount, unmount
from tigrismount.holder.preflight import prepare_mountpoint
from tigrismount.holder.probe import Finding, Health, Probe
from tigrismount.holder.request import Outcome
from tigrismount.holder.worker import Worker

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tigrismount.holder.log import DaemonLog
    from tigrismount.holder.protocol import Message
    from tigrismount.holder.request import MountRequest

_BUSY_RETRY_S = 0.25  # how soon a busy mount is tried again
_WAIT_TURN_S = 0.1  # how often a worker's end is looked for, should its signal have been missed
_FAILED = 1


class StartError(Exception):
    """Starting failed.

    Args:
        message: Why, in one line.
        exit_code: What the command line should exit with.
    """

    def __init__(self, message: str, exit_code: int = _FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Supervisor:
    """Makes one mount and looks after it.

    Args:
        request: What to mount.
        log: Where messages go; closed by the caller.
        report: Told once how starting went.
        client: Connection of who asked; when it closes before the report, nobody wants the mount any more.
    """

    def __init__(
        self,
        request: MountRequest,
        log: DaemonLog,
        report: Callable[[Outcome], None],
        client: socket.socket | None = None,
    ) -> None:
        self._request = request
        self._spec = request.spec
        self._log = log
        self._report = report
        self._client = client
        self._client_is_gone = False
        self._events = Events()
        self._worker: Worker | None = None
        self._fuse_fd = -1
        self._init_request = b""
        self._entry: MountEntry | None = None
        self._start_deadline_s = 0.0

    def run(self) -> int:
        """Mount, serve until the end, and return the exit status."""
        with self._events:
            try:
                warnings = self._start()
                self._log.info(f"{self._spec.fsname} is mounted on {self._spec.mountpoint}, served by {self._pid()}")
                self._report(Outcome(ok=True, pid=os.getpid(), worker_pid=self._pid(), warnings=tuple(warnings)))
                return self._supervise()
            except (MountError, StartError) as exc:
                self._undo()
                if not self._log.is_standard_error:
                    self._log.error(f"{self._spec.mountpoint}: not mounted: {exc}")
                exit_code = exc.exit_code if isinstance(exc, StartError) else _FAILED
                self._report(Outcome(ok=False, exit_code=exit_code, message=str(exc)))
                return exit_code
            except BaseException:  # a mistake of ours must not leave a mount that nobody looks after
                self._undo()
                raise

    def _start(self) -> list[str]:
        """Go through the stages up to RUNNING; return warnings."""
        self._start_deadline_s = time.monotonic() + self._request.deadlines.start_s
        check_can_mount(self._spec)
        prepare_mountpoint(self._spec.mountpoint, nonempty=self._request.nonempty, log=self._log.warning)
        if self._client is not None:
            self._events.watch(self._client.fileno(), self._notice_client)
        worker = self._worker = Worker(self._request.worker_command, self._events, self._log.line)
        worker.channel.send("start", config=self._request.config)
        ready = self._expect("ready", "did not become ready")
        self._mount()
        self._attach(worker)
        warnings = [*self._log.warnings, *map(str, ready.body.get("warnings", ())), *self._raise_read_ahead()]
        # A public bucket may be read and not listed: then a listing fails, rightly, and proves nothing.
        self._prove(listing=ready.body.get("listable", True) is not False)
        return warnings

    def _mount(self) -> None:
        self._fuse_fd = mount(self._spec)
        self._entry = mount_at(self._spec.mountpoint)
        try:
            self._init_request = os.read(self._fuse_fd, INIT_REQUEST_BYTES)
        except OSError as exc:
            raise StartError(f"the kernel did not begin the conversation: {exc.strerror}") from exc
        kernel = describe_init(self._init_request)
        self._log.info(f"the kernel speaks FUSE {kernel.major}.{kernel.minor}, resend: {kernel.has_resend}")

    def _attach(self, worker: Worker) -> None:
        """Hand the connection to the worker and give its answer to the kernel."""
        worker.channel.send(
            "attach",
            [self._fuse_fd],
            init=self._init_request.hex(),
            first=True,
            mountpoint=self._spec.mountpoint,
        )
        message = self._expect("attached", "did not take the connection")
        try:
            os.write(self._fuse_fd, bytes.fromhex(message.body["init_reply"]))
        except (KeyError, TypeError, ValueError, OSError) as exc:
            raise StartError(f"the worker's answer to the kernel is not valid: {exc!r}") from exc
        worker.channel.send("serve")
        self._expect("serving", "did not begin to serve")

    def _raise_read_ahead(self) -> list[str]:
        kib = self._request.kernel_read_ahead_kib
        if kib is None or self._entry is None:
            return []
        warnings = raise_read_ahead(self._entry.device, kib)
        for warning in warnings:
            self._log.warning(warning)
        return warnings

    def _prove(self, *, listing: bool) -> None:
        """Look through the mountpoint as any process would."""
        probe = Probe(self._spec.mountpoint, listing=listing)
        answered: list[bool] = []
        self._events.watch(probe.fileno(), lambda: answered.append(True))
        finding = Finding(Health.HUNG)
        try:
            while not answered and time.monotonic() < self._start_deadline_s:
                self._start_turn()
        finally:
            self._events.unwatch(probe.fileno())
            finding = probe.finish()
        if finding.health is Health.HUNG:
            raise StartError(f"the mount did not answer within {self._request.deadlines.start_s:g} s")
        if finding.health is not Health.OK:
            raise StartError(f"the first look through the mountpoint failed: {finding.detail}")

    def _expect(self, type_: str, complaint: str) -> Message:
        """Wait for a message of the worker.

        Raises:
            StartError: It sent ``failed``, ended, or let the deadline pass.
        """
        assert self._worker is not None
        while time.monotonic() < self._start_deadline_s:
            while self._worker.messages:
                message = self._worker.messages.popleft()
                if message.type == type_:
                    return message
                if message.type == "failed":
                    raise _failure(message)
                self._log.warning(f"the worker sent {message.type!r} while {type_!r} was expected")
            self._start_turn()
        raise StartError(f"the worker {complaint} within {self._request.deadlines.start_s:g} s")

    def _start_turn(self) -> None:
        """Take one turn of the loop.

        Raises:
            StartError: A reason to give up came up.
        """
        assert self._worker is not None
        if self._worker.has_ended() or not self._worker.is_connected:
            self._worker.drain()
            if self._worker.messages:
                return
            self._wait_for_worker(_WAIT_TURN_S)
            self._worker.drain()
            raise StartError(f"the worker {self._worker.describe_end()}")
        self._events.turn(max(0.0, min(1.0, self._start_deadline_s - time.monotonic())))
        number = self._events.take_signal()
        if number in (signal.SIGTERM, signal.SIGINT):
            raise StartError(f"interrupted by {signal.Signals(number).name}")
        if self._client_is_gone:
            raise StartError("interrupted")

    def _notice_client(self) -> None:
        assert self._client is not None
        self._events.unwatch(self._client.fileno())
        self._client_is_gone = True

    def _undo(self) -> None:
        """Leave nothing behind: neither mount nor worker."""
        if self._still_mounted():
            self._try_unmount(lazy=True)
        self._end_worker(ask_first=True)
        self._close_connection()
        if self._still_mounted():  # a helper may have hung on a worker that did; it is gone now
            self._try_unmount(lazy=True)

    def _supervise(self) -> int:
        if self._client is not None and not self._client_is_gone:
            self._notice_client()
        while not self._worker_is_over():
            self._events.turn(None)
            number = self._events.take_signal()
            if number == signal.SIGHUP and not self._log.is_standard_error:
                self._log.reopen()
            elif number is not None:
                return self._shut_down(signal.Signals(number).name)
        return self._worker_ended()

    def _worker_is_over(self) -> bool:
        assert self._worker is not None
        over = self._worker.has_ended() or not self._worker.is_connected
        if over:
            self._worker.drain()
        while self._worker.messages:
            message = self._worker.messages.popleft()
            over = over or message.type == "stopped"
            self._log.info(f"the worker says {message.type}: {message.body.get('reason', '')}")
        return over

    def _worker_ended(self) -> int:
        """Tell an unmounted filesystem from a crash."""
        assert self._worker is not None
        if not self._still_mounted():
            self._end_worker(ask_first=False)
            self._close_connection()
            self._log.info(f"{self._spec.mountpoint} was unmounted")
            return 0
        self._end_worker(ask_first=False)
        # Not unmounted: an error is better than a directory that is suddenly empty.
        self._close_connection()
        self._log.error(
            f"the worker {self._worker.describe_end()}; reads of {self._spec.mountpoint} fail until it is mounted again"
        )
        return _FAILED

    def _shut_down(self, reason: str) -> int:
        self._log.info(f"{reason}: unmounting {self._spec.mountpoint}")
        lazy = self._unmount_within_grace()
        self._end_worker(ask_first=lazy)
        self._close_connection()
        return _FAILED if self._still_mounted() else 0

    def _unmount_within_grace(self) -> bool:
        """Unmount, waiting for the last user; return whether some were left."""
        deadline_s = time.monotonic() + self._request.deadlines.unmount_grace_s
        while self._still_mounted():
            try:
                unmount(self._spec.mountpoint)
            except BusyError:
                if time.monotonic() >= deadline_s or self._events.take_signal() is not None:
                    self._log.warning(f"{self._spec.mountpoint} is in use: its open files fail from now on")
                    self._try_unmount(lazy=True)
                    return True
                self._events.turn(_BUSY_RETRY_S)
            except MountError as exc:
                self._log.error(str(exc))
                return True
        return False

    def _end_worker(self, *, ask_first: bool) -> None:
        """Wait for the worker to end by itself, then ask, then kill.

        Args:
            ask_first: Whether it has no reason to end by itself.
        """
        if self._worker is None:
            return
        stop_s = self._request.deadlines.stop_s
        if ask_first:
            self._worker.send_signal(signal.SIGTERM)
        if not self._wait_for_worker(stop_s) and not ask_first:
            self._worker.send_signal(signal.SIGTERM)
            self._wait_for_worker(stop_s)
        if not self._worker.has_ended():
            self._log.warning(f"the worker did not end within {stop_s:g} s and is killed")
            self._worker.send_signal(signal.SIGKILL)
            self._wait_for_worker(stop_s)
        self._worker.close()

    def _wait_for_worker(self, timeout_s: float) -> bool:
        assert self._worker is not None
        deadline_s = time.monotonic() + timeout_s
        while not self._worker.has_ended() and time.monotonic() < deadline_s:
            self._events.turn(min(_WAIT_TURN_S, timeout_s))
        return self._worker.has_ended()

    def _still_mounted(self) -> bool:
        entry = self._entry
        return entry is not None and any(other.mount_id == entry.mount_id for other in read_mounts())

    def _try_unmount(self, *, lazy: bool) -> None:
        try:
            unmount(self._spec.mountpoint, lazy=lazy)
        except MountError as exc:
            self._log.error(str(exc))

    def _close_connection(self) -> None:
        if self._fuse_fd >= 0:
            os.close(self._fuse_fd)
            self._fuse_fd = -1

    def _pid(self) -> int:
        return self._worker.pid if self._worker is not None else 0


def _failure(message: Message) -> StartError:
    exit_code = message.body.get("exit_code")
    text = message.body.get("message")
    return StartError(
        text if isinstance(text, str) and text else "the worker failed without saying why",
        exit_code if isinstance(exit_code, int) and exit_code > 0 else _FAILED,
    )
