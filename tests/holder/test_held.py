"""A supervisor whose mount systemd holds, too."""

from __future__ import annotations

import io
import os
import signal
import socket
import struct
import time

import pytest

from tigrismount.errors import MountError
from tigrismount.holder import supervisor as supervisors
from tigrismount.holder.conversation import StartError
from tigrismount.holder.heirloom import Heirloom, write_memory_file
from tigrismount.holder.launch import run_resumed
from tigrismount.holder.log import DaemonLog
from tigrismount.holder.reload import another_mount
from tigrismount.holder.request import MountRequest
from tigrismount.holder.supervisor import LOST, Supervisor


@pytest.mark.parametrize("fault", [OSError(23, "Too many open files in system"), MountError("no message of ours")])
def test_what_nobody_expected_leaves_the_mount_to_the_next_start(tmp_path, monkeypatch, capfd, fault):
    """Mutation: it takes everything out of systemd's store, and its exit status has the helper unmount."""

    def fail() -> None:
        raise fault

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        log = DaemonLog(path=None, foreground=True, level="info", json_lines=False)
        request = MountRequest(config={"mountpoint": str(tmp_path), "fsname": "s3://models", "allow_other": False})
        supervisor = Supervisor(request, log, lambda _: None, is_held=True)
        monkeypatch.setattr(supervisor, "_start", list)
        monkeypatch.setattr(supervisor, "_turn", fail)
        assert supervisor.run() == LOST
        with pytest.raises(BlockingIOError):
            systemd.recv(100)
        log.close()
    assert f"{tmp_path} is left to the next start: {fault!r}" in capfd.readouterr().err


def test_what_nobody_expected_as_it_takes_over_leaves_the_mount_to_the_next_start(tmp_path, monkeypatch, capfd):
    """Mutation: a host that is short of descriptors as the unit is started again loses the files that are open."""

    def fail(*_: object) -> None:
        raise OSError(23, "Too many open files in system")

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        log = DaemonLog(path=None, foreground=True, level="info", json_lines=False)
        request = MountRequest(
            config={"mountpoint": str(tmp_path), "fsname": "s3://models", "allow_other": False, "s3": {}}
        )
        heirloom = Heirloom(request=request.to_values(), init_request="", init_reply="", fds={"fuse": -1})
        supervisor = Supervisor(request, log, lambda _: None, is_held=True)
        monkeypatch.setattr(supervisor._store, "take", lambda: (-1, b"", heirloom))
        monkeypatch.setattr(supervisor._connection, "adopt", fail)
        assert supervisor.run() == LOST
        with pytest.raises(BlockingIOError):
            systemd.recv(100)
        log.close()
    assert f"{tmp_path} is left to the next start: OSError(23" in capfd.readouterr().err


def test_systemd_is_given_no_key(tmp_path):
    """What it stores outlives the unit's processes, whose next start reads its own files; who execs has the key."""
    log = DaemonLog(path=None, foreground=True, level="info", json_lines=False)
    request = MountRequest(config={"mountpoint": str(tmp_path), "fsname": "s3://models", "allow_other": False})
    supervisor = Supervisor(request, log, lambda _: None, is_held=True)
    with supervisor._events:
        supervisor._keep_key({"secret_access_key": "hush"})
        assert b"hush" not in supervisor._heirloom(request, with_worker=False).to_bytes()
        assert b"hush" in supervisor._heirloom(request, with_worker=True).to_bytes()
    log.close()


