from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from tigrismount import __version__
from tigrismount.cli.main import _explain, cli, main
from tigrismount.config.options import OPTIONS
from tigrismount.errors import ConfigError, MountError

COMMANDS = ("mount", "unmount", "status", "cache", "demo")


def test_help_lists_the_commands(tigrismount):
    ended = tigrismount("--help")
    assert ended.exit_code == 0
    assert all(f"\n  {command} " in ended.out for command in COMMANDS)


@pytest.mark.parametrize("command", [*([name] for name in COMMANDS), ["umount"], ["cache", "stats"]])
def test_every_command_has_help_with_an_example(command):
    result = CliRunner().invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example: tigrismount" in result.output


@pytest.mark.parametrize("command", [[], ["cache"]])
def test_no_summary_of_a_command_is_cut(command):
    """Mutation: click cuts the first sentence where the line ends."""
    assert "..." not in CliRunner().invoke(cli, [*command, "--help"]).output.partition("Commands:")[2]


def test_mount_offers_every_option_of_the_table():
    text = CliRunner().invoke(cli, ["mount", "--help"]).output
    assert [option.name for option in OPTIONS if f"--{option.name}" not in text] == []


def test_version_names_what_reports_need(tigrismount):
    ended = tigrismount("--version")
    assert ended.exit_code == 0
    assert ended.out.splitlines()[0] == f"tigrismount {__version__}"
    assert [line.split()[0] for line in ended.out.splitlines()[1:]] == ["Python", "pyfuse3", "libfuse", "Linux", "FUSE"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([""], "the mountpoint is empty"), (["/", "--timeout", "inf"], "at most 1d"), (["/", "--timeout", "200d"], "1d")],
)
def test_what_health_cannot_be_asked_is_bad_usage_and_no_verdict(tigrismount, arguments, message):
    """Mutation: an unset variable of a script is a mount that is dead (2), a wait without an end none at all (1)."""
    ended = tigrismount("health", *arguments)
    assert ended.exit_code == 64
    assert message in ended.err


def test_nothing_to_do_shows_help_and_fails(tigrismount):
    ended = tigrismount()
    assert (ended.exit_code, ended.out) == (2, "")
    assert "Commands:" in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mont"], "no such command 'mont' (did you mean mount?)"),
        (["help", "mount"], "no such command 'help' (did you mean --help?)"),
        (["version"], "did you mean --version?"),
        (["mount", "/models", "s3://b"], "the SOURCE comes first: s3://b /models"),
        (["bench", "--demo", "s3://my-bucket"], "leave SOURCE out"),
        (["statsu", "--json"], "no such command 'statsu' (did you mean status?)"),
        (["mount", "--cache-size"], "requires an argument"),
        (["mount", "--no-such-thing", "a", "b"], "--no-such-thing"),
        (["mount", "--metadata-tll", "5s", "a", "b"], "--metadata-ttl"),
        (["status", "a", "b"], "unexpected extra argument"),
        (["cache"], "Missing command"),
        (["cache", "stat"], "stat"),
        (["unmount"], "MOUNTPOINT"),
        (["demo", "--size", "much"], "expected a size"),
        (["unmount", "/x", "--timeout", "soon"], "expected a time"),
    ],
)
def test_bad_usage_is_one_line_that_points_to_help(fails, arguments, message):
    exit_code, line = fails(*arguments)
    assert exit_code == 2
    assert message in line
    assert "--help'" in line


@pytest.mark.parametrize(
    ("exc", "exit_code", "line"),
    [
        (ConfigError("bad value"), 2, "bad value"),
        (MountError("x: is\nbusy"), 1, r"x: is\x0abusy"),
        (KeyError("x"), 1, "internal error: KeyError: 'x'; please report it with what --debug shows"),
    ],
)
def test_what_ends_a_command_decides_its_exit_status(capsys, exc, exit_code, line):
    assert _explain(exc, debug=False) == exit_code
    assert capsys.readouterr().err == f"tigrismount: error: {line}\n"


def test_debug_shows_a_traceback(capsys):
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    assert _explain(caught.value, debug=True) == 1
    assert "Traceback" in capsys.readouterr().err


def test_help_needs_no_engine():
    code = "import sys; from tigrismount.cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"trio", "pyfuse3", "boto3", "lmdb", "rich", "subprocess", "logging"} & set(done.stderr.split())


def test_the_package_can_be_run_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "tigrismount", "mount"], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 2
    assert done.stderr.startswith("tigrismount: error: the MOUNTPOINT is missing")


_PRESSED = """
import sys

class Pressed:
    @staticmethod
    def find_spec(name, *_):
        if name == {when!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Pressed)
sys.argv[1:] = ["status"]
from tigrismount.cli import entry
entry.{program}()
"""


@pytest.mark.parametrize("when", ["tigrismount.cli.main", "click", "tigrismount.config.merge"])
@pytest.mark.parametrize(("program", "status"), [("run", 130), ("mount_tigris", 8)])
def test_ctrl_c_is_told_in_a_line_also_while_the_program_is_still_being_loaded(when, program, status):
    """Mutation: fifty lines of a traceback for who has seen a mistake in what they typed."""
    code = _PRESSED.format(when=when, program=program)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "tigrismount: error: interrupted\n")


