"""The shape of log lines, of all our processes that use the logging package: text for people, JSON for machines.

Lines go to standard error, and mostly into a pipe: a worker's supervisor reads it, or whatever keeps a container's log.
Who has stopped reading must not stop a mount: what is not taken soon is lost.
"""

from __future__ import annotations

import json
import logging
import os
import select
import stat
import time

from tigrismount.errors import TigrisMountError

_PATIENCE_MS = 100  # a reader that is only slow takes less; others wait for the lock of the log meanwhile


def log_to_standard_error(level: str, *, json_lines: bool) -> None:
    """Send all log lines of this process to standard error.

    Args:
        level: Least severe messages of ours that are written.
        json_lines: Whether lines are JSON objects.
    """
    handler = _Handler()
    handler.setFormatter(_JsonFormatter() if json_lines else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # libraries speak up when something is wrong; boto3 at debug would print requests
    logging.getLogger("tigrismount").setLevel(level.upper())


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to standard error, as far as somebody reads it."""

    def __init__(self) -> None:
        super().__init__()
        self._is_read = True
        self._is_cut = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or lose it; never raises."""
        try:
            fd = self.stream.fileno()
        except (AttributeError, OSError, ValueError):  # nothing, or something in memory
            super().emit(record)
            return
        try:
            data = (self.format(record) + self.terminator).encode(errors="backslashreplace")
            if stat.S_ISREG(os.fstat(fd).st_mode):
                os.write(fd, data)
            else:
                self._write_to_reader(fd, data)
        except Exception:  # noqa: BLE001 -- as all handlers of the logging package do
            self.handleError(record)

    def _write_to_reader(self, fd: int, data: bytes) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        data = b"\n" + data if self._is_cut else data
        while data:
            self._is_read = bool(poll.poll(_PATIENCE_MS if self._is_read else 0))
            if not self._is_read:
                return
            # So much a pipe takes without waiting where it takes anything.
            written = os.write(fd, data[: select.PIPE_BUF])
            data = data[written:]
            self._is_cut = bool(data)


class _JsonFormatter(logging.Formatter):
    """One JSON object per line; of an error of ours also what it concerns, in fields of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as JSON."""
        fields = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, TigrisMountError):
                named = {"bucket": argument.bucket, "key": argument.key, "request_id": argument.request_id}
                fields |= {"error": type(argument).__name__, **{name: value for name, value in named.items() if value}}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class _TextFormatter(logging.Formatter):
    """``TIME LEVEL LOGGER: MESSAGE``; control characters are escaped, since keys come from the bucket."""

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as a line."""
        message = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in record.getMessage())
        line = f"{_stamp(record)} {record.levelname} {record.name}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _stamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
