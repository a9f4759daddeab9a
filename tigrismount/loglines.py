"""The shape of log lines, of all our processes that use the logging package: text for people, JSON for machines."""

from __future__ import annotations

import json
import logging
import time

from tigrismount.errors import TigrisMountError


def log_to_standard_error(level: str, *, json_lines: bool) -> None:
    """Send all log lines of this process to standard error.

    Args:
        level: Least severe messages of ours that are written.
        json_lines: Whether lines are JSON objects.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if json_lines else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # libraries speak up when something is wrong; boto3 at debug would print requests
    logging.getLogger("tigrismount").setLevel(level.upper())


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
