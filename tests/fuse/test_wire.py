"""The messages that are read and written here and not by the library."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.fuse import wire

U64 = st.integers(0, (1 << 64) - 1)
U32 = st.integers(0, (1 << 32) - 1)


def request(opcode: int, unique: int, node_id: int, body: bytes) -> memoryview:
    head = struct.pack("=IIQQIIIHH", 40 + len(body), opcode, unique, node_id, 0, 0, 0, 0, 0)
    return memoryview(bytearray(head + body))


@given(U32, U64, U64, st.binary(max_size=64))
def test_a_request_is_what_the_kernel_wrote(opcode: int, unique: int, node_id: int, body: bytes):
    assert wire.parse_request(request(opcode, unique, node_id, body)) == (opcode, unique, node_id)


@given(st.binary(max_size=80))
def test_what_is_no_request_is_refused_and_nothing_else_happens(data: bytes):
    message = memoryview(bytearray(data))
    whole = len(data) >= wire.HEADER_BYTES and struct.unpack_from("=I", data)[0] == len(data)
    for parse in (wire.parse_request, wire.parse_read, wire.parse_answer):
        try:
            parse(message)
        except ValueError:
            continue
        assert parse is not wire.parse_request or whole


@given(U64, U64, U32, st.integers(1, 1 << 20))
def test_a_listing_is_limited_and_nothing_else_of_it_changes(fh: int, offset: int, size: int, most: int):
    body = struct.pack("=QQIIQII", fh, offset, size, 1, 2, 3, 0)
    message = request(wire.READDIRPLUS, 4, 7, body)
    before = bytes(message)
    wire.limit_listing(message, most)
    assert wire.parse_read(message) == (fh, offset, min(size, most))
    assert wire.reply_limit(wire.parse_request(message), message) == min(size, most)
    assert bytes(message[:56]) == before[:56]
    assert bytes(message[60:]) == before[60:]


@pytest.mark.parametrize(
    ("opcode", "body", "limit"),
    [
        (wire.GETXATTR, struct.pack("=II", 500, 0) + b"user.x\0", 500),
        (wire.LISTXATTR, struct.pack("=II", 300, 0), 300),
        (wire.READLINK, b"", 4096),
        (1, b"name\0", 0),
    ],
)
def test_how_long_an_answer_may_be(opcode: int, body: bytes, limit: int):
    message = request(opcode, 2, 7, body)
    assert wire.reply_limit(wire.parse_request(message), message) == limit


def test_an_answer_says_its_length_and_its_error():
    assert wire.answer(9, 5) == struct.pack("=IiQ", 21, 0, 9)
    assert wire.answer(9, error=5) == struct.pack("=IiQ", 16, -5, 9)
    assert wire.parse_answer(memoryview(wire.answer(9, error=5))) == (9, 5)


def test_an_open_onto_a_file_of_the_cache_keeps_no_pages_of_its_own():
    """FOPEN_KEEP_CACHE with FOPEN_PASSTHROUGH is an error to the kernel."""
    length, error, unique, fh, flags, backing_id = struct.unpack("=IiQQIi", wire.answer_open(4, 7, 3))
    assert (length, error, unique, fh, flags, backing_id) == (32, 0, 4, 7, 1 << 7, 3)


def test_notifications_carry_their_code_and_no_request():
    assert struct.unpack("=IiQ", wire.RESEND) == (16, 7, 0)
    assert struct.unpack("=IiQQqq", wire.forget_node(7)) == (40, 2, 0, 7, 0, 0)
    assert struct.unpack("=IiQQqq", wire.forget_node(7, pages=False)) == (40, 2, 0, 7, -1, 0)
    assert struct.unpack("=IiQQII4s", wire.forget_name(1, b"abc")) == (36, 3, 0, 1, 3, 0, b"abc\0")
    assert struct.unpack("=IiQQQII", wire.store_pages(7, 4096, 100)) == (140, 4, 0, 7, 4096, 100, 0)


@pytest.mark.parametrize(
    ("max_write", "room_bytes"),
    [(1 << 20, wire.MAX_REQUEST_BYTES), (16 << 20, (16 << 20) + 4096), (4096, wire.MAX_REQUEST_BYTES)],
)
def test_the_room_for_requests_follows_from_the_answer_to_init(max_write: int, room_bytes: int):
    """With pages of 64 KiB the library says 16 MiB, and the kernel refuses each read with less room (EINVAL)."""
    body = struct.pack("=IIIIHHIIHHII", 7, 31, 131_072, 0, 12, 9, max_write, 1, 256, 0, 0, 0) + bytes(24)
    reply = struct.pack("=IiQ", 16 + len(body), 0, 2) + body
    assert wire.request_bytes(reply) == room_bytes
    assert wire.request_bytes(b"") == wire.MAX_REQUEST_BYTES