def test_the_executables_begin_where_ctrl_c_is_taken():
    with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
        scripts = tomllib.load(file)["project"]["scripts"]
    assert scripts == {"tigrismount": "tigrismount.cli.entry:run", "mount.tigris": "tigrismount.cli.entry:mount_tigris"}


def test_a_path_that_is_no_utf8_is_written_as_it_is():
    """Mutation: a mount that serves is told as an internal error, and health's verdict on it is 1, not mounted."""
    path, env = b"/nowhere/\xff", {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as in any locale but C
    command = [sys.executable, "-m", "tigrismount", "health", path]
    done = subprocess.run(command, capture_output=True, check=False, env=env)
    assert (done.returncode, done.stderr) == (1, b"")
    assert done.stdout.startswith(path + b": not mounted")


def test_a_name_that_the_terminal_has_no_letters_for_is_written_with_escapes():
    """As that of a key in a locale that is not UTF-8. Mutation: "ls" ends in its middle with an internal error."""
    lines = "from tigrismount.cli.main import prepare_streams as p; p(); print('\\u00e9 \\u3042 \\udcff')"
    env = {**os.environ, "PYTHONIOENCODING": "latin-1:strict"}
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, check=False, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\xe9 \\u3042 \xff\n", b"")


def test_a_reader_that_has_enough_is_no_crash():
    done = subprocess.run(
        f"{sys.executable} -m tigrismount mount --help | true", shell=True, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_ctrl_c_is_said_in_one_line(capsys, monkeypatch):
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    assert main(["status"]) == 130
    assert capsys.readouterr().err == "tigrismount: error: interrupted\n"


@pytest.mark.parametrize(
    ("work", "command"),
    [
        ("doctor._examine", "doctor"),
        ("inspect._inspect", "inspect"),
        ("ls._print_rows", "ls"),
        ("snapshots._taken", "snapshots"),
    ],
)
def test_ctrl_c_is_said_in_one_line_whatever_is_on_its_way(tigrismount, monkeypatch, work, command):
    """A request may have a task beside it, and what ends those is a group: it came out as a traceback, and status 1."""

    async def interrupted() -> None:
        raise KeyboardInterrupt

    async def ask(*_: object, **__: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupted)
            await trio.sleep_forever()

    monkeypatch.setattr(f"tigrismount.cli.{work}", ask)
    ended = tigrismount(command, "s3://bucket/model")
    assert (ended.exit_code, ended.err.strip()) == (130, "tigrismount: error: interrupted")


@pytest.mark.parametrize("streams", [">&-", "<&- >&-", "<&- >&- 2>&-", "2>&-"])
def test_a_command_runs_where_streams_are_closed(streams):
    """Mutation: an "internal error" where a mount has succeeded; and a socket that has the number of standard error."""
    command = f'exec "$0" -m tigrismount --version {streams}'
    ended = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_is_opened_gets_no_number_of_a_closed_stream():
    lines = "import os; from tigrismount.cli.main import prepare_streams; prepare_streams(); os._exit(os.dup(0))"
    command = [sys.executable, "-c", lines]
    ended = subprocess.run(["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', *command], check=False)
    assert ended.returncode > 2


def test_an_output_that_takes_nothing_is_named():
    """Mutation: "internal error ... please report it" because a disk is full."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "tigrismount", "--version"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "tigrismount: error: standard output cannot be written: No space left on device\n"


_VERDICT = """
import sys
from tigrismount.cli import health
from tigrismount.cli.main import main

health.judge = lambda path, timeout_s: (health.DEGRADED, ["the store is away"])
sys.exit(main(["health", "/"]))
"""


def test_a_verdict_does_not_depend_on_who_reads_it():
    """Mutation: a probe whose output nobody can take hears that nothing is mounted (1)."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", _VERDICT], stdout=full, stderr=subprocess.PIPE, check=False)
        assert ended.returncode == 4
        ended = subprocess.run([sys.executable, "-c", _VERDICT], stdout=full, stderr=full, check=False)
        assert ended.returncode == 4
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    with os.fdopen(write_fd, "wb") as pipe:
        ended = subprocess.run([sys.executable, "-c", _VERDICT], stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (4, b"")


def test_a_caller_that_ignores_the_ends_of_children_does_not_make_them_end_well():
    """Mutation: what fusermount3 could not unmount is said to be unmounted."""
    lines = (
        "import subprocess\n"
        "from tigrismount.cli import main\n"
        "main.main = lambda _: subprocess.run(['false'], check=False).returncode\n"
        "main.run()\n"
    )
    ignoring = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])\n"
    )
    assert subprocess.run([sys.executable, "-c", ignoring, lines], check=False).returncode == 1


def test_a_closed_stream_takes_every_line():
    """Mutation: a warning with a path that is not UTF-8 ends 'mount -f', as nobody can be told of it."""
    lines = (
        "from tigrismount.cli import failure, main\n"
        "main.prepare_streams()\n"
        "failure.print_warning('/mnt/\\udcff \\u2026')\n"
        "failure.print_outcome('/mnt/\\udcff \\u2026')\n"
    )
    shell = ["sh", "-c", 'exec "$0" "$@" >&- 2>&-', sys.executable, "-c", lines]
    assert subprocess.run(shell, check=False).returncode == 0
