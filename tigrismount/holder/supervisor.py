"""One mount from start to end: the process that owns it while workers come and go.

The supervisor holds what must outlive a worker: the mount, a duplicate of its ``/dev/fuse`` descriptor, the kernel's
INIT request and the answer to it, and the journal of node ids. It starts the worker *first* and mounts only once the
worker says that the bucket answers, so that a mistake leaves nothing behind; and it calls the mount made only once
``statvfs`` and a listing have come back through the mountpoint itself. Whatever fails on the way is undone.

The stages, each with its way out::

    check the mountpoint → start the worker → ready → mount, read INIT → attached → serving → prove → RUNNING
            │                     │             │          any failure, signal or deadline: undo, report
    RUNNING ── SIGTERM, SIGINT ──→ unmount (lazily after a grace) → stop the worker → exit 0
            ── unmounted by others → the worker sees it and stops → exit 0
            ── the worker dies ────→ TAKEOVER
            ── SIGHUP ────────────→ open the log file again
    TAKEOVER: start a successor → ready → the same INIT answer → attached → serving → RUNNING
            ── it fails ──────────→ another one, until ``succession`` says that it is enough
            ── no successor ──────→ let the connection die: reads fail with an error, never an empty directory → exit 1

While there is no worker, requests wait in the kernel: whoever reads sees a pause. One thread, one loop (``events``);
blocking calls are only those that cannot block.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any

from tigrismount.errors import MountError
from tigrismount.holder.conversation import WAIT_TURN_S, Conversation, StartError
from tigrismount.holder.events import Events
from tigrismount.holder.init import INIT_REQUEST_BYTES, describe_init
from tigrismount.holder.knobs import raise_read_ahead
from tigrismount.holder.mountinfo import MountEntry, mount_at, read_mounts
from tigrismount.holder.mounting import BusyError, check_can_mount, mount, unmount
from tigrismount.holder.preflight import prepare_mountpoint
from tigrismount.holder.probe import Finding, Health, Probe
from tigrismount.holder.request import Outcome
from tigrismount.holder.succession import Succession
from tigrismount.holder.worker import Worker

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tigrismount.holder.log import DaemonLog
    from tigrismount.holder.protocol import Message
    from tigrismount.holder.request import MountRequest

_BUSY_RETRY_S = 0.25  # how soon a busy mount is tried again
_FAILED = 1


class InterruptedBySignalError(StartError):
    """Somebody wants this process to end.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        self.signal_name = signal.Signals(number).name
        """Its name."""
        super().__init__(f"interrupted by {self.signal_name}")


