"""Asking a mounted filesystem whether it answers, without being taken hostage.

A system call on a FUSE filesystem whose daemon is stuck does not return, and cannot always be interrupted. So a
forked child makes the calls and writes what it saw into a pipe; the parent waits as long as it likes. The child keeps
no other descriptor open: with a copy of the ``/dev/fuse`` descriptor it would keep alive the very connection that it
hangs on.

``statvfs`` comes first because it is never answered from the kernel's caches: ``stat`` of the root of a dead mount
still succeeds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from dataclasses import dataclass
from enum import Enum

from tigrismount.errors import MountError

_REAP_TIMEOUT_S = 1.0
_DEAD_ERRNOS = (errno.ENOTCONN, errno.ECONNABORTED)
_OK = b"ok"


class Health(Enum):
    """What a probe found."""

    OK = "ok"
    """It answered."""
    DEAD = "dead"
    """Nobody serves it: ``Transport endpoint is not connected``."""
    FAILED = "failed"
    """It answered with an error."""
    HUNG = "not answering"
    """It did not answer in time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of a probe."""

    health: Health
    """In one word."""
    detail: str = ""
    """The failed call and its error, where there was one."""


class Probe:
    """A child that calls ``statvfs``, and lists the directory's beginning if asked to.

    Args:
        path: What to ask about.
        listing: Whether one page of the listing is read as well.

    Raises:
        MountError: There can be no child at the moment.
    """

    def __init__(self, path: str, *, listing: bool = False) -> None:
        fds: tuple[int, ...] = ()
        try:
            fds = self._result_fd, write_fd = os.pipe()
            self._pid = os.fork()
        except OSError as exc:
            for fd in fds:
                os.close(fd)
            raise MountError(f"{path}: cannot be looked at: no process can be started: {exc.strerror}") from exc
        if self._pid == 0:
            _child(path, listing, write_fd)
        os.close(write_fd)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable once there is a finding."""
        return self._result_fd

    def finish(self) -> Finding:
        """Return what was found so far, ``HUNG`` when the child has not answered; the child is stopped.

        A child that even a kill cannot end at once is left to the kernel: it ends when the connection is aborted.
        """
        ready, _, _ = select.select([self._result_fd], [], [], 0)
        result = os.read(self._result_fd, 4096) if ready else b""
        os.close(self._result_fd)
        if not ready:  # else it has ended or is about to, and its number may be another's
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        _reap(self._pid, _REAP_TIMEOUT_S if ready else 0.05)
        return finding_from(result, answered=bool(ready))


def probe(path: str, *, timeout_s: float, listing: bool = False) -> Finding:
    """Return whether the filesystem at *path* answers.

    Args:
        path: What to ask about.
        timeout_s: Seconds to wait.
        listing: Whether one page of the listing is read as well.

    Raises:
        MountError: It cannot be asked at the moment.
    """
    started = Probe(path, listing=listing)
    select.select([started], [], [], timeout_s)
    return started.finish()


def _child(path: str, listing: bool, write_fd: int) -> None:
    """Make the calls and exit; never returns, whatever happens."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(write_fd, 0)
        for fd in os.listdir("/proc/self/fd"):
            if fd != "0":
                with contextlib.suppress(OSError):  # the one that listed them is gone already
                    os.close(int(fd))
        os.write(0, _ask(path, listing))
    finally:
        os._exit(0)


def _ask(path: str, listing: bool) -> bytes:
    call = "statvfs"
    try:
        os.statvfs(path)
        if listing:
            call = "listing"
            with os.scandir(path) as entries:
                next(entries, None)
    except OSError as exc:
        return f"{call} {exc.errno}".encode()
    return _OK


def finding_from(result: bytes, *, answered: bool) -> Finding:
    """Return what a child has found.

    Args:
        result: What it wrote: ``ok``, or a call and the number of its error.
        answered: Whether it wrote at all.
    """
    if not answered:
        return Finding(Health.HUNG)
    if result == _OK:
        return Finding(Health.OK)
    if not result:
        return Finding(Health.FAILED, "the process that looked ended before it had an answer")
    call, _, number = result.decode(errors="replace").partition(" ")
    code = int(number) if number.isdecimal() else errno.EIO
    return Finding(Health.DEAD if code in _DEAD_ERRNOS else Health.FAILED, f"{call}: {os.strerror(code)}")


def _reap(pid: int, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    with contextlib.suppress(ChildProcessError):  # whoever started us ignores the ends of children: the kernel reaps
        while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline_s:
            time.sleep(0.005)
