"""Starting a supervisor: in a session of its own for a background mount, in this process for ``-f``."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from tigrismount.errors import MountError
from tigrismount.holder.heirloom import Heirloom, read_memory_file
from tigrismount.holder.log import DaemonLog
from tigrismount.holder.request import MountRequest, Outcome
from tigrismount.holder.supervisor import LOST, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES = 64 << 10


def start_in_background(request: MountRequest) -> Outcome:
    """Start a supervisor that outlives this process, and return once its mount serves or has failed.

    When this process ends before that, the supervisor undoes what it has begun.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tigrismount.holder", "--status-fd", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as exc:  # such as an interpreter in the home directory of somebody else
            what = f"{sys.executable}: cannot be started: {exc.strerror}"
            return Outcome(ok=False, exit_code=1, message=f"{what}; install tigrismount where this user may run it")
        theirs.close()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:  # it may have ended already; it says why below
            process.stdin.write(request.to_json())
        outcome = _read_outcome(ours)
    if outcome.ok:
        process.returncode = 0  # it outlives us and is not ours to wait for
    else:
        process.wait()
    return outcome


def run_in_foreground(request: MountRequest, report: Callable[[Outcome], None], *, is_held: bool = False) -> int:
    """Be the supervisor, until the mount ends.

    Args:
        request: What to mount.
        report: Told once how starting went.
        is_held: Whether systemd holds the mount: its descriptors come from there.

    Returns:
        The exit status.

    Raises:
        MountError: The log file cannot be opened.
    """
    log = _open_log(request, foreground=True)
    try:
        return Supervisor(request, log, report, is_held=is_held).run()
    finally:
        log.close()


def run_as_daemon(status_fd: int) -> int:
    """Be the supervisor that ``start_in_background`` has started: the request comes from standard input.

    Args:
        status_fd: Where the outcome is written.

    Returns:
        The exit status.
    """
    with socket.socket(fileno=status_fd) as status:
        try:
            request = MountRequest.from_json(sys.stdin.buffer.read())
            log = _open_log(request, foreground=False)
        except MountError as exc:
            status.sendall(Outcome(ok=False, exit_code=1, message=str(exc)).to_json())
            return 1
        os.chdir("/")  # keep no filesystem busy
        try:
            return Supervisor(request, log, lambda outcome: _report(status, outcome), status).run()
        finally:
            log.close()


def run_resumed(state_fd: int) -> int:
    """Be the supervisor in the place of the one that executed this program.

    Args:
        state_fd: Where it left its state.

    Returns:
        The exit status.

    Raises:
        MountError: The state is not valid; the worker goes on, with nobody to look after it.
    """
    heirloom = Heirloom.from_bytes(read_memory_file(state_fd))
    os.close(state_fd)
    for fd in heirloom.fds.values():
        os.set_inheritable(fd, False)
    try:
        return _resume(heirloom)
    except Exception as exc:
        if not heirloom.held_by_systemd:
            raise
        # As the supervisor itself does: any other status would have the mount taken for one that never served.
        with contextlib.suppress(OSError):  # nobody reads it any more
            print(f"tigrismount: the mount is left to the next start: {exc!r}", file=sys.stderr, flush=True)  # noqa: T201
        return LOST


def _resume(heirloom: Heirloom) -> int:
    request = heirloom.mount_request()
    log = _open_log(request, foreground=heirloom.foreground)
    try:
        return Supervisor(request, log, lambda _: None, is_held=heirloom.held_by_systemd).resume(heirloom)
    finally:
        log.close()


def _open_log(request: MountRequest, *, foreground: bool) -> DaemonLog:
    config = request.config
    return DaemonLog(
        path=config["log_file"],
        foreground=foreground,
        level=config["log_level"],
        json_lines=config["log_format"] == "json",
    )


def _report(status: socket.socket, outcome: Outcome) -> None:
    """Tell who started us, and from then on hold nothing of theirs: a terminal or pipe must not wait for a daemon."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    with contextlib.suppress(OSError):  # they have gone; the mount stays, as it would a moment later
        status.sendall(outcome.to_json())
        status.shutdown(socket.SHUT_RDWR)


def _read_outcome(status: socket.socket) -> Outcome:
    data = bytearray()
    while received := status.recv(_READ_BYTES):
        data += received
    try:
        return Outcome.from_json(bytes(data))
    except MountError as exc:
        return Outcome(ok=False, exit_code=1, message=exc.detail)