class OtherAnswerError(StartError):
    """A successor would speak to the kernel in another way than was agreed; another try would, too."""


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
        self._init_reply = b""
        self._journal_fd = -1
        self._entry: MountEntry | None = None
        self._config = request.config
        self._succession = Succession(can_resend=False, outage_max_s=request.deadlines.takeover_s)

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
        check_can_mount(self._spec)
        prepare_mountpoint(self._spec.mountpoint, nonempty=self._request.nonempty, log=self._log.warning)
        if self._client is not None:
            self._events.watch(self._client.fileno(), self._notice_client)
        talk = self._start_worker(self._request.deadlines.start_s)
        ready = talk.start(config=self._config)
        self._config = _with_snapshot(self._config, ready)
        self._mount()
        self._journal_fd = os.memfd_create("tigrismount-journal", os.MFD_CLOEXEC)
        self._attach(talk)
        talk.serve()
        warnings = [*self._log.warnings, *map(str, ready.body.get("warnings", ())), *self._raise_read_ahead()]
        # A public bucket may be read and not listed: then a listing fails, rightly, and proves nothing.
        self._prove(talk, listing=ready.body.get("listable", True) is not False)
        return warnings

    def _start_worker(self, within_s: float) -> Conversation:
        """Start a worker, and return what will be said with it *within_s* seconds."""
        worker = Worker(self._request.worker_command, self._events, self._log.line, self._keep_journal)
        self._worker = worker
        return Conversation(
            worker, self._events, within_s=within_s, check=self._check_interruptions, warn=self._log.warning
        )

    def _mount(self) -> None:
        self._fuse_fd = mount(self._spec)
        self._entry = mount_at(self._spec.mountpoint)
        try:
            self._init_request = os.read(self._fuse_fd, INIT_REQUEST_BYTES)
        except OSError as exc:
            raise StartError(f"the kernel did not begin the conversation: {exc.strerror}") from exc
        kernel = describe_init(self._init_request)
        self._log.info(f"the kernel speaks FUSE {kernel.major}.{kernel.minor}, resend: {kernel.has_resend}")
        outage_max_s = self._request.deadlines.takeover_s
        self._succession = Succession(can_resend=kernel.has_resend, outage_max_s=outage_max_s)

    def _attach(self, talk: Conversation) -> None:
        """Hand the connection to a worker: the first one's answer goes to the kernel, all others' must be the same."""
        first = not self._init_reply
        reply = talk.attach(
            [self._fuse_fd, self._journal_fd],
            init=self._init_request.hex(),
            first=first,
            mountpoint=self._spec.mountpoint,
        )
        if not first:
            if reply != self._init_reply:
                raise OtherAnswerError("the next worker's FUSE library speaks to the kernel in another way")
            return
        try:
            os.write(self._fuse_fd, reply)
        except OSError as exc:
            raise StartError(f"the worker's answer to the kernel is not valid: {exc!r}") from exc
        self._init_reply = reply

    def _raise_read_ahead(self) -> list[str]:
        kib = self._request.kernel_read_ahead_kib
        if kib is None or self._entry is None:
            return []
        warnings = raise_read_ahead(self._entry.device, kib)
        for warning in warnings:
            self._log.warning(warning)
        return warnings

    def _prove(self, talk: Conversation, *, listing: bool) -> None:
        """Look through the mountpoint as any process would."""
        probe = Probe(self._spec.mountpoint, listing=listing)
        answered: list[bool] = []
        self._events.watch(probe.fileno(), lambda: answered.append(True))
        finding = Finding(Health.HUNG)
        try:
            while not answered and talk.left_s:
                talk.turn()
        finally:
            self._events.unwatch(probe.fileno())
            finding = probe.finish()
        if finding.health is Health.HUNG:
            raise StartError(f"the mount did not answer within {self._request.deadlines.start_s:g} s")
        if finding.health is not Health.OK:
            raise StartError(f"the first look through the mountpoint failed: {finding.detail}")

    def _check_interruptions(self) -> None:
        """Raise where somebody wants us to end; open the log again where somebody wants that."""
        while (number := self._events.take_signal()) is not None:
            if number != signal.SIGHUP:
                raise InterruptedBySignalError(number)
            if not self._log.is_standard_error:
                self._log.reopen()
        if self._client_is_gone:
            raise StartError("interrupted")

    def _keep_journal(self, fd: int) -> None:
        """Take the journal that a worker has written anew in the place of the old one."""
        os.close(self._journal_fd)
        self._journal_fd = fd

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
        self._client_is_gone = False  # it has its answer, and its end means nothing any more
        status = None
        try:
            while status is None:
                while not self._worker_is_over():
                    self._events.turn(None)
                    self._check_interruptions()
                status = self._worker_ended()
        except InterruptedBySignalError as exc:
            return self._shut_down(exc.signal_name)
        return status

    def _worker_is_over(self) -> bool:
        assert self._worker is not None
        over = self._worker.has_ended() or not self._worker.is_connected
        if over:
            self._worker.drain()
        while self._worker.messages:
            message = self._worker.messages.popleft()
            over = over or message.type in ("stopped", "failed")
            detail = message.body.get("reason") or message.body.get("message", "")
            self._log.info(f"the worker says {message.type}: {detail}")
        return over

    def _worker_ended(self) -> int | None:
        """Tell an unmounted filesystem from a crash; return the exit status, None where a successor serves."""
        assert self._worker is not None
        self._end_worker(ask_first=False)
        if self._is_connected():
            self._succession.note_death(time.monotonic(), self._worker.describe_end())
            refusal = self._take_over()
            if not refusal:
                return None
        else:
            refusal = "the kernel has ended the connection"
        if not self._is_connected() and not self._still_mounted():
            self._close_connection()
            self._log.info(f"{self._spec.mountpoint} was unmounted")
            return 0
        # Not unmounted: an error is better than a directory that is suddenly empty.
        self._close_connection()
        how = self._succession.reason or self._worker.describe_end()
        mountpoint = self._spec.mountpoint
        self._log.error(f"the worker {how}; {refusal}; reads of {mountpoint} fail until it is mounted again")
        return _FAILED

    def _take_over(self) -> str:
        """Put a successor in the place of the worker that ended; return why not, empty where it serves."""
        succession = self._succession
        while not (refusal := succession.refusal(time.monotonic())):
            if not self._is_connected():
                return "the kernel has ended the connection"
            try:
                self._succeed()
            except InterruptedBySignalError:
                self._kill_worker()
                raise
            except (StartError, MountError) as exc:
                self._kill_worker()
                if isinstance(exc, OtherAnswerError):
                    return str(exc)
                succession.note_failure(time.monotonic())
                self._log.warning(f"another worker did not come to serve: {exc}")
                self._pause(min(succession.pause_s(), succession.left_s(time.monotonic())))
            else:
                return ""
        return refusal

    def _succeed(self) -> None:
        """Start one successor, up to where it serves."""
        succession = self._succession
        began_s = time.monotonic()
        self._log.warning(f"the worker {succession.reason}; starting another one")
        talk = self._start_worker(succession.left_s(began_s))
        talk.start(config=self._config, takeovers=succession.count + 1, takeover_reason=succession.reason)
        self._attach(talk)
        talk.serve()
        succession.note_served()
        self._log.info(f"worker {self._pid()} has taken over after {time.monotonic() - began_s:.2f} s")

    def _kill_worker(self) -> None:
        """End a worker that never served: it has nothing to finish."""
        assert self._worker is not None
        self._worker.send_signal(signal.SIGKILL)
        self._end_worker(ask_first=False)

    def _pause(self, pause_s: float) -> None:
        deadline_s = time.monotonic() + pause_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            self._events.turn(left_s)
            self._check_interruptions()

    def _is_connected(self) -> bool:
        """Whether the kernel still speaks to whoever holds the descriptor: also after a lazy unmount, if in use."""
        poll = select.poll()
        poll.register(self._fuse_fd, 0)
        return not poll.poll(0)

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
            self._events.turn(min(WAIT_TURN_S, timeout_s))
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
        for fd in (self._fuse_fd, self._journal_fd):
            if fd >= 0:
                os.close(fd)
        self._fuse_fd = self._journal_fd = -1

    def _pid(self) -> int:
        return self._worker.pid if self._worker is not None else 0


def _with_snapshot(config: dict[str, Any], ready: Message) -> dict[str, Any]:
    """Return *config* with the version that the first worker found for its snapshot, for all workers after it."""
    version = ready.body.get("snapshot_version")
    if version is None:
        return config
    return {**config, "s3": {**config["s3"], "snapshot_version": version}}
