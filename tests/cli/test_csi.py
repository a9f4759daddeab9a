"""``tigrismount csi`` before it serves: what it refuses, and what it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

GOOD = ("csi", "--endpoint", "unix:///nowhere/csi.sock", "--node-id", "node-1")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--endpoint", "tcp://127.0.0.1:1"), "--endpoint tcp://127.0.0.1:1: expected the path of a socket"),
        (("--endpoint", "unix://"), "expected the path of a socket"),
        (("--driver-name", "-x"), "--driver-name -x: expected at most 63"),
        (("--driver-name", "x" * 64), "expected at most 63"),
        (("--node-id", ""), "--node-id: expected the name of this node"),
        (("--node-id", "n" * 257), "--node-id: expected the name of this node"),
        (("-o", "metadata_tll=1"), "did you mean metadata_ttl?"),
        (("-o", "cache-dir=/x"), "is for the mounter's command line"),
        (("--max-memory-limit", "1GiB", "-o", "memory-limit=2GiB"), "is more than --max-memory-limit allows"),
        (("--max-memory-limit", "much"), "--max-memory-limit much: expected a size"),
    ],
)
def test_what_is_wrong_is_one_line(tigrismount, arguments, says):
    ended = tigrismount(*GOOD, *arguments)

    assert ended.exit_code == 2
    assert says in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("name", ["grpc", "google.protobuf"])
def test_without_the_extra_it_says_how_to_install_it(tigrismount, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)

    ended = tigrismount(*GOOD)

    assert ended.exit_code == 2
    assert f"{sys.executable} -m pip install 'tigrismount[csi]'" in ended.err


def test_only_root_can_mount_for_others(tigrismount, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    ended = tigrismount(*GOOD)

    assert ended.exit_code == 1
    assert "run it as root, in a privileged container" in ended.err


def test_help_needs_no_extra():
    code = "import sys; sys.modules['grpc'] = None; from tigrismount.cli.main import main; main(['csi', '--help'])"

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "Be the CSI driver of this node" in ended.stdout