@pytest.mark.parametrize("journal", ["journal0", "journal1"])
@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize(
    ("source", "snapshot", "served"),
    [
        ("s3://models", "latest", ("s3://models", "new", "1")),
        ("s3://others", "latest", ("s3://models", "old", "1")),
        ("s3://models", "monday", ("s3://models", "old", "1")),
        ("s3://models", None, ("s3://models", "old", "1")),
    ],
    ids=["of the same", "of another", "of another snapshot", "of the present"],
)
def test_a_unit_s_mount_goes_on_with_what_the_kernel_was_told(
    tmp_path, monkeypatch, source, snapshot, served, journal, is_there
):
    """Mutation: it shows another bucket behind open files, and that as of the moment of the first one's snapshot."""

    def config(source: str, log_level: str, snapshot: str | None, version: str | None) -> dict[str, object]:
        return {
            "mountpoint": str(tmp_path),
            "fsname": source,
            "allow_other": False,
            "log_level": log_level,
            "s3": {"snapshot": snapshot, "snapshot_version": version},
        }

    body = struct.pack("=IIIII", 7, 45, 131072, 0, 0) + bytes(44)
    init = struct.pack("=IIQQIIIHH", 40 + len(body), 26, 2, 0, 0, 0, 0, 0, 0) + body
    before = MountRequest(config=config("s3://models", "old", "latest", "1"))
    heirloom = Heirloom(
        request=before.to_values(),
        init_request=init.hex(),
        init_reply="11",
        fds={"fuse": os.dup(0), "journal": -1},
        journal=journal,
        journal_is_there=is_there,
    )
    log = DaemonLog(path=None, foreground=True, level="info", json_lines=False)
    supervisor = Supervisor(
        MountRequest(config=config(source, "new", snapshot, None)), log, lambda _: None, is_held=True
    )
    monkeypatch.setattr(supervisor._store, "take", lambda: (heirloom.fds["fuse"], init, heirloom))
    monkeypatch.setattr(supervisor._replacement, "take_over", lambda how: "")
    monkeypatch.setattr(supervisor, "_begin_to_serve", lambda: None)
    with supervisor._events:
        assert supervisor._take_from_systemd()
    found = supervisor._replacement.config
    assert (found["fsname"], found["log_level"], found["s3"]["snapshot_version"]) == served
    assert supervisor._replacement.served == before.config, "for the next one, where none comes to serve with it"
    told = []
    monkeypatch.setattr(supervisor._store._notify, "store", lambda name, _: bool(told.append(name)) or True)
    monkeypatch.setattr(supervisor._store, "_is_used", True)
    number = supervisor._connection.journal_number
    for journals in (0, 2):  # as a worker may write it anew twice while another one is made ready
        supervisor._connection._journals = number + journals
        supervisor._leave_with_systemd()
    other = {"journal0": "journal1", "journal1": "journal0"}[journal]
    expected = ["state", other, "state"] if is_there else [other, "state", journal, "state"]
    assert told == expected, "one killed between two leaves a state and its journal"
    supervisor._connection._journals += 1
    with_worker = supervisor._heirloom(supervisor._request, with_worker=True)
    in_force = other if is_there else journal
    assert with_worker.journal == in_force, "that of the state which systemd has, also behind an upgrade"
    assert not with_worker.journal_is_there, "it was written anew since"
    supervisor._connection.close()
    log.close()


def test_a_mount_of_the_present_does_not_become_one_of_a_snapshot():
    """Each worker would find out anew what 'latest' means, and names of several moments be believed for ever."""

    def config(snapshot: str | None) -> dict[str, object]:
        return {
            "mountpoint": "/models",
            "fsname": "s3://models",
            "allow_other": False,
            "s3": {"snapshot": snapshot, "snapshot_version": None},
        }

    assert another_mount(config("latest"), config(None)) == "snapshot is another one now"
    assert not another_mount(config("latest"), config("latest"))


@pytest.mark.parametrize("is_anew", [True, False], ids=["made anew", "made first"])
def test_a_hangup_that_comes_while_a_mount_is_made_anew_is_not_forgotten(tmp_path, is_anew):
    """Mutation: who asks for an upgrade then sees another worker, is told that all is well, and has the old program."""
    log = DaemonLog(path=None, foreground=True, level="info", json_lines=False)
    request = MountRequest(config={"mountpoint": str(tmp_path), "fsname": "s3://models", "allow_other": False})
    supervisor = Supervisor(request, log, lambda _: None)
    if is_anew:
        supervisor._replacement.succession.note_remounted()
    with supervisor._events:
        supervisor._events.signals.append(signal.SIGHUP)
        supervisor._check_interruptions()
    assert supervisor._wants_upgrade == is_anew
    log.close()


def test_a_mount_that_cannot_be_made_anew_is_never_an_empty_directory(tmp_path, monkeypatch):
    """The lost mount of a plain user is gone by then, and what took its place is all that hides the directory below.

    Mutation: where the first worker of the new mount ends too, as for the same want of memory, that is unmounted.
    """

    def fail() -> None:
        raise StartError("the worker was killed by SIGKILL")

    log = DaemonLog(path=None, foreground=True, level="info", json_lines=False)
    request = MountRequest(config={"mountpoint": str(tmp_path), "fsname": "s3://models", "allow_other": False})
    supervisor, ended = Supervisor(request, log, lambda _: None), []
    connection_fd, waits = os.pipe()
    monkeypatch.setattr(supervisor, "_make", fail)
    monkeypatch.setattr(supervisor._connection, "fuse_fd", connection_fd)
    monkeypatch.setattr(supervisor._connection, "is_mounted", lambda: True)
    monkeypatch.setattr(supervisor._connection, "try_unmount", lambda *, lazy: pytest.fail("it is seen"))
    monkeypatch.setattr(supervisor._workers, "end_all", lambda *, ask_first: ended.append(ask_first))
    with supervisor._events:
        assert not supervisor._remount("was killed by SIGKILL", "this kernel cannot")
    assert ended
    with pytest.raises(BrokenPipeError):  # nobody waits for it any more
        os.write(waits, b"x")
    os.close(waits)
    log.close()


