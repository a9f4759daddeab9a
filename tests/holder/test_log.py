from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import threading
import time

import pytest

from tigrismount.errors import MountError
from tigrismount.holder import log as log_module
from tigrismount.holder.log import DaemonLog


@pytest.fixture
def log(tmp_path):
    """A log into ``tmp_path / "log"``."""
    opened = []

    def open_log(*, level: str = "info", json_lines: bool = False) -> DaemonLog:
        opened.append(DaemonLog(path=str(tmp_path / "log"), foreground=False, level=level, json_lines=json_lines))
        return opened[-1]

    yield open_log
    for each in opened:
        each.close()


def test_own_messages_have_time_level_and_name(log, tmp_path):
    log().error("it broke")
    line = (tmp_path / "log").read_text()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ERROR tigrismount\.holder: it broke\n", line)


def test_own_messages_can_be_json(log, tmp_path):
    log(json_lines=True).warning('a "quoted"\nline')
    fields = json.loads((tmp_path / "log").read_text())
    assert (fields["level"], fields["message"]) == ("warning", 'a "quoted"\nline')


def test_lines_of_the_worker_pass_as_they_are_at_any_level(log, tmp_path):
    quiet = log(level="error")
    quiet.info("not written")
    quiet.line("2026 INFO worker: hello")
    assert (tmp_path / "log").read_text() == "2026 INFO worker: hello\n"


def test_the_file_is_appended_to_and_readable_by_its_owner_alone(log, tmp_path):
    log().line("one")
    log().line("two")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert (tmp_path / "log").stat().st_mode & 0o007 == 0


def test_a_file_that_was_rotated_away_is_opened_again(log, tmp_path):
    daemon = log()
    daemon.line("old")
    (tmp_path / "log").rename(tmp_path / "log.1")
    daemon.reopen()
    daemon.line("new")
    assert (tmp_path / "log").read_text() == "new\n"


def test_a_file_that_cannot_be_opened_again_is_gone_on_with(log, tmp_path):
    daemon = log()
    (tmp_path / "log").rename(tmp_path / "log.1")
    (tmp_path / "log").mkdir()
    daemon.reopen()
    daemon.line("still there")
    assert (tmp_path / "log.1").read_text() == "still there\n"


def test_a_file_that_cannot_be_opened_is_an_error():
    with pytest.raises(MountError, match="log file /nowhere/log: cannot be opened"):
        DaemonLog(path="/nowhere/log", foreground=False, level="info", json_lines=False)


def test_the_foreground_logs_to_standard_error(capfd):
    log = DaemonLog(path=None, foreground=True, level="info", json_lines=False)
    log.line("hello")
    assert capfd.readouterr().err == "hello\n"
    assert log.is_standard_error
    assert log.warnings == []
    log.close()


def test_without_a_system_log_a_daemon_warns():
    log = DaemonLog(path=None, foreground=False, level="info", json_lines=False)
    log.info("dropped, or in the system log")
    warnings = log.warnings
    log.close()
    assert len(warnings) == (0 if os.path.exists("/dev/log") else 1)


def test_a_full_disk_stops_nobody():
    log = DaemonLog(path="/dev/full", foreground=False, level="info", json_lines=False)
    log.error("lost")
    log.close()


@contextlib.contextmanager
def stopped_reader():
    """A pipe as standard error, full, whose reader has stopped: a log driver that waits, a pager, a terminal held."""
    read_fd, write_fd = os.pipe()
    before = os.dup(2)
    os.dup2(write_fd, 2)
    os.set_blocking(write_fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_fd, bytes(select.PIPE_BUF))
    os.set_blocking(write_fd, True)
    try:
        yield read_fd
    finally:
        os.dup2(before, 2)
        for fd in (read_fd, write_fd, before):
            os.close(fd)


def test_a_reader_that_has_stopped_stops_nobody_and_is_written_to_again():
    """The supervisor would wait in the middle of its loop, and the worker behind it, with all who read the mount."""
    with stopped_reader() as reader:
        log = DaemonLog(path=None, foreground=True, level="info", json_lines=False)
        writing = threading.Thread(target=log.line, args=("x" * 10_000,), daemon=True)
        writing.start()
        writing.join(5)
        is_stuck = writing.is_alive()
        os.read(reader, 1 << 20)
        writing.join(5)
        assert not is_stuck

        log.line("y" * 10_000)
        assert os.read(reader, 1 << 20) == b"y" * 10_000 + b"\n"
        log.close()


