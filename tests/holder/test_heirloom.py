"""The state that one version of the supervisor leaves to another: the format is a contract."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

from tigrismount.errors import MountError
from tigrismount.holder.heirloom import Heirloom, read_memory_file, write_memory_file
from tigrismount.holder.request import MountRequest

CONFIG = {
    "mountpoint": "/models",
    "fsname": "s3://models",
    "allow_other": False,
    "nonempty": False,
    "kernel_read_ahead_kib": None,
    "log_file": None,
    "log_format": "text",
    "log_level": "info",
}

FIRST_VERSION = {
    "request": {
        "config": CONFIG,
        "worker_command": ["python"],
        "deadlines": {"start_s": 60.0, "takeover_s": 60.0},
    },
    "init_request": "0011",
    "init_reply": "2233",
    "worker_pid": 7,
    "fds": {"fuse": 3, "journal": 4, "channel": 5, "output": 6},
}
"""What every later version must understand; never change it."""


@pytest.fixture
def heirloom():
    request = MountRequest(config=CONFIG, reload_command=("tigrismount", "mount"), directory="/root")
    return Heirloom(
        request=request.to_values(), init_request="00", init_reply="11", count=3, reason="was killed", fds={"fuse": 3}
    )


def test_what_was_written_is_read(heirloom):
    again = Heirloom.from_bytes(heirloom.to_bytes())
    assert again == Heirloom.from_bytes(again.to_bytes())
    assert (again.count, again.reason, again.fds) == (3, "was killed", {"fuse": 3})
    assert again.mount_request().reload_command == ("tigrismount", "mount")


def test_a_key_goes_with_it_and_shows_in_no_log(heirloom):
    heirloom = dataclasses.replace(heirloom, private={"key": {"secret_access_key": "hush"}})
    assert Heirloom.from_bytes(heirloom.to_bytes()).private == heirloom.private
    assert "hush" not in repr(heirloom)


def test_the_first_versions_state_is_understood_for_ever():
    heirloom = Heirloom.from_bytes(json.dumps(FIRST_VERSION).encode())
    assert heirloom.fds["output"] == 6
    assert heirloom.mount_request().spec.mountpoint == "/models"
    assert (heirloom.count, heirloom.held_by_systemd, heirloom.foreground) == (0, False, False)


def test_members_of_a_later_version_are_passed_over():
    assert Heirloom.from_bytes(json.dumps({**FIRST_VERSION, "colour": "blue"}).encode()).worker_pid == 7


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        json.dumps({**FIRST_VERSION, "init_reply": "xy"}).encode(),
        json.dumps({**FIRST_VERSION, "request": {}}).encode(),
    ],
    ids=["nothing", "list", "empty", "not hexadecimal", "no request"],
)
def test_anything_else_is_an_error(data):
    with pytest.raises(MountError):
        Heirloom.from_bytes(data)


def test_a_memory_file_can_be_read_again_and_again(heirloom):
    fd = write_memory_file(heirloom.to_bytes())
    try:
        assert not os.get_inheritable(fd)
        assert read_memory_file(fd) == read_memory_file(fd) == heirloom.to_bytes()
    finally:
        os.close(fd)
