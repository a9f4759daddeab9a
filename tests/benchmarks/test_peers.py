"""What every plug-in for another mount keeps, and what becomes of one that is absent or does not mount."""

from __future__ import annotations

import sys

import pytest

from benchmarks.bench import Bench
from benchmarks.peer import Installed, Peer, PeerFailedError, Place, installed_peers, known_peers, mounted_peer
from benchmarks.run import parsed_arguments
from benchmarks.store import Store
from tigrismount.demo.model import plan_model

NAMES = ["geesefs", "juicefs", "mount-s3", "rclone", "s3fs", "tigrisfs"]


@pytest.fixture
def place(tmp_path):
    return Place("http://127.0.0.1:9", "bench", "model", tmp_path / "peer", tmp_path / "cache")


def _mounted(place):
    return mounted_peer(Installed(Sulking(), sys.executable), place, "")


class Sulking(Peer):
    """Is installed, and ends with a complaint."""

    name = "sulking"

    def command(self, executable, place, variant):
        return [executable, "-c", "import sys; sys.exit('no such\\nbucket')"]


def test_there_is_a_plug_in_for_each():
    assert sorted(known_peers()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_plug_in_mounts_the_prefix_of_the_store_at_the_mountpoint(name, place):
    peer = known_peers()[name]
    for variant in peer.variants:
        command = peer.command("/bin/false", place, variant)

        assert command[0] == "/bin/false"
        assert any(str(place.mountpoint) in word for word in command)
        assert any("read-only" in word or "ro" in word.split(",") for word in command), "nothing shall be written"
        if name != "juicefs":  # its volume knows the store
            assert any(place.endpoint_url in word for word in command)
            assert any(place.bucket in word for word in command)
    assert peer.directory(place) in (place.mountpoint, place.mountpoint / place.prefix)


@pytest.mark.parametrize("name", NAMES)
def test_a_plug_in_removes_its_cache(name, place):
    place.cache.mkdir()
    known_peers()[name].clean_up(place)

    assert not place.cache.exists()


def test_one_that_is_not_installed_is_absent(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    for name in NAMES:
        monkeypatch.delenv(name.upper().replace("-", "_"), raising=False)

    here, absent = installed_peers({})

    assert here == []
    assert sorted(absent) == NAMES


def test_the_command_line_and_the_environment_name_executables(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("S3FS", sys.executable)
    here, _ = installed_peers({"mount-s3": sys.executable})

    assert {found.peer.name: found.executable for found in here if found.peer.name in ("mount-s3", "s3fs")} == {
        "mount-s3": sys.executable,
        "s3fs": sys.executable,
    }


@pytest.mark.parametrize("word", ["goofys=/bin/true", "rclone", "rclone="])
def test_a_peer_that_cannot_be_named_like_this_is_refused(word, capsys):
    with pytest.raises(SystemExit):
        parsed_arguments(["--peer", word])
    assert word.partition("=")[0] in capsys.readouterr().err


def test_one_that_does_not_mount_says_why_in_one_line(place):
    with pytest.raises(PeerFailedError, match=r"sulking does not mount: no such bucket$"), _mounted(place):
        pass


def test_one_that_does_not_mount_is_noted_and_not_tried_again(tmp_path):
    bench = Bench(Store("http://127.0.0.1:9"), plan_model(1 << 20), tmp_path, 4, [])
    runs = []
    for _ in range(2):
        bench.with_peer(Installed(Sulking(), sys.executable), "", "model", runs.append)

    assert bench.notes == ["sulking: sulking does not mount: no such bucket"]
    assert runs == []


def test_juicefs_that_cannot_copy_the_model_says_what_it_needs(place):
    (place.mountpoint.parent / "peer").mkdir()
    with pytest.raises(PeerFailedError, match="it needs --embedded"):
        known_peers()["juicefs"].prepare("/bin/false", place)
