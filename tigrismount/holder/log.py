"""Where the supervisor's and the worker's messages go: a file, the system log, or standard error.

The worker writes its log to its standard error, line by line and already formatted; the supervisor passes the lines on
as they are, so that a crash's last words are kept whoever wrote them, and adds its own in the same shape. The logging
package is not used: it would be a third of the supervisor's memory.

Source: syslog(3), RFC 3164 for the priority prefix of ``/dev/log``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import stat
import threading
import time

from tigrismount.errors import MountError

_LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3}  # syslog severities
_FACILITY_DAEMON = 3 << 3
_SYSLOG_PATH = "/dev/log"
_MAX_SYSLOG_BYTES = 8 << 10  # journald and rsyslog take this much; longer lines would be lost whole
_SYSLOG_GONE = (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE)  # it was started anew
_FILE_MODE = 0o640
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # the last for pipes and terminals
_PATIENCE_MS = 100  # a reader that is only slow takes less; one that has stopped must not stop a mount
_turn = threading.Lock()  # of two threads that find room for one, the other would wait, where writing cannot but wait


class DaemonLog:
    """One destination of log lines.

    Args:
        path: File to append to; None for the default destination.
        foreground: Whether the default destination is standard error instead of the system log.
        level: Least severe own messages that are written.
        json_lines: Whether own messages are JSON objects.

    Raises:
        MountError: The file cannot be opened.
    """

    def __init__(self, *, path: str | None, foreground: bool, level: str, json_lines: bool) -> None:
        self._path = path
        self.is_foreground = foreground
        """Whether the default destination is standard error."""
        self._level = _LEVELS[level]
        self._json_lines = json_lines
        self._is_standard_error = path is None and foreground
        self._is_read = True
        """Whether what is no file has taken all that was written last."""
        self._fd = -1
        self._syslog: socket.socket | None = None
        if path is not None:
            self._fd = _open(path)
        elif foreground:
            self._fd = _open_standard_error()
        else:
            self._syslog = _connect_syslog()

    @property
    def warnings(self) -> list[str]:
        """What a person should know about where the messages go."""
        lost = self._fd < 0 and self._syslog is None
        return ["there is no system log here, so messages are lost: pass --log-file"] if lost else []

    @property
    def is_standard_error(self) -> bool:
        """Whether a person reads along: they need no line twice, and their terminal's end is the mount's."""
        return self._is_standard_error

    def info(self, message: str) -> None:
        """Write what an operator wants to see."""
        self._message("info", message)

    def warning(self, message: str) -> None:
        """Write what an operator should look at."""
        self._message("warning", message)

    def error(self, message: str) -> None:
        """Write what an operator must look at."""
        self._message("error", message)

    def line(self, line: str) -> None:
        """Write a line of the worker as it is."""
        self._write(line, _LEVELS["info"])

    def reopen(self) -> None:
        """Open the file again after it was rotated away; goes on with the old one where that fails."""
        if self._path is not None:
            with contextlib.suppress(MountError):
                fresh = _open(self._path)
                os.close(self._fd)
                self._fd = fresh

    @staticmethod
    def check(path: str | None) -> None:
        """Raise where *path* cannot be written to.

        Raises:
            MountError: It cannot be opened.
        """
        if path is not None:
            os.close(_open(path))

    def close(self) -> None:
        """Let go of the destination. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._syslog is not None:
            self._syslog.close()
            self._syslog = None

    def _message(self, level: str, message: str) -> None:
        if _LEVELS[level] > self._level:
            return
        now_s = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{int(now_s * 1000) % 1000:03d}Z"
        if self._json_lines:
            fields = {"time": stamp, "level": level, "logger": "tigrismount.holder", "message": message}
            self._write(json.dumps(fields), _LEVELS[level])
        else:
            self._write(f"{stamp} {level.upper()} tigrismount.holder: {message}", _LEVELS[level])

    def _write(self, line: str, severity: int) -> None:
        data = line.encode(errors="backslashreplace")
        # A full disk, a log daemon that is away or a reader that has stopped must not stop a mount.
        with contextlib.suppress(OSError):
            if self._fd >= 0 and stat.S_ISREG(os.fstat(self._fd).st_mode):
                os.write(self._fd, data + b"\n")
            elif self._fd >= 0:
                self._write_in_turn(data + b"\n")
            elif self._syslog is not None:
                prefix = f"<{_FACILITY_DAEMON | severity}>tigrismount[{os.getpid()}]: ".encode()
                self._send_to_syslog(self._syslog, prefix + data[:_MAX_SYSLOG_BYTES])

    def _send_to_syslog(self, syslog: socket.socket, data: bytes) -> None:
        try:
            syslog.send(data)
        except OSError as exc:
            if exc.errno not in _SYSLOG_GONE:
                raise
            fresh = _connect_syslog()
            if fresh is None:
                raise
            syslog.close()
            self._syslog = fresh
            fresh.send(data)

    def _write_in_turn(self, data: bytes) -> None:
        """Write to a reader when no other thread does, with no more patience for those threads than for the reader."""
        if not _turn.acquire(timeout=_PATIENCE_MS / 1000 if self._is_read else 0.0):
            self._is_read = False
            return
        try:
            self._write_to_reader(data)
        finally:
            _turn.release()

    def _write_to_reader(self, data: bytes) -> None:
        """Write to whoever reads a pipe or a terminal, as far as they do: what they do not take soon is lost."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while data:
            self._is_read = bool(poll.poll(_PATIENCE_MS if self._is_read else 0))
            if not self._is_read:
                return
            # So much a pipe takes where it takes anything. A terminal may take less, and would wait if it could.
            data = data[os.write(self._fd, data[: select.PIPE_BUF]) :]


def _open(path: str) -> int:
    try:
        try:
            return os.open(path, os.O_CREAT | _FLAGS, _FILE_MODE)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            # A pipe whose reader has not come yet, or is started anew: it finds what the pipe takes until then.
            return os.open(path, (_FLAGS ^ os.O_WRONLY) | os.O_RDWR)
    except OSError as exc:
        raise MountError(f"log file {path}: cannot be opened: {exc.strerror}; choose another with --log-file") from exc


def _open_standard_error() -> int:
    """Return a descriptor of its own, so that not to wait there is no property of what others write to."""
    with contextlib.suppress(OSError):  # a file is gone on with where it is, a socket cannot be opened, others may not
        if not stat.S_ISREG(os.fstat(2).st_mode):
            return os.open("/proc/self/fd/2", _FLAGS)
    return os.dup(2)


def _connect_syslog() -> socket.socket | None:
    syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        syslog.connect(_SYSLOG_PATH)
    except OSError:
        syslog.close()
        return None
    syslog.setblocking(False)
    return syslog
