"""The driver's end of the socket: who may connect, and what happens to questions."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from tigrismount.csi.held import HeldMounts
from tigrismount.csi.holding import Held
from tigrismount.csi.link import AnswerTimeoutError, Link, MounterGoneError
from tigrismount.demo.command import wait_until
from tigrismount.errors import MountError
from tigrismount.holder.protocol import Channel, Message
from tigrismount.mounter.wire import Order, driver_socket


@pytest.fixture
def heard():
    return []


@pytest.fixture
def link(tmp_path, heard):
    link = Link(str(tmp_path / "comm"), os.geteuid(), heard.append)
    link.open()
    yield link
    link.close()


@pytest.fixture
def connect(tmp_path):
    """Connect as a mounter does."""
    channels = []

    def run() -> Channel:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(driver_socket(str(tmp_path / "comm")))
        sock.settimeout(30)
        channels.append(Channel(sock))
        return channels[-1]

    yield run
    for channel in channels:
        channel.close()


def test_nobody_else_can_enter_the_directory(link, tmp_path):
    assert os.stat(tmp_path / "comm").st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives away")
def test_the_directory_is_the_mounters_and_nothing_in_it_is_given_away_by_name(tmp_path):
    """Whoever owns a directory may put a link where the socket was."""
    comm, precious = tmp_path / "comm", tmp_path / "precious"
    comm.mkdir()
    precious.write_text("")
    precious.chmod(0o640)
    driver_socket_path = Path(driver_socket(str(comm)))
    driver_socket_path.symlink_to(precious)
    link = Link(str(comm), 10001, lambda _: None)
    link.open()
    link.close()
    assert (comm.stat().st_uid, comm.stat().st_mode & 0o777) == (10001, 0o700)
    assert (precious.stat().st_uid, precious.stat().st_mode & 0o777) == (0, 0o640)
    comm.rename(tmp_path / "elsewhere")
    comm.symlink_to(tmp_path)
    with pytest.raises(MountError):
        Link(str(comm), 10001, lambda _: None).open()
    assert tmp_path.stat().st_uid == 0


def test_an_answer_goes_to_who_asked_and_the_rest_to_the_driver(link, connect, heard):
    mounter = connect()
    assert link.wait_for_mounter(30)
    answers = {}

    def ask(text):
        answers[text] = link.ask("say", timeout_s=30, text=text).body["text"]

    threads = [threading.Thread(target=ask, args=(text,)) for text in "ab"]
    for thread in threads:
        thread.start()
    questions = [mounter.receive(), mounter.receive()]
    mounter.send("state", id="m")
    for question in reversed(questions):
        mounter.send("said", order=question.body["order"], text=question.body["text"])
    for thread in threads:
        thread.join(30)
    assert answers == {"a": "a", "b": "b"}
    assert [message.type for message in heard] == ["state"]


def test_an_answer_to_a_driver_before_this_one_is_nobodys(tmp_path, connect):
    """Mutation: the worker of one volume has ended, and the driver takes another one's for ready, or for serving."""
    orders, answers = [], []
    for _ in range(2):
        link = Link(str(tmp_path / "comm"), os.geteuid(), lambda _: None)
        link.open()
        mounter = connect()
        assert link.wait_for_mounter(30)

        def ask(link=link):
            with contextlib.suppress(MounterGoneError):
                answers.append(link.ask("start", timeout_s=30).type)

        thread = threading.Thread(target=ask)
        thread.start()
        orders.append(mounter.receive().body["order"])
        if len(orders) == 2:
            mounter.send("stopped", order=orders[0])
            mounter.send("ready", order=orders[1])
            thread.join(30)
        link.close()
        mounter.close()
        thread.join(30)
    assert answers == ["ready"]


def test_a_question_ends_with_the_mounter(link, connect):
    with pytest.raises(MounterGoneError):
        link.ask("ping", timeout_s=30)
    mounter = connect()
    assert link.wait_for_mounter(30)
    ended = []

    def ask():
        with pytest.raises(MounterGoneError):
            link.ask("ping", timeout_s=30)
        ended.append(True)

    thread = threading.Thread(target=ask)
    thread.start()
    assert mounter.receive().type == "ping"
    mounter.close()
    thread.join(30)
    assert ended
    assert wait_until(lambda: not link.is_connected)
    assert link.alone_s() > 0


def test_a_question_that_is_not_answered_ends(link, connect):
    connect()
    assert link.wait_for_mounter(30)
    assert link.alone_s() == 0
    with pytest.raises(AnswerTimeoutError):
        link.ask("ping", timeout_s=0.01)


def test_a_second_mounter_waits_for_the_end_of_the_first(link, connect, heard):
    first, second = connect(), connect()
    second.send("hello", ids=["second"])
    first.send("hello", ids=["first"])
    assert wait_until(lambda: heard)
    assert heard[0].body["ids"] == ["first"]
    first.close()
    assert wait_until(lambda: len(heard) == 2)
    assert heard[1].body["ids"] == ["second"]


