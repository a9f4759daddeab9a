from __future__ import annotations

import json
import os
import socket
import threading

import pytest

from tigrismount.control.client import MAX_REPLY_BYTES, StaleSocketError, drop_stale, request, sockets
from tigrismount.errors import MountError


@pytest.fixture
def serve(tmp_path):
    """Answer one request on a socket with given bytes; returns the path and a list that the request is put into."""
    started: list[tuple[threading.Thread, socket.socket]] = []

    def start(*reply: bytes) -> tuple[str, list[bytes]]:
        path, seen = str(tmp_path / f"{len(started)}.sock"), []
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536))
                for part in reply:
                    connection.sendall(part)

        thread = threading.Thread(target=answer)
        thread.start()
        started.append((thread, listener))
        return path, seen

    yield start
    for thread, listener in started:
        thread.join(10)
        listener.close()


def test_one_line_there_and_one_line_back(serve):
    path, seen = serve(b'{"mountpoint": ', b'"/m"}\n')
    assert request(path, "status", timeout_s=30, detail=True) == {"mountpoint": "/m"}
    assert json.loads(seen[0]) == {"command": "status", "detail": True}
    assert seen[0].endswith(b"\n")


@pytest.mark.parametrize("reply", [b"", b"{", b"[]\n", b"\xff\n", b'{"a": 1'])
def test_what_is_no_answer_is_an_error(serve, reply):
    path, _ = serve(reply)
    with pytest.raises(MountError, match="no valid answer"):
        request(path, "status", timeout_s=30)


def test_an_error_of_the_daemon_is_ours(serve):
    path, _ = serve(b'{"error": "unknown command"}\n')
    with pytest.raises(MountError, match="unknown command"):
        request(path, "status", timeout_s=30)


def test_an_endless_answer_has_an_end(serve, monkeypatch):
    monkeypatch.setattr("tigrismount.control.client.MAX_REPLY_BYTES", 1 << 16)
    path, _ = serve(b" " * (1 << 16))
    with pytest.raises(MountError, match="no valid answer"):
        request(path, "status", timeout_s=30)
    assert MAX_REPLY_BYTES > 1 << 20


def test_a_daemon_that_hangs_is_not_waited_for(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "a.sock"))
        listener.listen()
        with pytest.raises(MountError, match="does not answer: timed out"):
            request(str(tmp_path / "a.sock"), "status", timeout_s=0.05)


def test_a_socket_without_a_listener_is_stale_and_can_be_dropped(tmp_path):
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
    with pytest.raises(StaleSocketError):
        request(path, "status", timeout_s=30)
    drop_stale(path)
    drop_stale(path)
    with pytest.raises(StaleSocketError):
        request(path, "status", timeout_s=30)


def test_nothing_is_asked_where_others_could_listen(serve, tmp_path):
    """Who made /tmp/tigrismount-UID before us would be handed in our key, and choose the process to signal."""
    path, seen = serve(b'{"config": {}}\n')
    tmp_path.chmod(0o777)
    with pytest.raises(MountError, match="not a directory of yours alone"):
        request(path, "credentials", timeout_s=30, secret_access_key="secret")
    assert seen == []
    tmp_path.chmod(0o700)
    request(path, "status", timeout_s=30)


def test_nothing_is_asked_where_others_could_come_to_listen(tmp_path, monkeypatch):
    """Mutation: who makes the directory between our look and our call is handed in our key after all."""
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("asks who has come since"))
    with pytest.raises(StaleSocketError):
        request(str(tmp_path / "not-there" / "a.sock"), "credentials", timeout_s=30, secret_access_key="secret")


def test_sockets_are_listed_in_order_from_a_private_directory_only(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    for name in ("b.sock", "a.sock", "other"):
        (directory / name).touch()
    expected = [os.path.join(directory, name) for name in ("a.sock", "b.sock")]
    assert list(sockets(str(directory))) == expected
    directory.chmod(0o777)
    assert list(sockets(str(directory))) == []
    assert list(sockets(str(tmp_path / "missing"))) == []
