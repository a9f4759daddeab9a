"""What all commands have in common, asked of each one that there is: a new command is held to it without a word here.

``CASES`` may be told how a new command is brought to an end, in a world without a mount, a cache and a store.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tigrismount.cli.main import cli

DEAD = ("--endpoint-url", "http://127.0.0.1:9", "--request-timeout", "1s", "--max-retries", "0")
CASES = {
    "mount": (2, "mount", "s3://my-bucket", "/nowhere", "--cache-size", "lots"),
    "unmount": (3, "unmount", "/nowhere"),
    "status": (3, "status", "/nowhere"),
    "loads": (3, "loads", "--cache-dir", "/nowhere"),
    "ls": (1, "ls", "s3://my-bucket", *DEAD),
    "inspect": (3, "inspect", "/nowhere"),
    "snapshots": (1, "snapshots", "s3://my-bucket", *DEAD),
    "health": (1, "health", "/nowhere"),
    "upgrade": (3, "upgrade", "/nowhere"),
    "refresh": (3, "refresh", "/nowhere"),
    "warm": (3, "warm", "/nowhere"),
    "install-systemd": (1, "install-systemd", "--root", "/proc/nowhere"),
    "cache stats": (3, "cache", "stats", "--cache-dir", "/nowhere"),
    "cache list": (3, "cache", "list", "--cache-dir", "/nowhere"),
    "cache verify": (3, "cache", "verify", "--cache-dir", "/nowhere"),
    "cache evict": (3, "cache", "evict", "x", "--cache-dir", "/nowhere"),
    "cache pin": (3, "cache", "pin", "x", "--cache-dir", "/nowhere"),
    "cache unpin": (3, "cache", "unpin", "x", "--cache-dir", "/nowhere"),
    "cache clear": (3, "cache", "clear", "--yes", "--cache-dir", "/nowhere"),
    "doctor": (1, "doctor", "s3://my-bucket", "--cache-dir", "off", *DEAD),
    "bench": (1, "bench", "s3://my-bucket", *DEAD),
    "completion": (2, "completion", "tcsh"),
    "csi": (2, "csi", "--endpoint", "tcp://127.0.0.1:1", "--node-id", "node-1"),
    "demo": (2, "demo", "--size", "1KiB"),
}
"""By command: an exit status and how to get it; 1 failed, 2 bad usage, 3 not found, and ``health`` has its own."""
REPORTS_NOTHING = ("mount", "unmount", "completion", "install-systemd", "csi", "mounter", "metrics")
"""Those that do something and say so in a line, those that serve, and one whose text is for programs already."""
AT_NO_PROMPT = ("csi", "mounter")
"""Nobody types them: a container's specification has them."""
COLOUR = re.compile(r"\x1b\[(?:[\d;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[\d;]*)?m")


def walk(command: click.Command, path: tuple[str, ...] = ()):
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    for name in command.list_commands(click.Context(command)):
        child = command.get_command(click.Context(command), name)
        assert child is not None
        yield from walk(child, (*path, name))


COMMANDS = dict(walk(cli))
every_command = pytest.mark.parametrize("name", COMMANDS)


def options_of(name: str) -> list[str]:
    return [text for parameter in COMMANDS[name].params for text in parameter.opts if text.startswith("--")]


