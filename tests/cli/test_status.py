from __future__ import annotations

import json
import os
import socket
import threading

import pytest

from tigrismount.cli.mounted import collect_mounts
from tigrismount.cli.status import _print_details, _print_overview
from tigrismount.control.paths import socket_path
from tigrismount.holder.mountinfo import FUSE_TYPE, MountEntry

REPLY = {
    "source": "s3://models",
    "pid": 12,
    "supervisor_pid": 11,
    "cache_dir": "/nvme",
    "degraded": [],
    "bytes": {"ram": 1, "nvme": 2048, "remote": 3 << 20, "pushed": 0},
    "requests": {"get": 3},
    "cache": {"bytes_cached": 1 << 30, "capacity_bytes": 2 << 30},
    "config": {
        "metadata_ttl": {"value": "inf", "from": "--metadata-ttl"},
        "profile": {"value": None, "from": "default"},
        "block_size": {"value": 8 << 20, "from": "default"},
        "cache_free": {"value": 0.05, "from": "default"},
        "request_timeout": {"value": 300.0, "from": "default"},
        "allow_other": {"value": True, "from": "default"},
        "of_a_newer_worker": {"value": [1], "from": "default"},
    },
}


def entry(mountpoint: str, *, type_: str = FUSE_TYPE) -> MountEntry:
    return MountEntry(
        mount_id=1, device="0:1", mountpoint=mountpoint, type=type_, source="s3://b", super_options=("user_id=5",)
    )


@pytest.fixture
def runtime(short_path):
    directory = short_path / "runtime"
    directory.mkdir(mode=0o700)
    return str(directory)


@pytest.fixture
def worker(runtime):
    """A control socket that answers once."""
    threads = []

    def start(mountpoint: str, **reply: object) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(socket_path(runtime, mountpoint))
        listener.listen()

        def answer() -> None:
            with listener, listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(json.dumps({"mountpoint": mountpoint, **REPLY, **reply}).encode() + b"\n")

        threads.append(threading.Thread(target=answer))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(10)


def test_workers_tell_of_themselves(runtime, worker):
    worker("/b")
    worker("/a", degraded=["cache: disk full"])
    first, second = collect_mounts([runtime], [entry("/a"), entry("/b"), entry("/", type_="ext4")])
    assert (first["mountpoint"], first["state"]) == ("/a", "degraded")
    assert (second["mountpoint"], second["state"], second["bytes"]["remote"]) == ("/b", "ok", 3 << 20)


def test_a_worker_that_serves_what_was_unmounted_lazily_is_detached(runtime, worker):
    worker("/a")
    [mount] = collect_mounts([runtime], [])
    assert mount["state"] == "detached"


def test_sockets_without_a_worker_are_removed(runtime):
    path = socket_path(runtime, "/a")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
    assert collect_mounts([runtime], []) == []
    assert not os.path.exists(path)


def test_a_mount_without_a_socket_is_judged_from_outside(runtime, tmp_path):
    """An ordinary directory answers: it serves, but nobody tells about it."""
    [mount] = collect_mounts([runtime], [entry(str(tmp_path))])
    assert (mount["state"], mount["pid"], mount["source"]) == ("unknown", None, "s3://b")
    assert mount["degraded"] == ["it belongs to user 5, or its control socket is gone"]


def test_the_overview_has_a_line_per_mount(capsys):
    _print_overview([{**REPLY, "mountpoint": "/a", "state": "degraded", "degraded": ["cache: disk full"]}])
    header, row, reason = capsys.readouterr().out.splitlines()
    assert header.split() == ["MOUNTPOINT", "SOURCE", "STATE", "CACHE", "FROM", "STORE", "FROM", "NVME", "PID"]
    assert row.split("  ") == ["/a", *[""] * 3, *row.split("  ")[4:]]
    assert "1 GiB of 2 GiB" in row
    assert "3 MiB" in row
    assert reason == "/a: cache: disk full"


def test_details_show_every_value_in_force_and_its_origin(capsys):
    _print_details({**REPLY, "mountpoint": "/a", "state": "ok"})
    out = capsys.readouterr().out
    assert "pid 12, supervisor 11" in out
    assert "1 GiB of 2 GiB in /nvme" in out
    shown = {words[0]: words[1:] for line in out.splitlines() if (words := line.split())}
    assert shown["metadata-ttl"] == ["inf", "--metadata-ttl"]
    defaults = out.splitlines()[-1]
    assert defaults.startswith("by default: ")
    for option in ("block-size 8 MiB", "cache-free 5%", "request-timeout 300s", "allow-other on", "newer-worker [1]"):
        assert option in defaults


def test_details_show_what_is_frozen_and_what_stands_on_the_way(capsys):
    _print_details({**REPLY, "mountpoint": "/a", "state": "ok", "snapshot": "17", "notes": ["behind TAG"]})
    shown = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line]
    assert ["snapshot", "17"] in shown
    assert ["note", "behind TAG"] in shown


def test_a_mount_that_tells_nothing_can_be_shown(capsys, runtime, tmp_path):
    mounts = collect_mounts([runtime], [entry(str(tmp_path))])
    _print_overview(mounts)
    _print_details(mounts[0])
    assert "unknown" in capsys.readouterr().out


def test_a_path_that_is_not_mounted_is_not_found(fails, tmp_path):
    exit_code, line = fails("status", str(tmp_path), "--json")
    assert exit_code == 3
    assert line.startswith(f"{tmp_path}: is not mounted")


def test_json_has_a_list_of_mounts(tigrismount):
    ended = tigrismount("status", "--json")
    assert ended.exit_code == 0
    assert isinstance(json.loads(ended.out)["mounts"], list)


def test_the_socket_of_a_worker_that_is_being_replaced_is_left_to_its_successor(runtime):
    """Between two workers nobody listens; removed then, the successor's socket could be the one that goes."""
    for mountpoint in ("/there", "/gone"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(socket_path(runtime, mountpoint))
    collect_mounts([runtime], [entry("/there")])
    assert os.listdir(runtime) == [os.path.basename(socket_path(runtime, "/there"))]


def test_a_failed_upgrade_is_shown_with_its_reason(capsys):
    takeovers = {"count": 1, "last_reason": "was killed by SIGKILL", "attempts": 1, "last_failure": "no such option"}
    mount = {"mountpoint": "/m", "state": "ok", "takeovers": takeovers}
    _print_details(mount)
    shown = capsys.readouterr().out
    assert "not upgraded" in shown
    assert "no such option" in shown
