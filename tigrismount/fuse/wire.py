"""The few messages of the FUSE protocol that are read and written here and not by the library.

Source: ``include/uapi/linux/fuse.h``; all fields are in the machine's byte order. A request begins with a
``fuse_in_header``, whatever the kernel is told with a ``fuse_out_header``: as an answer with the request's unique
number, as a notification with 0 and the notification's code where an answer has its error.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

FORGET, READLINK, OPEN, READ, STATFS, RELEASE = 2, 5, 14, 15, 17, 18
GETXATTR, LISTXATTR, READDIR, INTERRUPT, NOTIFY_REPLY, BATCH_FORGET, READDIRPLUS = 22, 23, 28, 36, 41, 42, 44
NEVER_ANSWERED = frozenset({FORGET, INTERRUPT, NOTIFY_REPLY, BATCH_FORGET})
"""Requests that nobody waits for."""

HEADER_BYTES = 40
"""Length of ``fuse_in_header``."""
MAX_REQUEST_BYTES = (1 << 20) + 4096
"""Largest possible request where the library has answered INIT as it does with pages of 4 KiB; see
:func:`request_bytes`."""

FOPEN_PASSTHROUGH = 1 << 7
"""Reads go to the file with the backing id; may not be joined with FOPEN_KEEP_CACHE (Linux 6.9)."""

_HEAD_BYTES = 4096
"""What a write has besides its bytes: less."""
_MAX_WRITE = struct.Struct("=I")
_MAX_WRITE_OFFSET = 36
"""In an answer to INIT: behind its head, four words and two half ones."""
_IN_HEADER = struct.Struct("=IIQQ")  # len, opcode, unique, nodeid; uid, gid, pid and padding follow
_OUT_HEADER = struct.Struct("=IiQ")  # len, error or code, unique
_OPEN_IN = struct.Struct("=II")  # flags, open_flags
_OPEN_OUT = struct.Struct("=QIi")  # fh, open_flags, backing_id
_READ_IN = struct.Struct("=QQI")  # fh, offset, size; what follows is not needed
_INTERRUPT_IN = struct.Struct("=Q")  # unique of the request
_BATCH_FORGET_IN = struct.Struct("=II")  # count, padding; so many pairs follow
_FORGET_ONE_BYTES = 16  # nodeid, lookups
_GETXATTR_IN = struct.Struct("=I")  # size
_NOTIFY_INVAL_INODE, _NOTIFY_INVAL_ENTRY, _NOTIFY_STORE, _NOTIFY_RESEND = 2, 3, 4, 7
_INVAL_INODE_OUT = struct.Struct("=Qqq")  # nodeid, offset, length
_INVAL_ENTRY_OUT = struct.Struct("=QII")  # parent, length of the name, flags
_STORE_OUT = struct.Struct("=QQII")  # nodeid, offset, size, padding


class Request(NamedTuple):
    """The head of a request."""

    opcode: int
    """What is asked."""
    unique: int
    """What the answer must carry."""
    node_id: int
    """About which node."""


class ReadRequest(NamedTuple):
    """What READ, READDIR and READDIRPLUS ask for."""

    fh: int
    """Handle, as OPEN answered it."""
    offset: int
    """First byte, or where in the directory."""
    size: int
    """Most bytes of the answer."""


def request_bytes(init_reply: bytes) -> int:
    """Return the room that requests are to be read into, given the answer to INIT.

    The kernel refuses to be read from with less than its largest possible request takes, whether or not it ever sends
    one: a write as long as the library has said in its answer. That is 256 pages, so 16 MiB where they have 64 KiB.
    """
    if len(init_reply) < _MAX_WRITE_OFFSET + _MAX_WRITE.size:
        return MAX_REQUEST_BYTES
    return max(MAX_REQUEST_BYTES, int(_MAX_WRITE.unpack_from(init_reply, _MAX_WRITE_OFFSET)[0]) + _HEAD_BYTES)


def parse_request(message: memoryview) -> Request:
    """Return the head of *message*.

    Raises:
        ValueError: It is no whole request.
    """
    if len(message) < HEADER_BYTES:
        raise ValueError(f"a request of {len(message)} bytes has no whole head")
    length, opcode, unique, node_id = _IN_HEADER.unpack_from(message)
    if length != len(message):
        raise ValueError(f"a request says that it has {length} bytes and has {len(message)}")
    return Request(opcode, unique, node_id)


def parse_read(message: memoryview) -> ReadRequest:
    """Return what a READ, READDIR or READDIRPLUS asks for.

    Raises:
        ValueError: It is cut short.
    """
    return ReadRequest(*_unpack(_READ_IN, message))


def parse_open_flags(message: memoryview) -> int:
    """Return the flags that a file is opened with, as of open(2).

    Raises:
        ValueError: The request is cut short.
    """
    return int(_unpack(_OPEN_IN, message)[0])


def parse_interrupt(message: memoryview) -> int:
    """Return the unique number of the request whose caller an INTERRUPT says was sent a signal.

    Raises:
        ValueError: It is cut short.
    """
    return int(_unpack(_INTERRUPT_IN, message)[0])


def reply_limit(request: Request, message: memoryview) -> int:
    """Return the most bytes that the answer of *request* may have behind its head, as far as it says; 0 if it does not.

    Raises:
        ValueError: The request is cut short.
    """
    if request.opcode in (READDIR, READDIRPLUS):
        return parse_read(message).size
    if request.opcode in (GETXATTR, LISTXATTR):
        return int(_unpack(_GETXATTR_IN, message)[0])
    return 4096 if request.opcode == READLINK else 0


def limit_listing(message: memoryview, most_bytes: int) -> None:
    """Have a READDIR or READDIRPLUS in *message* ask for no more than *most_bytes*: the kernel comes back for the rest.

    Raises:
        ValueError: It is cut short.
    """
    fh, offset, size = parse_read(message)
    if size > most_bytes:
        _READ_IN.pack_into(message, HEADER_BYTES, fh, offset, most_bytes)


def split_forgets(message: memoryview, most_bytes: int) -> Iterator[bytes]:
    """Give a BATCH_FORGET as several that have no more than *most_bytes* each.

    Raises:
        ValueError: It is cut short.
    """
    count = _unpack(_BATCH_FORGET_IN, message)[0]
    start = HEADER_BYTES + _BATCH_FORGET_IN.size
    if len(message) != start + count * _FORGET_ONE_BYTES:
        raise ValueError(f"a request of {len(message)} bytes does not have {count} nodes")
    most = (most_bytes - start) // _FORGET_ONE_BYTES
    _, *head = _IN_HEADER.unpack_from(message)
    rest = bytes(message[_IN_HEADER.size : HEADER_BYTES])
    for first in range(0, count, most):
        these = min(most, count - first)
        length = start + these * _FORGET_ONE_BYTES
        pairs = message[start + first * _FORGET_ONE_BYTES :][: these * _FORGET_ONE_BYTES]
        yield b"".join((_IN_HEADER.pack(length, *head), rest, _BATCH_FORGET_IN.pack(these, 0), pairs))


def _unpack(what: struct.Struct, message: memoryview) -> tuple[int, ...]:
    if len(message) < HEADER_BYTES + what.size:
        raise ValueError(f"a request of {len(message)} bytes is cut short")
    return what.unpack_from(message, HEADER_BYTES)


def answer(unique: int, body_bytes: int = 0, error: int = 0) -> bytes:
    """Return the head of an answer.

    Args:
        unique: Of the request.
        body_bytes: Length of what follows.
        error: An errno, positive; 0 for success.
    """
    return _OUT_HEADER.pack(_OUT_HEADER.size + body_bytes, -error, unique)


def answer_open(unique: int, fh: int, backing_id: int) -> bytes:
    """Return the answer of an OPEN whose reads go to a backing file."""
    return answer(unique, _OPEN_OUT.size) + _OPEN_OUT.pack(fh, FOPEN_PASSTHROUGH, backing_id)


def parse_answer(message: memoryview) -> tuple[int, int]:
    """Return the unique number and the error, positive or 0, of an answer.

    Raises:
        ValueError: It is cut short.
    """
    if len(message) < _OUT_HEADER.size:
        raise ValueError(f"an answer of {len(message)} bytes has no whole head")
    _, error, unique = _OUT_HEADER.unpack_from(message)
    return unique, -error


def forget_node(node_id: int, *, pages: bool = True) -> bytes:
    """Return the notification that a node's attributes, and *pages*, are to be forgotten."""
    body = _INVAL_INODE_OUT.pack(node_id, 0 if pages else -1, 0)
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(body), _NOTIFY_INVAL_INODE, 0) + body


def forget_name(parent_id: int, name: bytes) -> bytes:
    """Return the notification that a name in a directory is to be forgotten."""
    body = _INVAL_ENTRY_OUT.pack(parent_id, len(name), 0) + name + b"\0"
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(body), _NOTIFY_INVAL_ENTRY, 0) + body


def store_pages(node_id: int, start: int, size: int) -> bytes:
    """Return the notification that *size* bytes, which follow it, are what a node has from *start* on."""
    body = _STORE_OUT.pack(node_id, start, size, 0)
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(body) + size, _NOTIFY_STORE, 0) + body


RESEND = _OUT_HEADER.pack(_OUT_HEADER.size, _NOTIFY_RESEND, 0)
"""The notification that requests in flight are to be sent again (Linux 6.9)."""
