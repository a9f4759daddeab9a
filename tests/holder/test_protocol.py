from __future__ import annotations

import os
import socket

import pytest

from tigrismount.errors import MountError
from tigrismount.holder.protocol import MAX_MESSAGE_BYTES, Channel


@pytest.fixture
def pair():
    ours, theirs = Channel.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def raw_pair():
    """A channel and the naked socket of a peer that may send anything."""
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(first)
    yield channel, second
    channel.close()
    second.close()


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_messages_arrive_whole_and_in_order(pair):
    ours, theirs = pair
    ours.send("start", config={"a": float("inf")})
    ours.send("serve")
    first, second = theirs.receive(), theirs.receive()
    assert (first.type, first.body["config"], first.fds) == ("start", {"a": float("inf")}, ())
    assert second.type == "serve"


def test_descriptors_travel_and_are_not_inherited(pair):
    ours, theirs = pair
    read_end, write_end = os.pipe()
    ours.send("attach", [write_end], init="00")
    os.close(write_end)
    [passed] = theirs.receive().fds
    assert not os.get_inheritable(passed)
    os.write(passed, b"x")
    assert os.read(read_end, 1) == b"x"
    os.close(passed)
    os.close(read_end)


def test_end_of_the_other_side_is_none(pair):
    ours, theirs = pair
    theirs.send("ready")
    theirs.close()
    assert ours.receive().type == "ready"
    assert ours.receive() is None


def test_peer_that_died_with_unread_messages_is_none(pair):
    ours, theirs = pair
    ours.send("serve")
    theirs.close()
    assert ours.receive() is None


def test_sending_to_a_closed_peer_is_an_error_not_a_signal(pair):
    ours, theirs = pair
    theirs.close()
    with pytest.raises(MountError, match="cannot send 'serve'"):
        ours.send("serve")


def test_too_large_a_message_is_refused_before_it_is_sent(pair):
    ours, theirs = pair
    with pytest.raises(MountError, match="too large"):
        ours.send("start", config="x" * MAX_MESSAGE_BYTES)
    theirs.set_blocking(False)
    with pytest.raises(BlockingIOError):
        theirs.receive()


@pytest.mark.parametrize(
    "data",
    [
        *(b"{", b"[]", b'{"typ": 1}', b'{"type": 3}', b"\xff", b"x" * (MAX_MESSAGE_BYTES + 1)),
        b"[" * MAX_MESSAGE_BYTES,  # deeper than Python reads: it ended the driver's thread for all mounters to come
    ],
    ids=lambda data: repr(data[:10]),
)
def test_what_is_not_a_message_is_an_error_and_its_descriptors_are_closed(raw_pair, data):
    channel, peer = raw_pair
    before = open_fds()
    socket.send_fds(peer, [data], [0])
    with pytest.raises(MountError):
        channel.receive()
    assert open_fds() == before


def test_inherited_descriptor_must_be_a_socket():
    read_end, write_end = os.pipe()
    with pytest.raises(MountError, match="not a socket"):
        Channel.from_fd(read_end)
    os.close(read_end)
    os.close(write_end)