def test_what_nobody_expected_behind_an_upgrade_leaves_the_mount_to_the_next_start(tmp_path, monkeypatch, capfd):
    """Mutation: it ends with 1, as a start that never served does, and the helper unmounts what the worker serves."""

    def fail(*_: object) -> None:
        raise OSError(23, "Too many open files in system")

    monkeypatch.setattr(Supervisor, "_adopt", fail)
    config = {"mountpoint": str(tmp_path), "fsname": "s3://models", "allow_other": False, "log_file": None}
    config |= {"log_level": "info", "log_format": "text", "nonempty": False, "kernel_read_ahead_kib": None}
    request = MountRequest(config=config).to_values()
    for is_held in (True, False):
        heirloom = Heirloom(request=request, init_request="", init_reply="", held_by_systemd=is_held, foreground=True)
        state_fd = write_memory_file(heirloom.to_bytes())
        if is_held:
            assert run_resumed(state_fd) == LOST
            assert "is left to the next start" in capfd.readouterr().err
            with monkeypatch.context() as gone:
                gone.setattr("sys.stderr", Unread())
                assert run_resumed(write_memory_file(heirloom.to_bytes())) == LOST, "also where nobody hears it"
        else:
            with pytest.raises(OSError, match="Too many"):
                run_resumed(state_fd)


class Unread(io.StringIO):
    """A standard error whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_unit_s_mount_is_looked_after_where_it_is(tmp_path, monkeypatch):
    """Mutation: whether it answers is asked of the directory that the unit's file names by now."""

    def request(mountpoint: str) -> MountRequest:
        config = {"mountpoint": mountpoint, "fsname": "s3://models", "allow_other": True, "log_level": "info"}
        config |= {"log_file": None, "log_format": "text", "nonempty": False, "kernel_read_ahead_kib": None}
        return MountRequest(config={**config, "s3": {}})

    before = request("/mnt/old")
    heirloom = Heirloom(request=before.to_values(), init_request="", init_reply="", fds={"fuse": -1})
    log = DaemonLog(path=None, foreground=True, level="info", json_lines=False)
    supervisor = Supervisor(request("/mnt/new"), log, lambda _: None, is_held=True)
    monkeypatch.setattr(supervisor._store, "take", lambda: (-1, b"", heirloom))
    monkeypatch.setattr(supervisor, "_adopt", lambda _: None)
    monkeypatch.setattr(supervisor._replacement, "take_over", lambda how: "")
    monkeypatch.setattr(supervisor, "_begin_to_serve", lambda: None)
    with supervisor._events:
        assert supervisor._take_from_systemd()
    assert supervisor._connection.spec == before.spec
    assert supervisor._watchdog._mountpoint == "/mnt/old"
    log.close()


@pytest.mark.parametrize(
    ("kind", "is_heard", "waits"),
    [("unreachable", True, True), ("denied", True, False), ("unreachable", False, False)],
)
def test_a_unit_is_not_given_up_for_a_store_that_is_away_for_long(tmp_path, monkeypatch, kind, is_heard, waits):
    """systemd counts its starts: ten within five minutes, and it stays down when the network is there at last.

    Mutation: it has spent them all in the first minute after a boot without one.
    """

    def fail() -> None:
        raise StartError("the store is away", 1, kind)

    monkeypatch.setattr(supervisors, "_AWAY_S", 0.5)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify") if is_heard else "")
        log = DaemonLog(path=None, foreground=True, level="info", json_lines=False)
        request = MountRequest(config={"mountpoint": str(tmp_path), "fsname": "s3://models", "allow_other": False})
        supervisor = Supervisor(request, log, lambda _: None)
        monkeypatch.setattr(supervisor, "_start", fail)
        waited: list[float] = []
        turn = supervisor._events.turn
        monkeypatch.setattr(supervisor._events, "turn", lambda timeout_s: waited.append(timeout_s) or turn(timeout_s))
        assert supervisor.run() == 1
        log.close()
    assert bool(waited) is waits


def test_a_unit_that_waits_for_its_next_start_can_be_stopped(tmp_path, monkeypatch):
    def fail() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        raise StartError("the store is away", 1, "unreachable")

    monkeypatch.setattr(supervisors, "_AWAY_S", 600.0)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    log = DaemonLog(path=None, foreground=True, level="info", json_lines=False)
    request = MountRequest(config={"mountpoint": str(tmp_path), "fsname": "s3://models", "allow_other": False})
    supervisor = Supervisor(request, log, lambda _: None)
    monkeypatch.setattr(supervisor, "_start", fail)
    began_s = time.monotonic()
    assert supervisor.run() == 1
    assert time.monotonic() - began_s < 60
    log.close()