def without_settings(path: os.PathLike[str]) -> dict[str, str]:
    """Return an environment in which nobody has configured anything."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "LANG")}
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    return kept | keys | {"HOME": str(path), "TERM": "xterm-256color"}


def case(name: str) -> tuple[int, list[str]]:
    """Return an exit status and the command line that ends with it; bad usage where there is no other case."""
    status, *arguments = CASES.get(name, (2, *name.split(), "--no-such-option"))
    return int(status), list(map(str, arguments))


def test_every_case_is_of_a_command():
    assert set(CASES) <= set(COMMANDS)


@every_command
def test_help_says_what_it_does_shows_an_example_and_fits_a_terminal(name):
    shown = {flag: CliRunner().invoke(cli, [*name.split(), flag], terminal_width=80) for flag in ("--help", "-h")}
    assert {result.exit_code for result in shown.values()} == {0}
    text = shown["--help"].output
    assert text == shown["-h"].output
    assert text.startswith(f"Usage: cli {name} ")
    command = COMMANDS[name]
    assert (command.help or "").strip().partition("\n")[0].endswith((".", "?"))
    assert re.match(rf"Example: .*tigrismount {re.escape(name)}\b", command.epilog or "")
    # An option that takes one of several words has a line of its own, however long.
    assert [line for line in text.splitlines() if len(line) > 80 and not line.startswith("  --")] == []
    undocumented = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
    assert undocumented == []


@every_command
def test_a_mistyped_option_is_one_line_that_has_the_right_one(fails, name):
    for option in options_of(name):
        mistyped = f"{option[:-2]}{option[-1]}{option[-2]}" if option[-1] != option[-2] else f"{option}{option[-1]}"
        if mistyped in options_of(name) or len(option) < 6:
            continue
        exit_code, line = fails(*name.split(), mistyped)
        assert exit_code == (64 if name == "health" else 2)
        assert option in line
        assert f"see 'tigrismount {name} --help'" in line


@pytest.mark.parametrize("name", [name for name in COMMANDS if " " not in name and len(name) > 2])
def test_a_mistyped_command_is_one_line_that_has_the_right_one(fails, name):
    exit_code, line = fails(f"{name[:-2]}{name[-1]}{name[-2]}" if name[-1] != name[-2] else name[:-1])
    assert exit_code == 2
    assert name in line.partition("did you mean")[2]


@every_command
def test_what_reports_can_report_to_a_script(name):
    options = options_of(name)
    assert "--debug" in options
    assert "--json" in options or name in REPORTS_NOTHING


@every_command
def test_exit_statuses_and_one_line_that_says_why(tigrismount, monkeypatch, name, tmp_path):
    for variable in set(os.environ) - {"PATH"}:
        monkeypatch.delenv(variable)
    for variable, value in without_settings(tmp_path).items():
        monkeypatch.setenv(variable, value)
    status, arguments = case(name)
    ended = tigrismount(*arguments)
    assert ended.exit_code == status, ended.err
    assert "\x1b" not in ended.out + ended.err, "colours are for terminals"
    lines = [line for line in (ended.err or ended.out).splitlines() if not line.startswith("tigrismount: warning: ")]
    assert len(lines) == 1 or name == "doctor"


def run_on_a_terminal(names, env: dict[str, str]) -> str:
    """Run commands' cases, one after the other in one process whose output is a terminal; return what it got."""
    lists = [case(name)[1] for name in names]
    code = "import json, sys; from tigrismount.cli.main import main\nfor a in json.loads(sys.argv[1]): main(a)"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code, json.dumps(lists)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the last one to hold the other end has closed it
                break
            if not piece:
                break
            seen += piece
        process.wait(60)
    os.close(ours)
    return seen.decode()


def test_no_color_is_heeded_by_all_of_them_and_a_terminal_has_colours_otherwise(tmp_path):
    env = without_settings(tmp_path)
    assert COLOUR.search(run_on_a_terminal(["doctor"], env))
    plain = run_on_a_terminal(COMMANDS, env | {"NO_COLOR": "1"})
    assert "pass" in plain
    assert not COLOUR.search(plain)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in AT_NO_PROMPT])
def test_values_are_completed_where_the_help_names_their_kind(name):
    context = click.Context(COMMANDS[name])
    for option in COMMANDS[name].params:
        kinds = (option.metavar or "").split("|") if isinstance(option, click.Option) else []
        offered = [(item.type, item.value) for item in option.shell_complete(context, "")]
        if any(kind.startswith(("DIR", "FILE")) for kind in kinds):
            assert [kind for kind, _ in offered] == ["dir" if "DIR" in kinds else "file"], option.name
        elif any(kind.islower() for kind in kinds):
            assert offered == [("plain", kind) for kind in kinds if kind.islower()], option.name
