"""What the worker and a fetch process say to each other.

Each GET has a *line*: a pair of sockets between one thread here and one there, which keeps the boundaries of messages.
The worker asks for a GET, and gets an answer's head or an error. It then lends a range of shared memory, one at a time,
and the fetch process says how much of it is filled, or why not: only between these two messages does it write. At last
the worker ends the body. A line is used for one GET after the other.

Beside the lines there is one socket on which the worker says everything else: how to begin, further lines (with their
descriptors), and that a read should end now. When that socket closes, the fetch process ends.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from tigrismount import errors
from tigrismount.errors import ObjectError, ObjectUnavailableError, SlowDownError
from tigrismount.objects.ranges import RangeGet
from tigrismount.objects.responses import Target

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD_BYTES = 192 << 10
"""Longest message: an answer's head. What a socket pair takes at once is 208 KiB by default."""
SHORT_BYTES = 32 << 10
"""Longest message but that."""
_DETAIL_CHARACTERS = 800
"""Of an error's words, so that it fits into a short message with a name and headers, whatever letters it is in."""

GET, HEAD, ERROR, READ, FILLED, END = (b"G", b"H", b"E", b"R", b"F", b"X")
LINE, INTERRUPT = (b"L", b"I")

_READ = struct.Struct("<cQI")
_FILLED = struct.Struct("<cI")
_END = struct.Struct("<c?")
_LINE = struct.Struct("<cI")
_INTERRUPT = struct.Struct("<cIQ")


class SigningKey(NamedTuple):
    """A key, as botocore has it frozen."""

    access_key: str
    secret_key: str
    token: str | None


class Head(NamedTuple):
    """The head of an answer."""

    status: int
    headers: Mapping[str, str]
    version_id: str | None


# -- the worker's ------------------------------------------------------------------------------------------------------


def get_message(serial: int, get: RangeGet, key: SigningKey | None) -> bytes:
    """Ask for a GET; *serial* names it in :func:`interrupt_message`."""
    target = get.target
    return GET + _json(
        {
            "serial": serial,
            "arguments": get.arguments,
            "target": [target.endpoint_url, target.key_source, target.bucket, target.key],
            "signed": get.signed,
            "unsigned": get.unsigned,
            "key": key,
        }
    )


def read_message(offset: int, size_bytes: int) -> bytes:
    """Lend memory for the next bytes of the body."""
    return _READ.pack(READ, offset, size_bytes)


def end_message(*, complete: bool) -> bytes:
    """End the body; a connection whose body is *complete* can be used again."""
    return _END.pack(END, complete)


def line_message(number: int) -> bytes:
    """Give another line, whose descriptor comes along."""
    return _LINE.pack(LINE, number)


def interrupt_message(number: int, serial: int) -> bytes:
    """End the read of this GET on this line."""
    return _INTERRUPT.pack(INTERRUPT, number, serial)


def take_head(message: bytes) -> Head:
    """Return the head that *message* brings.

    Raises:
        ObjectError: It brings an error.
    """
    if message[:1] != HEAD:
        raise _error(message)
    return Head(*json.loads(message[1:]))


def take_filled(message: bytes) -> int:
    """Return how much of the memory is filled.

    Raises:
        ObjectError: The body failed.
    """
    if message[:1] != FILLED:
        raise _error(message)
    count: int = _FILLED.unpack(message)[1]
    return count


def seen_headers(message: bytes) -> Mapping[str, str]:
    """Return the headers of the answer that an error is about; empty where there was none."""
    if message[:1] != ERROR:
        return {}
    found: dict[str, str] = json.loads(message[1:]).get("headers", {})
    return found


# -- the fetch process's -----------------------------------------------------------------------------------------------


def head_message(head: Head) -> bytes:
    """Say what the answer is."""
    return HEAD + _json([head.status, dict(head.headers), head.version_id])


def filled_message(count: int) -> bytes:
    """Give the memory back, with so many bytes in it; none at the end alone."""
    return _FILLED.pack(FILLED, count)


def error_message(error: ObjectError, headers: Mapping[str, str]) -> bytes:
    """Say that there is no answer, or no more of it; lent memory goes back."""
    retry_after_s = error.retry_after_s if isinstance(error, SlowDownError) else 0.0
    fields = {
        "kind": type(error).__name__,
        "detail": error.detail[:_DETAIL_CHARACTERS],
        "bucket": error.bucket,
        "key": error.key,
        "request_id": error.request_id[:_DETAIL_CHARACTERS],
        "retry_after_s": retry_after_s,
        "headers": headers,
    }
    return ERROR + _json(fields)


def take_get(message: bytes) -> tuple[int, RangeGet, SigningKey | None]:
    """Return what :func:`get_message` was given."""
    fields = json.loads(message[1:])
    get = RangeGet(fields["arguments"], Target(*fields["target"]), fields["signed"], fields["unsigned"])
    return fields["serial"], get, SigningKey(*fields["key"]) if fields["key"] is not None else None


def take_read(message: bytes) -> tuple[int, int]:
    """Return offset and size of the memory that is lent."""
    _, offset, size_bytes = _READ.unpack(message)
    return offset, size_bytes


def take_end(message: bytes) -> bool:
    """Return whether all of the body came."""
    complete: bool = _END.unpack(message)[1]
    return complete


def take_line(message: bytes) -> int:
    """Return the number of the new line."""
    number: int = _LINE.unpack(message)[1]
    return number


def take_interrupt(message: bytes) -> tuple[int, int]:
    """Return the line and the GET whose read should end."""
    _, number, serial = _INTERRUPT.unpack(message)
    return number, serial


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _error(message: bytes) -> ObjectError:
    fields = json.loads(message[1:]) if message[:1] == ERROR else {}
    kind = getattr(errors, str(fields.get("kind")), None)
    if not (isinstance(kind, type) and issubclass(kind, ObjectError)):
        return ObjectUnavailableError("a fetch process said what nobody understands")
    more = {"retry_after_s": fields["retry_after_s"]} if issubclass(kind, SlowDownError) else {}
    error = kind(fields["detail"], bucket=fields["bucket"], key=fields["key"], **more)
    error.request_id = fields["request_id"]
    return error
