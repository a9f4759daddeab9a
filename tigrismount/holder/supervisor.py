"""One mount from start to end: the process that owns it while workers come and go.

The supervisor holds what must outlive a worker (``connection``). It starts the worker *first* and mounts only once the
worker says that the bucket answers, so that a mistake leaves nothing behind; and it calls the mount made only once
``statvfs`` and a listing have come back through the mountpoint itself. Whatever fails on the way is undone.

The stages, each with its way out::

    check the mountpoint → start the worker → ready → mount, read INIT → attached → serving → prove → RUNNING
            │                     │             │          any failure, signal or deadline: undo, report
    RUNNING ── SIGTERM, SIGINT ──→ unmount (lazily after a grace) → stop the worker → exit 0
            ── unmounted by others → the worker sees it and stops → exit 0
            ── the worker dies ────→ take over (``replacement``); the same where it hangs (``watchdog``): it is killed
            ── SIGHUP ────────────→ open the log file again, execute the installed program (``heirloom``), hand over
            ── worker: leaving ────→ hand over
    no successor: let the connection die: reads fail with an error, never an empty directory → mount anew, or exit

Under systemd somebody privileged mounts and unmounts (``helper``), and the descriptors come from systemd's store.

While there is no worker, requests wait in the kernel: whoever reads sees a pause. One thread, one loop (``events``);
blocking calls are only those that cannot block.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tigrismount.errors import MountError
from tigrismount.holder.connection import Connection
from tigrismount.holder.conversation import InterruptedBySignalError, StartError, warnings_of
from tigrismount.holder.events import FOR_WORKERS, Events
from tigrismount.holder.heirloom import Heirloom, execute
from tigrismount.holder.mounting import check_can_mount
from tigrismount.holder.notify import Notifier
from tigrismount.holder.preflight import prepare_mountpoint, prove
from tigrismount.holder.protocol import Channel
from tigrismount.holder.reload import Reload, another_mount
from tigrismount.holder.replacement import Replacement
from tigrismount.holder.request import MountRequest, Outcome, keep_snapshot, with_snapshot
from tigrismount.holder.store import Store
from tigrismount.holder.watchdog import Watchdog
from tigrismount.holder.worker import Worker
from tigrismount.holder.workers import Workers

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tigrismount.holder.log import DaemonLog

_FAILED = 1
LOST = 69
"""Exit status of a supervisor whose mount served and was lost (EX_UNAVAILABLE): not to be mistaken for a failed start,
after which nothing is left mounted."""
_AWAY_S = 32.0
"""How long a start under systemd takes at least where the store does not answer. A unit that fails ten times in five
minutes is given up there (``StartLimitBurst``), and a store, or the network after a boot, may be away for longer."""


class Supervisor:
    """Makes one mount and looks after it.

    Args:
        request: What to mount.
        log: Where messages go; closed by the caller.
        report: Told once how starting went.
        client: Connection of who asked; when it closes before the report, nobody wants the mount any more.
        is_held: Whether systemd holds the descriptors too: they come from its store, and others unmount.
    """

    def __init__(
        self,
        request: MountRequest,
        log: DaemonLog,
        report: Callable[[Outcome], None],
        client: socket.socket | None = None,
        *,
        is_held: bool = False,
    ) -> None:
        self._request = request
        self._log = log
        self._report = report
        self._client = client
        self._client_is_gone = False
        self._is_held = is_held
        self._wants_upgrade = False
        self._serves = False
        self._notify = Notifier(os.environ)
        self._events = Events()
        self._connection = Connection(request.spec, log.error, may_unmount=not is_held)
        self._store = Store(self._notify, is_used=is_held)
        self._workers = Workers(
            request.worker_command,
            self._events,
            log,
            stop_s=request.deadlines.stop_s,
            keep_journal=self._connection.keep_journal,
            keep_key=self._keep_key,
            check=self._check_interruptions,
        )
        self._replacement = Replacement(self._connection, self._workers, log, request)
        self._watchdog = Watchdog(request.spec.mountpoint, request.deadlines.hang_s)

    def run(self) -> int:
        """Mount, serve until the end, and return the exit status."""
        began_s = time.monotonic()
        with self._events:
            try:
                warnings = self._start()
                self._log.info(
                    f"{self._request.spec.fsname} is mounted on {self._request.spec.mountpoint}, "
                    f"served by {self._workers.pid}"
                )
                pid, worker_pid = os.getpid(), self._workers.pid
                self._report(Outcome(ok=True, pid=pid, worker_pid=worker_pid, warnings=tuple(warnings)))
                return self._supervise()
            except (MountError, StartError) as exc:
                self._undo()
                if not self._log.is_standard_error:
                    self._log.error(f"{self._request.spec.mountpoint}: not mounted: {exc}")
                exit_code = exc.exit_code if isinstance(exc, StartError) else _FAILED
                self._report(Outcome(ok=False, exit_code=exit_code, message=str(exc)))
                is_away = isinstance(exc, StartError) and exc.kind == "unreachable"
                if is_away and self._client is None and self._notify.is_heard:
                    self._wait_until(began_s + _AWAY_S)
                return exit_code
            except BaseException as exc:  # a mistake of ours must not leave a mount that nobody looks after
                if self._is_held and self._serves and isinstance(exc, Exception):
                    return self._leave_to_next_start(exc)
                self._undo()
                raise

    def _wait_until(self, time_s: float) -> None:
        """Wait, if nobody wants this process to end."""
        while (left_s := time_s - time.monotonic()) > 0:
            while (number := self._events.take_signal()) is not None:
                if number in (signal.SIGTERM, signal.SIGINT):
                    return
            self._events.turn(left_s)

    def resume(self, heirloom: Heirloom) -> int:
        """Go on where the program before this one executed this one: replace its worker, serve until the end."""
        with self._events:
            self._adopt(heirloom)
            fds = heirloom.fds
            worker = Worker(
                heirloom.worker_pid,
                Channel.from_fd(fds["channel"]),
                fds["output"],
                self._events,
                self._log.line,
                self._connection.keep_journal,
                self._keep_key,
            )
            self._workers.adopt(worker)
            self._serves = True
            self._replacement.served = heirloom.served or None
            self._log.info(f"the supervisor was executed anew; replacing worker {worker.pid}")
            self._notify.say("WATCHDOG=1")  # asking the installed program and making the successor ready may take long
            try:
                self._hand_over("was replaced for an upgrade or a reload", heirloom.refusal)
            except InterruptedBySignalError as exc:
                return self._shut_down(exc.signal_name)
            return self._supervise()

    # ------------------------------------------------------------------ starting

    def _start(self) -> list[str]:
        """Go through the stages up to RUNNING; return warnings."""
        if self._client is not None:
            self._events.watch(self._client.fileno(), self._notice_client)
        if self._is_held and self._take_from_systemd():
            return []
        if not self._is_held:
            check_can_mount(self._request.spec)
            nonempty = self._request.nonempty
            prepare_mountpoint(self._request.spec.mountpoint, nonempty=nonempty, log=self._log.warning)
        return [*self._log.warnings, *self._make()]

    def _make(self) -> list[str]:
        """Start the first worker of a connection, mount, and prove that the mount answers; return warnings."""
        talk = self._workers.start(self._request.deadlines.start_s)
        self._workers.current = talk.worker
        replacement = self._replacement
        ready = talk.start(config=replacement.config, **replacement.history(), **replacement.private)
        self._replacement.config = with_snapshot(self._replacement.config, ready.body.get("snapshot_version"))
        if not self._is_held:
            self._connection.mount()
        self._replacement.begin()
        kernel = self._connection.kernel
        self._log.info(f"the kernel speaks FUSE {kernel.major}.{kernel.minor}, resend: {kernel.has_resend}")
        self._replacement.attach(talk)
        warnings = [*warnings_of(ready), *talk.serve()]
        if not self._is_held:
            raised = self._connection.raise_read_ahead(self._request.kernel_read_ahead_kib)
            warnings += raised
            for warning in raised:
                self._log.warning(warning)
        # A public bucket may be read and not listed: then a listing fails, rightly, and proves nothing.
        listable = ready.body.get("listable", True) is not False and not self._replacement.succession.count
        prove(self._request.spec.mountpoint, talk, self._events, listing=listable)
        self._begin_to_serve()
        return warnings

    def _begin_to_serve(self) -> None:
        self._serves = True
        self._watchdog.reset()
        self._leave_with_systemd()
        status = f"serving {self._request.spec.fsname}, takeovers: {self._replacement.succession.count}"
        self._notify.say("READY=1", f"STATUS={status}")

    def _check_interruptions(self) -> None:
        """Raise where somebody wants us to end; note where somebody wants an upgrade, and open the log again."""
        while (number := self._events.take_signal()) is not None:
            if number in FOR_WORKERS:
                if self._workers.current is not None:
                    self._workers.current.send_signal(number)
                continue
            if number != signal.SIGHUP:
                raise InterruptedBySignalError(number)
            if not self._log.is_standard_error:
                self._log.reopen()
            if self._serves or self._replacement.succession.count:  # a mount that is made anew has served
                self._wants_upgrade = True
        worker = self._workers.current
        if self._serves and worker is not None and worker.has_ended():
            self._replacement.succession.note_outage(time.monotonic())
        if self._client_is_gone:
            raise StartError("interrupted")

    def _keep_key(self, key: object) -> None:
        self._replacement.private = {"key": key}

    def _notice_client(self) -> None:
        assert self._client is not None
        self._events.unwatch(self._client.fileno())
        self._client_is_gone = True

    def _undo(self) -> None:
        """Leave nothing behind: neither mount nor worker."""
        self._undo_mount()
        self._workers.end_all(ask_first=True)
        self._let_go()
        self._undo_mount()  # a helper may have hung on a worker that did; it is gone now

    def _undo_mount(self) -> None:
        try:
            if self._connection.is_mounted():
                self._connection.try_unmount(lazy=True)
        except OSError as exc:  # such as no descriptor left on this machine: the list of mounts cannot be read
            self._log.error(f"{self._request.spec.mountpoint} may be left mounted: {exc.strerror}")

    # ------------------------------------------------------------------ serving

    def _supervise(self) -> int:
        if self._client is not None and not self._client_is_gone:
            self._notice_client()
        self._client_is_gone = False  # it has its answer, and its end means nothing any more
        status = None
        try:
            while status is None:
                status = self._turn()
        except InterruptedBySignalError as exc:
            return self._shut_down(exc.signal_name)
        except Exception as exc:
            if not self._is_held:
                raise
            return self._leave_to_next_start(exc)
        return status

    def _leave_to_next_start(self, exc: Exception) -> int:
        """Return the exit status after a mistake of ours, behind a mount that has served.

        systemd has all that the mount needs: the next start takes over, as after a kill.
        """
        self._log.error(f"{self._request.spec.mountpoint} is left to the next start: {exc!r}")
        return LOST

    def _turn(self) -> int | None:
        """Wait for the next event and see to what follows; return the exit status at the end."""
        worker = self._workers.current
        assert worker is not None
        self._events.turn(self._watchdog.wait_s())
        self._check_interruptions()
        self._workers.reap()
        # The worker sees an unmount by itself; but what it has in service then may keep it, and can reach nobody.
        if self._worker_is_over(worker) or not self._connection.is_connected():
            how = worker.describe_end()
            self._workers.end(worker, ask_first=False)
            return self._worker_ended(worker.describe_end() if worker.has_ended() else how)
        hang = self._watchdog.turn(worker)
        if hang:
            self._log.warning(f"the worker {hang} and is killed")
            self._workers.kill(worker)
            return self._worker_ended(f"{hang} and was killed")
        if self._watchdog.has_progress:
            self._notify.say("WATCHDOG=1")
        if self._wants_upgrade and not self._workers.has_retired():  # nobody would see to their end behind an exec
            self._upgrade()
        self._leave_with_systemd()
        return None

    def _worker_is_over(self, worker: Worker) -> bool:
        over = worker.has_ended() or worker.is_hollow() or not worker.is_connected
        if over:
            worker.drain()
        while worker.messages:
            message = worker.messages.popleft()
            over = over or message.type in ("stopped", "failed")
            detail = message.body.get("reason") or message.body.get("message", "")
            if message.type == "failed":
                worker.last_line = str(detail)
            self._log.info(f"the worker says {message.type}: {detail}")
            if message.type == "leaving" and not over:
                self._hand_over("was told to end")
                break
        return over

    def _worker_ended(self, how: str) -> int | None:
        """Tell an unmounted filesystem from a crash; return the exit status, None where a successor serves."""
        connection, spec = self._connection, self._request.spec
        refusal = "the kernel has ended the connection"
        if connection.is_connected():
            refusal = self._replacement.take_over(how)
            if not refusal:
                self._begin_to_serve()
                return None
        # What was unmounted lazily lasted for who had files open, and is to be made anew for nobody.
        may_remount = self._replacement.may_remount and not self._is_held
        if (may_remount or not connection.is_connected()) and not connection.is_mounted():
            self._let_go()
            connection.remove_lost()
            self._log.info(f"{spec.mountpoint} was unmounted")
            return 0
        # Not unmounted: an error is better than a directory that is suddenly empty.
        self._let_go()
        if may_remount and self._remount(how, refusal):
            return None
        self._log.error(f"the worker {how}; {refusal}; reads of {spec.mountpoint} fail until it is mounted again")
        return LOST if self._is_held else _FAILED

    def _remount(self, how: str, refusal: str) -> bool:
        """Mount anew over the mount that is lost, or in its place: at no time can the directory below be seen."""
        self._log.warning(f"the worker {how}; {refusal}; mounting anew: files that are open fail")
        self._serves = False
        self._connection.leave_below()
        self._replacement.succession.note_remounted()
        try:
            self._make()
        except InterruptedBySignalError:
            raise
        except (MountError, StartError) as exc:
            self._log.error(f"{self._request.spec.mountpoint} could not be mounted anew: {exc}")
            if self._connection.lost:  # it hides the directory below
                self._undo()
            else:  # a plain user's had to go first: what took its place stays, dead
                self._workers.end_all(ask_first=True)
                self._let_go()
            return False
        return True

    def _hand_over(self, reason: str, complaint: str = "") -> None:
        """Replace a worker that serves; where that fails, it goes on serving."""
        failure = self._replacement.hand_over(reason)
        if not failure:
            self._begin_to_serve()
        self._replacement.note(failure or complaint)
        self._notify.say("READY=1")

    def _upgrade(self) -> None:
        """Execute the installed program in the place of this one, which then replaces the worker."""
        self._wants_upgrade = False
        self._notify.say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        reload = Reload(self._request, self._events, self._check_interruptions)
        request, refusal = reload.ask()
        if not refusal:
            request = replace(request, config=keep_snapshot(request.config, self._replacement.config))
            self._watchdog.reset()  # nobody would wait for the end of its child behind an exec
            if self._wants_upgrade:  # meanwhile: what was read is no longer how it is
                self._events.signals.append(signal.SIGHUP)
            try:
                execute(self._heirloom(request, with_worker=True), self._events)
            except OSError as exc:
                refusal = f"the installed program cannot be executed: {exc.strerror}"
        self._log.warning(f"not upgraded: {refusal}")
        self._replacement.note(refusal)
        self._notify.say("READY=1")

    # ------------------------------------------------------------------ what others keep

    def _heirloom(self, request: MountRequest, *, with_worker: bool) -> Heirloom:
        worker, connection, succession = self._workers.current, self._connection, self._replacement.succession
        fds: dict[str, int] = {}
        known = (-1, "")
        if with_worker and worker is not None:
            known = (0, "") if connection.entry is None else (connection.entry.mount_id, connection.entry.device)
            channel_fd, output_fd = worker.inherit()
            fds = {"fuse": connection.fuse_fd, "journal": connection.journal_fd}
            fds |= {"channel": channel_fd, "output": output_fd}
            fds |= {"covered": connection.covered_fd} if connection.covered_fd >= 0 else {}
        return Heirloom(
            request=request.to_values(),
            init_request=connection.init_request.hex(),
            init_reply=connection.init_reply.hex(),
            count=succession.count,
            reason=succession.reason,
            held_by_systemd=self._is_held,
            foreground=self._log.is_foreground,
            worker_pid=self._workers.pid,
            fds=fds,
            journal=self._store.journal,
            journal_is_there=self._store.has_journal(connection),
            lost=connection.lost,
            mount_id=known[0],
            device=known[1],
            served=self._replacement.config if with_worker else {},
            private=self._replacement.private if with_worker else {},
        )

    def _adopt(self, heirloom: Heirloom) -> None:
        fds = heirloom.fds
        init = bytes.fromhex(heirloom.init_request), bytes.fromhex(heirloom.init_reply)
        covered_fd = fds.get("covered", -1)
        known = (heirloom.mount_id, heirloom.device) if heirloom.mount_id >= 0 else None
        self._connection.adopt(fds["fuse"], fds.get("journal", -1), *init, covered_fd, heirloom.lost, known)
        self._store.go_on(heirloom, self._connection)
        self._replacement.begin()
        succession = self._replacement.succession
        succession.count, succession.reason = heirloom.count, heirloom.reason
        self._replacement.private = heirloom.private

    def _take_from_systemd(self) -> bool:
        """Take what systemd keeps; return whether a worker has taken over from one that served before."""
        fuse_fd, init_request, heirloom = self._store.take()
        if heirloom is None:
            self._connection.adopt(fuse_fd, -1, init_request, b"")
            return False
        self._serves = True
        self._replacement.served = heirloom.request["config"]
        self._replacement.config = self._go_on(heirloom.request["config"])
        spec = self._connection.spec = self._request.spec
        self._watchdog = Watchdog(spec.mountpoint, self._request.deadlines.hang_s)
        self._adopt(heirloom)
        refusal = self._replacement.take_over("and its supervisor ended")
        if refusal:
            self._let_go()
            raise StartError(f"no worker could take over: {refusal}", LOST)
        self._begin_to_serve()
        return True

    def _go_on(self, before: dict[str, Any]) -> dict[str, Any]:
        """Return the configuration of today for a mount that was made by *before*; that one where it is of another."""
        other = another_mount(self._request.config, before)
        if not other:
            return keep_snapshot(self._request.config, before)
        self._log.warning(f"{other}: {self._request.spec.mountpoint} goes on as it was until the unit is restarted")
        self._request = replace(self._request, config=before)
        return before

    def _leave_with_systemd(self) -> None:
        if self._serves and not self._store.is_current(self._connection, self._replacement.succession.count):
            request = replace(self._request, config=self._replacement.config)
            self._store.leave(self._connection, self._heirloom(request, with_worker=False))

    def _let_go(self) -> None:
        """Hold the connection no longer, nor let systemd: who waits for it gets an error."""
        self._connection.close()
        self._store.clear()

    # ------------------------------------------------------------------ ending

    def _shut_down(self, reason: str) -> int:
        self._notify.say("STOPPING=1")
        mountpoint = self._request.spec.mountpoint
        self._watchdog.reset()
        if self._is_held:
            self._log.info(f"{reason}: {mountpoint} is served no longer")
            self._workers.end_all(ask_first=True)
            self._connection.close()
            return 0
        self._log.info(f"{reason}: unmounting {mountpoint}")
        lazy = self._connection.unmount_within(self._request.deadlines.unmount_grace_s, self._events, self._log.warning)
        self._workers.end_all(ask_first=lazy)
        self._connection.close()
        self._connection.remove_lost()
        return _FAILED if self._connection.is_mounted() else 0
