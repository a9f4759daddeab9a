from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from tigrismount.cli import completing
from tigrismount.cli.main import cli
from tigrismount.holder.mountinfo import FUSE_TYPE, MountEntry


def offered(arguments: list[str], incomplete: str) -> list[tuple[str, str]]:
    found = ShellComplete(cli, {}, "tigrismount", "_TIGRISMOUNT_COMPLETE").get_completions(arguments, incomplete)
    return [(item.type, item.value) for item in found]


@pytest.fixture
def mounted(monkeypatch):
    """Two mounts of ours and one of the kernel's."""
    entries = [
        MountEntry(mount_id=1, device="0:1", mountpoint=point, type=type_, source="s3://b", super_options=())
        for point, type_ in (("/models", FUSE_TYPE), ("/more", FUSE_TYPE), ("/mnt", "ext4"))
    ]
    monkeypatch.setattr(completing, "read_mounts", lambda: entries)


def test_commands_and_their_options_are_offered():
    assert offered([], "sta") == [("plain", "status")]
    assert ("plain", "--watch") in offered(["status"], "--")
    assert ("plain", "evict") in offered(["cache"], "")


@pytest.mark.parametrize("command", ["status", "loads", "unmount", "health", "upgrade"])
def test_mountpoints_are_offered_where_one_is_taken(mounted, command):
    assert offered([command], "/m") == [("plain", "/models"), ("plain", "/more")]
    assert offered([command], "/mod") == [("plain", "/models")]


@pytest.mark.parametrize("command", ["refresh", "warm", "inspect"])
def test_below_a_mountpoint_the_shell_looks_itself(mounted, command):
    assert offered([command], "/mod") == [("plain", "/models")]
    assert offered([command], "/models/ll") == [("file", "/models/ll")]


def test_where_something_is_to_be_mounted_directories_are_offered(mounted):
    assert offered(["mount", "s3://my-bucket"], "/m") == [("dir", "/m")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_told_whom_to_ask(tigrismount, shell):
    ended = tigrismount("completion", shell)
    assert ended.exit_code == 0
    assert f"_TIGRISMOUNT_COMPLETE={shell}_complete" in ended.out


def test_bash_completes_a_command(tmp_path):
    """The whole way: what is printed is sourced, and the function that it defines is asked."""
    executable = tmp_path / "tigrismount"
    executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tigrismount "$@"\n')
    executable.chmod(0o755)
    script = """
        eval "$(tigrismount completion bash)"
        COMP_WORDS=(tigrismount heal) COMP_CWORD=1
        _tigrismount_completion tigrismount
        echo "${COMPREPLY[@]}"
    """
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    assert done.stdout.strip() == "health"


def test_a_shell_that_is_none_of_them_is_bad_usage(fails):
    exit_code, line = fails("completion", "tcsh")
    assert exit_code == 2
    assert "bash" in line
