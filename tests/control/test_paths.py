from __future__ import annotations

import os
import socket

import pytest

from tigrismount.control import paths
from tigrismount.control.paths import (
    ensure_runtime_directory,
    find_socket,
    is_private,
    runtime_directory,
    socket_path,
)
from tigrismount.errors import MountError


@pytest.mark.parametrize(
    ("environment", "uid", "directory"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/0"}, 0, "/run/tigrismount"),
        ({"XDG_RUNTIME_DIR": "/run/user/5"}, 5, "/run/user/5/tigrismount"),
        ({"XDG_RUNTIME_DIR": "relative"}, 5, "/tmp/tigrismount-5"),
        ({}, 5, "/tmp/tigrismount-5"),
    ],
)
def test_each_user_has_a_directory(environment, uid, directory):
    assert runtime_directory(environment, uid=uid) == directory


def test_the_directory_is_made_for_its_owner_alone(tmp_path):
    directory = str(tmp_path / "a" / "tigrismount")
    ensure_runtime_directory(directory)
    ensure_runtime_directory(directory)
    assert os.stat(directory).st_mode & 0o777 == 0o700


def test_a_directory_that_others_may_write_to_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    assert not is_private(str(tmp_path))
    with pytest.raises(MountError, match="not a directory of yours alone"):
        ensure_runtime_directory(str(tmp_path))


def test_a_link_to_a_directory_is_refused(tmp_path):
    """Whoever made it could change where it points."""
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(MountError):
        ensure_runtime_directory(str(tmp_path / "link"))


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MountError, match="cannot be made"):
        ensure_runtime_directory(str(tmp_path / "file" / "x"))


def test_socket_names_are_short_stable_and_differ():
    """Part of the interface: other programs compute them too."""
    path = socket_path("/run/tigrismount", "/models")
    assert path == "/run/tigrismount/8452a47cea3c4076.sock"
    assert socket_path("/run/tigrismount", "/models2") != path
    assert len(socket_path("", "/x" * 2000)) == 21


def test_a_socket_left_behind_hides_no_daemon(tmp_path, monkeypatch):
    """Root mounted, was killed, and a unit mounts there now: its mount could not be upgraded, nor said to be degraded.

    Without a daemon it is the one that is there, so that it is said to be gone.
    """
    directories = [str(tmp_path / "a"), str(tmp_path / "b")]
    for directory in directories:
        os.mkdir(directory)
    monkeypatch.setattr(paths, "runtime_directories", lambda *_, **__: directories)
    stale, live = (socket_path(directory, "/models") for directory in directories)
    assert find_socket({}, uid=0, mountpoint="/models") == stale
    with socket.socket(socket.AF_UNIX) as left, socket.socket(socket.AF_UNIX) as listener:
        left.bind(stale)
        assert find_socket({}, uid=0, mountpoint="/models") == stale
        listener.bind(live)
        listener.listen()
        assert find_socket({}, uid=0, mountpoint="/models") == live
        left.listen()
        assert find_socket({}, uid=0, mountpoint="/models") == stale
