from __future__ import annotations

import os
import shutil
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


def test_a_word_that_begins_as_typed_wins_over_directories():
    assert offered(["mount", "--cache-dir"], "o") == [("plain", "off")]
    assert offered(["mount", "--cache-dir"], "/nv") == [("dir", "/nv")]
    assert offered(["mount", "--verify"], "o") == [("plain", "once"), ("plain", "off")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_told_whom_to_ask(tigrismount, shell):
    ended = tigrismount("completion", shell)
    assert ended.exit_code == 0
    assert f"_TIGRISMOUNT_COMPLETE={shell}_complete" in ended.out


@pytest.fixture
def shell_env(tmp_path):
    """An environment in which a shell finds this checkout's program, and no settings of its user."""
    executable = tmp_path / "tigrismount"
    executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tigrismount "$@"\n')
    executable.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb"}


def test_bash_completes_a_command(shell_env):
    """The whole way: what is printed is sourced, and the function that it defines is asked."""
    script = """
        eval "$(tigrismount completion bash)"
        COMP_WORDS=(tigrismount heal) COMP_CWORD=1
        _tigrismount_completion tigrismount
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=shell_env)
    assert done.stdout.strip() == "health"


def test_fish_completes_a_command_and_says_what_it_is_for(shell_env):
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    script = 'tigrismount completion fish | source; complete -C "tigrismount heal"'
    done = subprocess.run(["fish", "-c", script], capture_output=True, text=True, check=True, env=shell_env)
    assert done.stdout.split(maxsplit=1) == ["health", "Tell whether a mount answers, as an exit status.\n"]


def test_zsh_completes_a_command_at_the_prompt(shell_env):
    """Its completion works at a prompt alone: TAB is pressed on a terminal."""
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    script = r"""
        zmodload zsh/zpty && zpty z zsh -f -i
        zpty -w z 'autoload -Uz compinit && compinit -D -u && eval "$(tigrismount completion zsh)"; echo set" up"'
        zpty -r -m z seen '*set up*'
        zpty -w -n z $'tigrismount heal\t'
        zpty -r -m z seen '*tigrismount health*'
        print -r -- $seen
    """
    done = subprocess.run(
        ["zsh", "-f", "-c", script], capture_output=True, text=True, check=True, env=shell_env, timeout=60
    )
    assert "tigrismount health" in done.stdout


def test_a_shell_that_is_none_of_them_is_bad_usage(fails):
    exit_code, line = fails("completion", "tcsh")
    assert exit_code == 2
    assert "bash" in line
