from __future__ import annotations

import json
import socket
import threading

import pytest
import trio

from tigrismount.cache.disk import DiskBlockCache
from tigrismount.cache.options import DiskCacheConfig
from tigrismount.cli import loads as command
from tigrismount.cli.main import main
from tigrismount.control.paths import socket_path
from tigrismount.core import loadlog
from tigrismount.core.loadtracker import LoadTracker
from tigrismount.core.types import ObjectId
from tigrismount.holder.mountinfo import FUSE_TYPE, MountEntry
from tigrismount.reader.loads import TABLE, pack_report

MIB = 1 << 20


def report(started_s: float = 1e9, mountpoint: str = "/models", **changes: object) -> dict:
    """A report as a mount makes it."""
    obj = ObjectId("models", "llama/model.safetensors", "etag", 64 * MIB)
    tracker = LoadTracker()
    tracker.fold(
        [
            (loadlog.WAIT, obj, 0, 8 * MIB, 0.0, 0.0, "", ""),
            (loadlog.ANSWER, obj, 0, 8 * MIB, 0.0, 1.5, loadlog.REMOTE, loadlog.PLAN),
            (loadlog.GET, obj, 0, 8 * MIB, 0.0, 1.4, "", ""),
        ]
    )
    (load,) = tracker.finish_all()
    made = {**load.report(started_s), "source": "s3://models", "mountpoint": mountpoint, "state": "done", **changes}
    made["gets"] |= {"retries": 2, "slow_downs": 0}
    return made


@pytest.fixture(autouse=True)
def runtime(short_path, monkeypatch):
    directory = short_path / "runtime"
    directory.mkdir(mode=0o700)
    monkeypatch.setattr(command, "runtime_directories", lambda *_, **__: [str(directory)])
    monkeypatch.setattr(command, "find_socket", lambda *_, mountpoint, **__: socket_path(str(directory), mountpoint))
    return str(directory)


@pytest.fixture
def mount(runtime):
    """A mount's control socket that answers once."""
    threads = []

    def start(mountpoint: str, *reports: dict) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(socket_path(runtime, mountpoint))
        listener.listen()

        def answer() -> None:
            with listener, listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(json.dumps({"loads": list(reports)}).encode() + b"\n")

        threads.append(threading.Thread(target=answer))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(10)


@pytest.fixture
def cache(tmp_path):
    """A cache directory that keeps two reports."""

    async def fill() -> None:
        config = DiskCacheConfig(directory=str(tmp_path / "cache"), size_bytes=64 * MIB)
        disk = await DiskBlockCache.open(config, store_id="tigris")
        for order, started_s in enumerate((2e9, 1e9)):  # the newest first, as the mount keys them
            await disk.records.put(TABLE, bytes([order]), pack_report(report(started_s)))
        await disk.aclose()

    trio.run(fill)
    return str(tmp_path / "cache")


def test_json_is_a_list_with_the_newest_last(mount, capsys):
    mount("/models", report(1e9), report(2e9))

    assert main(["loads", "--json"]) == 0
    assert [made["started"] for made in json.loads(capsys.readouterr().out)] == [1e9, 2e9]


def test_last_is_the_newest_only(mount, capsys):
    mount("/models", report(1e9), report(2e9))

    assert main(["loads", "--json", "--last"]) == 0
    assert [made["started"] for made in json.loads(capsys.readouterr().out)] == [2e9]


def test_mounts_that_share_a_cache_tell_each_load_once(mount, capsys):
    mount("/a", report(1e9, "/a"), report(2e9, "/b"))
    mount("/b", report(1e9, "/a"), report(2e9, "/b"), report(3e9, "/b"))

    assert main(["loads", "--json"]) == 0
    assert [made["started"] for made in json.loads(capsys.readouterr().out)] == [1e9, 2e9, 3e9]


def test_a_mountpoint_picks_its_own_loads(mount, capsys):
    mount("/b", report(1e9, "/a"), report(2e9, "/b"))

    assert main(["loads", "/b", "--json"]) == 0
    assert [made["started"] for made in json.loads(capsys.readouterr().out)] == [2e9]


def test_what_is_not_mounted_is_not_found(capsys):
    assert main(["loads", "/nowhere"]) == 3
    assert "/nowhere: is not mounted" in capsys.readouterr().err


def test_a_mount_of_somebody_else_is_one(monkeypatch, capsys):
    """Mutation: "is not mounted" of what is there for everybody to see."""
    entry = MountEntry(1, "0:1", "/models", FUSE_TYPE, "s3://models", ("user_id=4242",))
    monkeypatch.setattr(command, "mount_at", lambda _: entry)
    assert main(["loads", "/models"]) == 3
    assert "/models: its daemon is gone, or another user's; " in capsys.readouterr().err


def test_the_cache_is_read_where_nothing_is_mounted(cache, monkeypatch, capsys):
    monkeypatch.setenv("TIGRISMOUNT_CACHE_DIR", cache)

    assert main(["loads", "--json"]) == 0
    assert [made["started"] for made in json.loads(capsys.readouterr().out)] == [1e9, 2e9]


def test_a_cache_can_be_named(cache, tmp_path, capsys):
    assert main(["loads", "--json", "--cache-dir", cache]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert main(["loads", "--cache-dir", str(tmp_path / "none")]) == 3


def test_of_a_cache_that_is_named_those_of_one_mountpoint_are_shown_mounted_or_not(cache, capsys):
    """Mutation: the mount is asked all the same, and 'is not mounted'."""
    assert main(["loads", "/models", "--json", "--last", "--cache-dir", cache]) == 0
    assert [made["started"] for made in json.loads(capsys.readouterr().out)] == [2e9]
    assert main(["loads", "/others", "--json", "--cache-dir", cache]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_no_cache_and_no_mount_is_no_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TIGRISMOUNT_CACHE_DIR", str(tmp_path / "none"))

    assert main(["loads"]) == 0
    assert "no load was seen" in capsys.readouterr().out


def test_a_person_sees_why_a_load_was_slow(mount, capsys):
    mount("/models", report())

    assert main(["loads", "--last"]) == 0
    shown = capsys.readouterr().out
    assert "1 reads, 1.5 s in all, for bytes nobody had asked for yet" in shown
    assert "1.00 times what was needed" in shown
    assert "1, p50 1.4 s, p99 1.4 s" in shown
    assert "0-8388608" in shown, "the longest wait"


def test_the_list_shows_one_line_per_load(mount, capsys):
    mount("/models", report(), report(2e9, state="loading"))

    assert main(["loads"]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["STARTED", "MODEL"]
    assert "s3://models/llama" in first
    assert "so far" in second
