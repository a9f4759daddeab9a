"""Bytes of the kernel's FUSE INIT handshake, read and patched without any FUSE library.

The supervisor reads the INIT request from ``/dev/fuse`` itself and keeps it, so that any later worker can replay it;
the worker's library answers, and that answer goes back to the kernel. Two things are ours to do with these bytes:
know what kernel we speak to (``describe_init``), and put our own limits into the answer, because libfuse exposes
``max_background`` only to programs that it parses the options of (``patch_init_reply``).

Source: ``include/uapi/linux/fuse.h`` (structs ``fuse_in_header``, ``fuse_init_in``, ``fuse_out_header``,
``fuse_init_out``); all fields are in the machine's byte order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tigrismount.errors import MountError

_IN_HEADER = struct.Struct("=IIQQIIIHH")  # len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
_INIT_IN = struct.Struct("=IIII")  # major, minor, max_readahead, flags
_FLAGS2 = struct.Struct("=I")
_OUT_HEADER = struct.Struct("=IiQ")  # len, error, unique
_INIT_OUT = struct.Struct("=IIIIHHI")  # major, minor, max_readahead, flags, max_background, congestion, max_write
_LIMITS = struct.Struct("=HH")
_LIMITS_OFFSET = _OUT_HEADER.size + _INIT_IN.size  # max_background follows the four words both structs begin with
_FLAGS_OFFSET = _OUT_HEADER.size + 12
_PASSTHROUGH = struct.Struct("=II")  # flags2, max_stack_depth
_PASSTHROUGH_OFFSET = _OUT_HEADER.size + 32  # behind time_gran, max_pages and map_alignment

_OPCODE_INIT = 26
_PROTOCOL_MAJOR = 7  # the only one there has been since Linux 2.6
_FLAG_INIT_EXT = 1 << 30  # flags2 is meaningful
_FLAG_PASSTHROUGH = 1 << 37  # Linux 6.9: reads of a file can go to another file, in the kernel
_FLAG_HAS_RESEND = 1 << 39  # Linux 6.9: lost requests can be asked for again
_MAX_STACK_DEPTH = 1  # backing files on a filesystem that is itself stacked on none; this mount may be stacked on once
_MAX_LIMIT = 0xFFFF  # both limits are 16-bit fields

INIT_REQUEST_BYTES = 1 << 20
"""Buffer for reading the INIT request: the kernel refuses reads below its largest possible request."""


@dataclass(frozen=True, slots=True)
class InitRequest:
    """What the kernel offers when a FUSE connection begins."""

    unique: int
    """Id that the answer must carry."""
    major: int
    """Protocol major number, always 7."""
    minor: int
    """Protocol minor number; grows with the kernel."""
    max_readahead_bytes: int
    """Most bytes the kernel reads ahead on this connection."""
    flags: int
    """Offered features, both flag words as one number."""

    @property
    def has_resend(self) -> bool:
        """Whether requests that a dead worker had taken can be sent to its successor (Linux 6.9)."""
        return bool(self.flags & _FLAG_HAS_RESEND)

    @property
    def has_passthrough(self) -> bool:
        """Whether reads can go to another file without us (Linux 6.9, and compiled in)."""
        return bool(self.flags & _FLAG_PASSTHROUGH)


def describe_init(request: bytes) -> InitRequest:
    """Return what the INIT request *request* says.

    Args:
        request: The first message read from a fresh ``/dev/fuse`` connection.

    Raises:
        MountError: It is not an INIT request of protocol 7.
    """
    if len(request) < _IN_HEADER.size + _INIT_IN.size:
        raise MountError(f"the kernel's first FUSE message has {len(request)} bytes, too few for INIT")
    length, opcode, unique, *_ = _IN_HEADER.unpack_from(request)
    major, minor, max_readahead, flags = _INIT_IN.unpack_from(request, _IN_HEADER.size)
    if length != len(request) or opcode != _OPCODE_INIT or major != _PROTOCOL_MAJOR:
        raise MountError(f"the kernel's first FUSE message is not INIT (opcode {opcode}, protocol {major}.{minor})")
    flags2_offset = _IN_HEADER.size + _INIT_IN.size
    if flags & _FLAG_INIT_EXT and len(request) >= flags2_offset + _FLAGS2.size:
        flags |= _FLAGS2.unpack_from(request, flags2_offset)[0] << 32
    return InitRequest(unique, major, minor, max_readahead, flags)


def patch_init_reply(
    reply: bytes, *, max_background: int, congestion_threshold: int, passthrough: bool = False
) -> bytes:
    """Return *reply* with the kernel's two queue limits replaced, and passthrough asked for.

    Args:
        reply: A successful INIT reply as a FUSE library wrote it.
        max_background: Read-ahead requests the kernel may have outstanding; clamped to 16 bits.
        congestion_threshold: Outstanding requests from which the kernel calls the mount congested and stops
            reading ahead; clamped to *max_background*.
        passthrough: Whether files may be opened onto other files; only where the kernel offers it.

    Raises:
        MountError: *reply* is not a successful INIT reply of protocol 7.
    """
    _check_reply(reply)
    background = min(max(1, max_background), _MAX_LIMIT)
    patched = bytearray(reply)
    _LIMITS.pack_into(patched, _LIMITS_OFFSET, background, min(max(1, congestion_threshold), background))
    if passthrough:
        (flags,) = _FLAGS2.unpack_from(patched, _FLAGS_OFFSET)
        flags2, _ = _PASSTHROUGH.unpack_from(patched, _PASSTHROUGH_OFFSET)
        _FLAGS2.pack_into(patched, _FLAGS_OFFSET, flags | _FLAG_INIT_EXT)
        _PASSTHROUGH.pack_into(patched, _PASSTHROUGH_OFFSET, flags2 | _FLAG_PASSTHROUGH >> 32, _MAX_STACK_DEPTH)
    return bytes(patched)


def answers_passthrough(reply: bytes) -> bool:
    """Tell whether an INIT reply asked for passthrough: then it holds for the life of the connection.

    One that this library would not have given did not: what we answer will be another one, and whoever holds the
    connection has the mount made anew.
    """
    try:
        _check_reply(reply)
    except MountError:
        return False
    (flags,) = _FLAGS2.unpack_from(reply, _FLAGS_OFFSET)
    flags2, depth = _PASSTHROUGH.unpack_from(reply, _PASSTHROUGH_OFFSET)
    return bool(flags & _FLAG_INIT_EXT and flags2 & _FLAG_PASSTHROUGH >> 32 and depth)


def _check_reply(reply: bytes) -> None:
    if len(reply) < max(_OUT_HEADER.size + _INIT_OUT.size, _PASSTHROUGH_OFFSET + _PASSTHROUGH.size):
        raise MountError(f"the INIT reply has {len(reply)} bytes, too few")
    length, error, _unique = _OUT_HEADER.unpack_from(reply)
    major, minor, *_ = _INIT_OUT.unpack_from(reply, _OUT_HEADER.size)
    if length != len(reply) or error or major != _PROTOCOL_MAJOR:
        raise MountError(f"not a successful INIT reply (length {length}, error {error}, protocol {major}.{minor})")