def test_of_two_mounts_that_find_room_for_one_line_none_waits(monkeypatch):
    """As in a pod, whose pipe may not be opened anew. Mutation: the mounter's thread for a mount stands in a write."""
    both = threading.Barrier(2)

    class Poll:
        def __init__(self) -> None:
            self._poll = poll()

        def register(self, *arguments: int) -> None:
            self._poll.register(*arguments)

        def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
            found = self._poll.poll(timeout_ms)
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.5)
            return found

    poll = select.poll
    monkeypatch.setattr("tigrismount.holder.log._open_standard_error", lambda: os.dup(2))
    with stopped_reader() as reader:
        os.read(reader, select.PIPE_BUF)
        monkeypatch.setattr(select, "poll", Poll)
        logs = [DaemonLog(path=None, foreground=True, level="info", json_lines=False) for _ in range(2)]
        lines = "x" * (select.PIPE_BUF - 1)
        writing = [threading.Thread(target=log.line, args=(lines,), daemon=True) for log in logs]
        for thread in writing:
            thread.start()
        for thread in writing:
            thread.join(5)
        are_stuck = [thread.is_alive() for thread in writing]
        os.read(reader, 1 << 20)
        for thread in writing:
            thread.join(5)
        assert are_stuck == [False, False]
        for log in logs:
            log.close()


def test_no_mount_waits_for_the_lines_of_all_others(monkeypatch):
    """A reader that is slow is waited for at each line. Mutation: each line of a mount waits for one of every other."""

    class Poll:
        """A reader that takes a line just before it would count as one that has stopped."""

        def register(self, *_: int) -> None:
            pass

        def poll(self, _: int) -> list[tuple[int, int]]:
            time.sleep(0.09)
            return [(0, select.POLLOUT)]

    monkeypatch.setattr(select, "poll", Poll)
    with stopped_reader() as reader:
        os.read(reader, 1 << 20)
        logs = [DaemonLog(path=None, foreground=True, level="info", json_lines=False) for _ in range(20)]
        waited_s: list[float] = []

        def write(log: DaemonLog) -> None:
            for _ in range(3):
                began_s = time.monotonic()
                log.line("x")
                waited_s.append(time.monotonic() - began_s)

        writing = [threading.Thread(target=write, args=(log,), daemon=True) for log in logs]
        for thread in writing:
            thread.start()
        for thread in writing:
            thread.join(30)
        for log in logs:
            log.close()
    assert len(waited_s) == 60
    assert max(waited_s) < 1.0


def is_stuck(log: DaemonLog) -> bool:
    """Whether who writes what nobody reads has to wait for them."""
    writing = threading.Thread(target=lambda: [log.line("x" * 100) for _ in range(3000)], daemon=True)
    writing.start()
    writing.join(10)
    return writing.is_alive()


def test_a_terminal_that_has_stopped_stops_nobody():
    """Mutation: it says that it takes something, and takes less than a line: who writes the rest waits for ever."""
    master_fd, terminal_fd = os.openpty()
    before = os.dup(2)
    os.dup2(terminal_fd, 2)
    try:
        log = DaemonLog(path=None, foreground=True, level="info", json_lines=False)
        assert not is_stuck(log)
        assert os.get_blocking(2), "others may write there, too"
    finally:
        os.dup2(before, 2)
    assert os.read(master_fd, 1 << 16).startswith(b"x" * 100 + b"\r\n")
    log.close()
    for fd in (before, terminal_fd, master_fd):
        os.close(fd)


def test_a_log_file_that_is_a_pipe_stops_nobody(tmp_path):
    """Such as /dev/stderr in a container, whose log driver waits."""
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = DaemonLog(path=path, foreground=False, level="info", json_lines=False)
    assert not is_stuck(log)
    assert os.read(reader, 1 << 16).startswith(b"x" * 100 + b"\n")
    log.close()
    os.close(reader)


def test_a_pipe_whose_reader_is_started_anew_refuses_no_mount(tmp_path):
    """Mutation: a supervisor that is started or upgraded at that moment ends, and its mount with it."""
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    DaemonLog.check(path)
    log = DaemonLog(path=path, foreground=False, level="info", json_lines=False)
    log.line("before")
    assert not is_stuck(log)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 1 << 20).startswith(b"before\n" + b"x" * 100 + b"\n")
    log.line("after")
    assert os.read(reader, 1 << 20) == b"after\n"
    log.close()
    os.close(reader)


def test_a_system_log_that_was_started_anew_gets_what_follows(tmp_path, monkeypatch):
    """As logrotate does where no systemd keeps its socket. Mutation: nothing more of a mount is ever logged."""
    path = str(tmp_path / "log")
    monkeypatch.setattr(log_module, "_SYSLOG_PATH", path)

    def listen() -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(path)
        listener.settimeout(5)
        return listener

    with listen() as before:
        daemon = DaemonLog(path=None, foreground=False, level="info", json_lines=False)
        daemon.line("one")
        assert before.recv(1000).endswith(b": one")
    daemon.line("lost")
    os.unlink(path)
    daemon.line("lost, too")
    with listen() as after:
        for text in (b"two", b"three"):
            daemon.line(text.decode())
            assert after.recv(1000).endswith(b": " + text)
    daemon.close()
