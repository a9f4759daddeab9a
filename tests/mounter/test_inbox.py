from __future__ import annotations

import os
import select

from tigrismount.holder.protocol import Message
from tigrismount.mounter.inbox import Inbox, drop


def test_messages_are_taken_in_order_and_wake_whoever_waits():
    inbox = Inbox()
    assert inbox.take() is None
    assert not select.select([inbox], [], [], 0)[0]
    for number in range(5000):
        assert inbox.post(Message(str(number), {}))
    assert select.select([inbox], [], [], 0)[0]
    while select.select([inbox], [], [], 0)[0]:
        inbox.woken()
    assert [inbox.take().type for _ in range(5000)] == [str(number) for number in range(5000)]
    assert inbox.close() == []


def test_a_closed_inbox_takes_nothing_and_gives_back_what_was_left():
    inbox = Inbox()
    read_fd, write_fd = os.pipe()
    inbox.post(Message("adopt", {}, (write_fd,)))
    (left,) = inbox.close()
    assert not inbox.post(Message("stop", {}))
    drop(left)
    assert os.read(read_fd, 1) == b""
    os.close(read_fd)