def test_nonsense_ends_the_conversation_and_not_the_driver(link, connect, tmp_path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with sock:
        sock.connect(driver_socket(str(tmp_path / "comm")))
        sock.send(b"{")
        sock.settimeout(30)
        assert sock.recv(10) == b""
    connect()
    assert link.wait_for_mounter(30)


def test_a_directory_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MountError, match="cannot be used to meet the mounter"):
        Link(str(tmp_path / "file"), 0, lambda _: None).open()


def test_a_journal_that_did_not_come_leaves_the_one_there_is(tmp_path):
    """Mutation: the number of a closed descriptor is kept, and whatever gets it next is sent to the mounter."""
    mounts = HeldMounts(tmp_path / "comm", tmp_path / "state", mounter_uid=0)
    order = Order(mount_id="one", source="s3://models", options={}, mountpoint="/one", secret={})
    journal, later = os.memfd_create("journal"), os.memfd_create("later")
    held = mounts._mounts["one"] = Held(order, journal_fd=journal)
    mounts._take_message(Message("journal", {"id": "one"}))
    assert held.journal_fd == journal
    os.fstat(journal)
    mounts._take_message(Message("journal", {"id": "one"}, (later,)))
    assert held.journal_fd == later
    held.close()  # it was lost meanwhile
    mounts._take_message(Message("journal", {"id": "one"}, (os.memfd_create("late"),)))
    assert held.journal_fd == -1


def test_descriptors_that_nobody_asked_for_are_closed(tmp_path):
    """The mounter has no privilege: what it sends must not leave the driver without descriptors, to unmount with."""
    mounts = HeldMounts(tmp_path / "comm", tmp_path / "state", mounter_uid=0)
    for type_ in ("hello", "state", "surprise"):
        sent = os.memfd_create("sent")
        mounts._take_message(Message(type_, {"ids": []}, (sent,)))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(sent)


def test_a_mount_that_is_stopped_while_it_is_given_passes_on_no_other_mounts_connection(tmp_path, monkeypatch):
    """The number of a closed descriptor is the next mount's: a worker would answer it with the bytes of this one."""
    mounts = HeldMounts(tmp_path / "comm", tmp_path / "state", mounter_uid=0)
    order = Order(mount_id="one", source="s3://models", options={}, mountpoint="/one", secret={})
    connection = os.memfd_create("connection")
    held = Held(order, connection, os.memfd_create("journal"), init="00", init_reply="00")
    mounts._mounts["one"] = held
    passed = []
    stopping = threading.Thread(target=held.close)

    def tell(_, fds, /, **__):
        stopping.start()
        stopping.join(0.2)
        passed.extend(os.readlink(f"/proc/self/fd/{fd}") for fd in fds if fd >= 0)

    monkeypatch.setattr(mounts._link, "tell", tell)
    mounts._take_message(Message("hello", {"ids": []}))
    stopping.join(30)
    assert passed == ["/memfd:connection (deleted)", "/memfd:journal (deleted)"]
    assert held.fuse_fd == -1


@pytest.mark.parametrize("was_taken_back", [True, False])
def test_a_mount_whose_key_is_not_known_is_not_mounted_anew(tmp_path, monkeypatch, was_taken_back):
    """Its worker ended as this driver was started: what it signed with was never said.

    Mutation: no key means the mounter's own, and the volume of somebody with a key of his own is served with that.
    """
    monkeypatch.setattr("tigrismount.csi.kernel.abort", lambda _: None)
    mounts = HeldMounts(tmp_path / "comm", tmp_path / "state", mounter_uid=0)
    order = Order(mount_id="one", source="s3://models", options={}, mountpoint="/one", secret={})
    held = mounts._mounts["one"] = Held(order)
    anew = threading.Event()
    monkeypatch.setattr(mounts, "_remount", lambda _: anew.set())
    if was_taken_back:
        body = {**order.to_values(), "init": "00", "init_reply": "00", "count": 0, "reason": ""}
        mounts._take_message(Message("have", body, (os.memfd_create("connection"), os.memfd_create("journal"))))
    mounts._take_message(Message("lost", {"id": "one", "message": "the worker was killed", "may_remount": True}))
    assert held.lost
    assert anew.wait(0.2) == was_taken_back


def test_a_mount_is_given_up_also_where_the_list_of_mounts_cannot_be_read(tmp_path, monkeypatch):
    """Mutation: it counts as lost and is held on to, so nobody looks at it any more, and its readers wait for ever."""

    def fail(_):
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    monkeypatch.setattr("tigrismount.csi.kernel.mount_at", fail)
    mounts = HeldMounts(tmp_path / "comm", tmp_path / "state", mounter_uid=0)
    order = Order(mount_id="one", source="s3://models", options={}, mountpoint=str(tmp_path), secret={})
    held = Held(order, os.memfd_create("connection"), os.memfd_create("journal"), init="00", init_reply="00")
    mounts._mounts["one"] = held
    with contextlib.suppress(OSError):  # the patrol goes on with the next mounts
        mounts._give_up("one", 60.0)
    assert held.lost
    assert held.fuse_fd == -1
