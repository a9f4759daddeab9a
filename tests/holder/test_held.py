"""A supervisor whose mount systemd holds, too."""

from __future__ import annotations

import socket

import pytest

from tigrismount.errors import MountError
from tigrismount.holder.log import DaemonLog
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
