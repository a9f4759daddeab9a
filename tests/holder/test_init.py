from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.errors import MountError
from tigrismount.holder.init import answers_passthrough, describe_init, patch_init_reply


def init_request(*, opcode: int = 26, major: int = 7, minor: int = 45, flags: int = 0, flags2: int = 0) -> bytes:
    body = struct.pack("=IIIII", major, minor, 131072, flags, flags2) + bytes(44)
    return struct.pack("=IIQQIIIHH", 40 + len(body), opcode, 2, 0, 0, 0, 0, 0, 0) + body


def init_reply(*, error: int = 0, major: int = 7) -> bytes:
    body = struct.pack("=IIIIHHIIHHII", major, 38, 131072, 0x1234, 12, 9, 1 << 20, 1, 256, 0, 0xAB, 0) + bytes(24)
    return struct.pack("=IiQ", 16 + len(body), error, 2) + body


def test_request_tells_version_and_both_flag_words():
    """The second flag word counts only where the first says that it is there."""
    seen = describe_init(init_request(flags=1 << 30, flags2=1 << 7))
    assert (seen.unique, seen.major, seen.minor, seen.max_readahead_bytes) == (2, 7, 45, 131072)
    assert seen.has_resend
    assert not describe_init(init_request(flags=0, flags2=1 << 7)).has_resend


def test_request_of_an_old_kernel_has_no_second_word():
    request = struct.pack("=IIQQIIIHH", 56, 26, 1, 0, 0, 0, 0, 0, 0) + struct.pack("=IIII", 7, 31, 4096, 3)
    assert describe_init(request).flags == 3


@pytest.mark.parametrize(
    "request_",
    [b"", bytes(40), init_request(opcode=1), init_request(major=8), init_request()[:-1], init_request() + b"x"],
)
def test_anything_but_init_is_an_error(request_: bytes):
    with pytest.raises(MountError):
        describe_init(request_)


def test_patch_changes_the_two_limits_and_nothing_else():
    reply = init_reply()
    patched = patch_init_reply(reply, max_background=64, congestion_threshold=48)
    assert struct.unpack_from("=HH", patched, 32) == (64, 48)
    assert patched[:32] == reply[:32]
    assert patched[36:] == reply[36:]


@given(st.integers(-5, 1 << 20), st.integers(-5, 1 << 20))
def test_limits_are_clamped_to_what_the_field_holds(background: int, threshold: int):
    patched = patch_init_reply(init_reply(), max_background=background, congestion_threshold=threshold)
    seen_background, seen_threshold = struct.unpack_from("=HH", patched, 32)
    assert 1 <= seen_threshold <= seen_background <= 0xFFFF


@pytest.mark.parametrize("reply", [b"", init_reply(error=-71), init_reply(major=6), init_reply()[:-4]])
def test_a_failed_or_foreign_reply_is_not_patched(reply: bytes):
    with pytest.raises(MountError):
        patch_init_reply(reply, max_background=64, congestion_threshold=48)


def test_passthrough_is_asked_for_in_the_second_flag_word_with_a_depth_and_nothing_else_changes():
    reply = init_reply()
    plain = patch_init_reply(reply, max_background=64, congestion_threshold=48)
    patched = patch_init_reply(reply, max_background=64, congestion_threshold=48, passthrough=True)
    assert struct.unpack_from("=I", patched, 28)[0] == 0x1234 | 1 << 30, "else the second word is not looked at"
    assert struct.unpack_from("=II", patched, 48) == (0xAB | 1 << 5, 1)
    changed = {offset for offset in range(len(plain)) if plain[offset] != patched[offset]}
    assert changed <= {*range(28, 32), *range(48, 56)}


def test_a_successor_reads_from_the_answer_whether_there_is_passthrough():
    plain = patch_init_reply(init_reply(), max_background=64, congestion_threshold=48)
    assert not answers_passthrough(plain)
    patched = patch_init_reply(init_reply(), max_background=64, congestion_threshold=48, passthrough=True)
    assert answers_passthrough(patched)
    for other in (b"", bytes(80), init_reply(error=-71)):
        assert not answers_passthrough(other), "the worker answers in its own way, and is told that it is another one"


def test_what_the_kernel_offers():
    assert describe_init(init_request(flags=1 << 30, flags2=1 << 5)).has_passthrough
    assert not describe_init(init_request(flags=0, flags2=1 << 5)).has_passthrough
