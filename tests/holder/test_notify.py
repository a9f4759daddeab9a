from __future__ import annotations

import os
import socket
from types import SimpleNamespace

import pytest

from tigrismount.errors import MountError
from tigrismount.holder import helper
from tigrismount.holder.connection import Connection
from tigrismount.holder.heirloom import Heirloom
from tigrismount.holder.mounting import MountSpec
from tigrismount.holder.notify import Notifier, take_stored
from tigrismount.holder.request import MountRequest
from tigrismount.holder.store import Store
from tigrismount.holder.unit import Unit


@pytest.fixture
def manager(tmp_path):
    """A socket where systemd would listen, and the environment that names it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        yield listener, {"NOTIFY_SOCKET": str(tmp_path / "notify")}


def test_what_is_said_is_heard(manager):
    listener, environment = manager
    notifier = Notifier(environment)
    assert notifier.is_heard
    notifier.say("READY=1", "STATUS=serving")
    assert listener.recv(100) == b"READY=1\nSTATUS=serving"


def test_a_descriptor_is_left_in_the_place_of_the_one_before(manager):
    listener, environment = manager
    fd = os.memfd_create("x")
    os.write(fd, b"content")
    Notifier(environment).store("state", fd)
    os.close(fd)
    assert listener.recv(100) == b"FDSTOREREMOVE=1\nFDNAME=state"
    message, (stored,), _, _ = socket.recv_fds(listener, 100, 1)
    assert message == b"FDSTORE=1\nFDNAME=state"
    assert os.pread(stored, 100, 0) == b"content"
    os.close(stored)


def test_waiting_ends_when_the_manager_has_read_everything(manager):
    listener, environment = manager
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        Notifier(environment).wait_until_heard()
        os.write(write_fd, b"done")
        os._exit(0)
    os.close(write_fd)
    message, (barrier,), _, _ = socket.recv_fds(listener, 100, 1)
    assert message == b"BARRIER=1"
    os.set_blocking(read_fd, False)
    with pytest.raises(BlockingIOError):
        os.read(read_fd, 10)
    os.set_blocking(read_fd, True)
    os.close(barrier)
    assert os.read(read_fd, 10) == b"done"
    os.close(read_fd)
    os.waitpid(pid, 0)


def test_nobody_waits_to_be_heard_without_a_descriptor_to_wait_at(manager, descriptors_left):
    with descriptors_left(1):
        Notifier(manager[1]).wait_until_heard()


@pytest.mark.parametrize("left", [0, 1])
def test_what_cannot_be_left_with_systemd_is_left_later(manager, descriptors_left, left):
    """The supervisor would end for it, and take the mount with it.

    Mutation: with one left it is written, and not sent; whoever starts after a kill finds another state, or none.
    """
    connection = Connection(MountSpec(mountpoint="/m", fsname="s3://m", allow_other=False), print)
    connection.journal_fd = os.memfd_create("journal")
    heirloom = Heirloom(request={}, init_request="", init_reply="")
    store = Store(Notifier(manager[1]), is_used=True)
    with descriptors_left(left):
        store.leave(connection, heirloom)
    assert not store.is_current(connection, 0)
    store.leave(connection, heirloom)
    assert store.is_current(connection, 0)
    os.close(connection.journal_fd)


def kept_by_systemd(listener: socket.socket, kept: dict[str, int]) -> dict[str, int]:
    """Do to *kept* what systemd does when it hears of the store: a file that it has is not taken by another name."""
    listener.setblocking(False)
    while True:
        try:
            message, fds, _, _ = socket.recv_fds(listener, 1000, 1)
        except BlockingIOError:
            return kept
        name = message.decode().rpartition("FDNAME=")[2]
        if message.startswith(b"FDSTOREREMOVE=1"):
            kept.pop(name, None)
        elif not any(os.path.sameopenfile(fds[0], fd) for fd in kept.values()):
            kept[name] = fds[0]


@pytest.mark.parametrize("kills", [1, 2, 3])
def test_the_journal_is_there_however_often_everything_was_killed(manager, kills):
    """Mutation: the one that was taken over is left by its other name, which systemd ignores; open files are ESTALE."""
    listener, environment = manager
    connection = Connection(MountSpec(mountpoint="/m", fsname="s3://m", allow_other=False), print)
    connection.journal_fd = os.memfd_create("journal")
    os.write(connection.journal_fd, b"ids")
    store, kept = Store(Notifier(environment), is_used=True), {}
    config = {"mountpoint": "/m", "fsname": "s3://m", "allow_other": False, "kernel_read_ahead_kib": None}
    config |= {"log_file": None, "log_format": "text", "log_level": "info", "nonempty": False}
    request = MountRequest(config=config).to_values()
    for count in range(kills):
        store.leave(connection, Heirloom(request=request, init_request="", init_reply="", count=count))
        kept_by_systemd(listener, kept)
        state = Heirloom.from_bytes(os.pread(kept["state"], 10_000, 0))
        assert os.pread(kept[state.journal], 10, 0) == b"ids"
        assert store.is_current(connection, count)
        store = Store(Notifier(environment), is_used=True)
        store.go_on(state, connection)
        assert not store.is_current(connection, count + 1), "who took over is another one"
    os.close(connection.journal_fd)


def test_what_systemd_could_not_be_told_to_drop_gets_no_second_one_beside_it(manager, monkeypatch):
    """Mutation: systemd has two under one name, and passes on the older one as the last."""
    listener, environment = manager
    refusals = [OSError(23, "Too many open files in system")]
    make = socket.socket

    def refuse_once(*arguments: int) -> socket.socket:
        if refusals:
            raise refusals.pop()
        return make(*arguments)

    notifier = Notifier(environment)
    with monkeypatch.context() as system:
        system.setattr("tigrismount.holder.notify.socket.socket", refuse_once)
        assert not notifier.store("state", 0)
        assert notifier.store("state", 0)
    assert listener.recv(100) == b"FDSTOREREMOVE=1\nFDNAME=state"
    assert listener.recv(100) == b"FDSTORE=1\nFDNAME=state"
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.recv(100)


def test_nothing_is_mounted_beside_the_state_of_a_mount_before(tmp_path, monkeypatch):
    """Mutation: whoever starts takes the new connection for the old one, and the kernel waits for its first answer."""
    mounted = []
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    monkeypatch.setattr(helper, "mount_at", lambda _: None)
    monkeypatch.setattr(helper, "_make_directory", lambda _: None)
    monkeypatch.setattr(helper, "mount", mounted.append)
    monkeypatch.setattr("pwd.getpwnam", lambda _: SimpleNamespace(pw_uid=1, pw_gid=1))
    with pytest.raises(MountError, match="cannot be told to forget"):
        helper._mount(Unit("m", "s3://m", str(tmp_path / "m"), None, {}))
    assert mounted == []


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/no/such/socket"}], ids=str)
def test_where_nobody_listens_nothing_happens(environment):
    notifier = Notifier(environment)
    notifier.say("READY=1")
    notifier.store("state", 0)
    notifier.wait_until_heard()


def test_stored_descriptors_are_taken_once_and_by_their_own_process():
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0", "LISTEN_FDNAMES": ""}
    assert take_stored(environment) == {}
    assert environment == {}
    assert take_stored({"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}) == {}
    assert take_stored({}) == {}
