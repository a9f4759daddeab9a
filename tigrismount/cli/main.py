"""The ``tigrismount`` executable: finds the command, runs it, and turns whatever ends it into an exit status.

Commands are modules that are imported only when they are called, so that ``--help`` and mistakes in typing are
answered in the time that Python needs to start, and work where the engine's libraries do not.
"""

from __future__ import annotations

import codecs
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from tigrismount.cli.failure import (
    BAD_USAGE,
    FAILED,
    HEALTH_BAD_USAGE,
    INTERRUPTED,
    NOT_FOUND,
    CommandFailure,
    discard_output,
    print_error,
)
from tigrismount.config.merge import suggest
from tigrismount.errors import ConfigError, ObjectNotFoundError, TigrisMountError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_COMMANDS = {
    "mount": "Mount a bucket and return once it serves.",
    "unmount": "Unmount a mountpoint.",
    "status": "Show what is mounted, and how it does.",
    "metrics": "Show or serve the Prometheus metrics of all mounts together.",
    "loads": "Show what model loads cost, and why.",
    "ls": "List a bucket as a mount would show it, or what it cannot show.",
    "inspect": "Show the tensors of a file or a model, what is cached, and what a load would fetch.",
    "snapshots": "List the snapshots of a Tigris bucket.",
    "health": "Tell whether a mount answers, as an exit status.",
    "upgrade": "Replace the daemon of a mount without a failed read.",
    "refresh": "Forget what is known of a path, so that a change is seen at once.",
    "warm": "Fill the disk cache, through a mount or without one.",
    "install-systemd": "Install the systemd units, and mount.tigris for fstab.",
    "cache": "Look into a disk cache.",
    "doctor": "Check what a mount needs here, and how fast it would be.",
    "bench": "Measure a mount beside a plain download and the cache disk.",
    "completion": "Print what makes a shell complete commands, options and mountpoints.",
    "mounter": "Serve the mounts of the CSI driver, without privilege.",
    "csi": "Be the CSI driver of a Kubernetes node.",
    "demo": "Run the main job on this machine, with no cloud account.",
}
"""Names and what ``--help`` says of them; each is the command of that name in the module of that name."""

_ALIASES = {"umount": "unmount"}
_ANY_NAME = "tigrismount.any_name"
"""How standard output writes what its encoding has no letter for."""
_INSTEAD = {"help": "--help", "version": "--version"}
"""What other programs have commands for and this one has options for."""


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names without importing anything."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        name = _ALIASES.get(cmd_name, cmd_name)
        if name not in _COMMANDS:
            return None
        attribute = name.replace("-", "_")
        command = getattr(importlib.import_module(f"tigrismount.cli.{attribute}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        if not args[0].startswith("-") and args[0] not in (*_COMMANDS, *_ALIASES):
            instead = _INSTEAD.get(args[0])
            meant = f" (did you mean {instead}?)" if instead else suggest(args[0], (*_COMMANDS, *_ALIASES))
            raise click.UsageError(f"no such command {args[0]!r}{meant}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return what could be typed, without importing the commands."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name, help=text) for name, text in _COMMANDS.items() if name.startswith(incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from tigrismount.cli.version import version_lines

        click.echo("\n".join(version_lines()))
        ctx.exit()


@click.group(
    cls=_LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: tigrismount mount s3://my-bucket/models /models",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show versions and exit.",
)
@click.option("--debug", is_flag=True, help="Show a traceback when something fails; also after the command's name.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Mount Tigris and S3 buckets read-only and load model weights fast."""
    ctx.obj = {"arguments": [], **(ctx.obj or {}), "debug": debug}
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(BAD_USAGE)


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status; whatever goes wrong is one line on standard error.

    Args:
        arguments: Without the program's name.
    """
    try:
        return _run(arguments)
    except Exception as exc:  # noqa: BLE001 -- the last place that can make a line of it
        return _explain(exc, debug="--debug" in arguments)
    except KeyboardInterrupt:
        print_error("interrupted")
        return INTERRUPTED


def run() -> None:
    """Run the process's own command line and exit; ``entry`` is where the executable begins."""
    prepare_streams()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where who started us ignores it, every child would end with 0
    sys.exit(main(sys.argv[1:]))


def prepare_streams() -> None:
    """Have standard streams that can be written and that take every path.

    Those that the caller has closed lead nowhere: Python has None for them, and the next file or socket that is opened
    would get their number, and with it what somebody says there. Paths are written as the bytes they are, because
    those of this system are not all UTF-8.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # has the lowest number that is free, which is the missing one
            os.set_inheritable(null, True)  # as it is with any standard stream: what we start has it too
            mode = "r" if fd == 0 else "w"
            stream = open(null, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115 -- to the end
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error(_ANY_NAME, _any_name)
        sys.stdout.reconfigure(errors=_ANY_NAME)


def _any_name(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write what is no text as the bytes it is, and what the encoding has no letter for as an escape."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def _run(arguments: Sequence[str]) -> int:
    result: Any = cli.main(
        args=list(arguments), prog_name="tigrismount", standalone_mode=False, obj={"arguments": list(arguments)}
    )
    sys.stdout.flush()  # so that a closed pipe is noticed here and not at exit
    return result if isinstance(result, int) else 0


def _explain(exc: Exception, *, debug: bool) -> int:
    if isinstance(exc, BrokenPipeError):
        discard_output(1)  # who read it has enough
        return FAILED
    if debug:
        traceback.print_exception(exc)
    if isinstance(exc, OSError) and _is_of_output(exc):
        discard_output(1)
        print_error(f"standard output cannot be written: {exc.strerror}")
        return FAILED
    if isinstance(exc, click.Abort):
        print_error("interrupted")
        return INTERRUPTED
    if isinstance(exc, click.ClickException):
        path = exc.ctx.command_path if isinstance(exc, click.UsageError) and exc.ctx else "tigrismount"
        print_error(f"{exc.format_message().rstrip('.')}; see '{path} --help'")
        return HEALTH_BAD_USAGE if path.endswith(" health") else BAD_USAGE
    if isinstance(exc, CommandFailure):
        print_error(str(exc))
        return exc.exit_code
    if isinstance(exc, TigrisMountError):
        print_error(str(exc))
        if isinstance(exc, ObjectNotFoundError):
            return NOT_FOUND
        return BAD_USAGE if isinstance(exc, ConfigError) else FAILED
    print_error(f"internal error: {type(exc).__name__}: {exc}; please report it with what --debug shows")
    return FAILED


def _is_of_output(exc: OSError) -> bool:
    """Tell whether standard output fails with *exc*: it names no file, and one more line fails in the same way."""
    if exc.filename is not None:
        return False
    try:
        click.echo()
    except OSError as again:
        return again.errno == exc.errno
    return False
