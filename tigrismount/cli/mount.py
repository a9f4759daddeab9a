"""``tigrismount mount``: merge the configuration, start a supervisor, and say how it went."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import click

from tigrismount.cli.completing import directories, values
from tigrismount.cli.failure import CommandFailure, print_error, print_outcome, print_warning
from tigrismount.cli.flags import flags
from tigrismount.config.loading import load
from tigrismount.config.model import MountConfig
from tigrismount.config.options import BY_KEY
from tigrismount.config.resolve import check_places
from tigrismount.control.paths import UNITS_DIRECTORY
from tigrismount.errors import ConfigError, MountError, TigrisMountError
from tigrismount.holder.launch import run_in_foreground, start_in_background
from tigrismount.holder.log import DaemonLog
from tigrismount.holder.mountinfo import canonical_mountpoint
from tigrismount.holder.request import Deadlines, MountRequest, Outcome
from tigrismount.holder.store import request_of_stored
from tigrismount.holder.supervisor import LOST
from tigrismount.holder.unit import read_unit

_FOREGROUND_DEADLINES = Deadlines(unmount_grace_s=1.0)
"""Who stops a container kills all of it after 10 s (Docker's default): the mount would stay behind, dead."""
_FROM_SYSTEMD = frozenset({"fuse", "state"})
"""What systemd holds of a mount that has served, by name."""


class _Mount(click.Command):
    """``mount``, to which a unit adds options out of a file that may be wrong by now."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Understand the command line; of a unit whose mount waits for this process, what it can be."""
        try:
            return super().parse_args(ctx, list(args))
        except click.UsageError as exc:
            if not (_stored() >= _FROM_SYSTEMD and "--unit" in args[:-1]):
                raise
            ctx.obj["fault"] = exc.format_message().rstrip(".")
            return super().parse_args(ctx, ["--foreground", "--unit", args[args.index("--unit") + 1]])


@click.command(
    cls=_Mount,
    epilog="Example: tigrismount mount s3://my-bucket/models /models --cache-dir /nvme/cache --cache-size 500G",
)
@click.argument("places", nargs=-1, metavar="[SOURCE] MOUNTPOINT", shell_complete=directories)
@click.option("-o", "mount_options", multiple=True, metavar="OPT[,OPT...]", help="Options as in fstab, name=value.")
@click.option(
    "--config", "config_file", metavar="FILE", shell_complete=values, help="TOML file with the options below as keys."
)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground until it is unmounted.")
@click.option("--debug", is_flag=True, help="Log everything, and show a traceback when something fails.")
@click.option("--unit", metavar="NAME", help="Mount what the systemd unit tigrismount@NAME mounts.")
@click.option("--print-request", is_flag=True, hidden=True, help="Print what a supervisor would be asked, and exit.")
@flags(BY_KEY)
@click.pass_obj
def mount(
    obj: dict[str, Any],
    /,
    places: tuple[str, ...],
    mount_options: tuple[str, ...],
    config_file: str | None,
    foreground: bool,
    debug: bool,
    unit: str | None,
    print_request: bool,
    **given: object,
) -> int:
    """Mount SOURCE on the directory MOUNTPOINT, read-only.

    SOURCE is s3://bucket[/prefix], t3://bucket[/prefix], bucket[/prefix] or bucket:prefix; without one, the environment
    names it (BUCKET_NAME, TIGRIS_STORAGE_BUCKET, MODEL_BUCKET_NAME). With --all-buckets there is no SOURCE.

    Returns once the mount has answered a first listing; when it cannot, says why and leaves nothing mounted. Every
    option can also be set as TIGRISMOUNT_<NAME> in the environment and in a TOML file.
    """
    is_held = foreground and unit is not None and "fuse" in _stored()

    def ask() -> tuple[MountRequest, tuple[str, ...]]:
        if "fault" in obj:
            raise ConfigError(obj["fault"])
        if unit is not None:
            source, mountpoint, file = _places_of_unit(unit, places, config_file)
        else:
            source, mountpoint = _places(places)
            file = config_file
        loaded = load(
            source=source,
            mountpoint=canonical_mountpoint(mountpoint),
            flags=given,
            mount_options=mount_options,
            config_file=file,
            debug=debug or obj["debug"],
            environment=os.environ,
        )
        check_places(loaded.config)
        _check_files(loaded.config)
        request = MountRequest(
            config=loaded.config.to_json(),
            deadlines=_FOREGROUND_DEADLINES if foreground else Deadlines(),
            reload_command=_same_again(obj["arguments"]),
            directory=os.getcwd(),
        )
        return request, loaded.warnings

    with _left_to_the_next_start(unit):
        request, warnings = _or_as_before(ask) if is_held else ask()
        if is_held and _stored() >= _FROM_SYSTEMD:
            request, more = _with_a_log(request)
            warnings += more
        if print_request:
            click.echo(request.to_json())
            return 0
        for warning in warnings:
            print_warning(warning)
        if foreground:
            return run_in_foreground(request, lambda outcome: _tell(request, outcome), is_held=is_held)
        outcome = start_in_background(request)
        _tell(request, outcome)
        return outcome.exit_code


@contextlib.contextmanager
def _left_to_the_next_start(unit: str | None) -> Iterator[None]:
    """End as a takeover that is to be tried again, where systemd holds a mount that has served.

    With any other status the helper unmounts it, and the files that are open fail.
    """
    has_served = unit is not None and "state" in _stored()
    try:
        yield
    except (TigrisMountError, OSError) as exc:
        if not has_served:
            raise
        raise CommandFailure(f"{exc}; the mount is left to the next start", LOST) from exc


def _or_as_before(ask: Callable[[], tuple[MountRequest, tuple[str, ...]]]) -> tuple[MountRequest, tuple[str, ...]]:
    """Return what *ask* does; where the configuration is wrong by now, what the mount that systemd holds was made by.

    Its readers must not lose it for what would have been refused in a reload.
    """
    try:
        return ask()
    except (ConfigError, click.UsageError) as exc:
        request = request_of_stored(os.environ)
        if request is None:
            raise
        fault = exc.format_message() if isinstance(exc, click.UsageError) else exc
        return request, (f"{fault}; the mount goes on as it was until the unit is restarted",)


def _with_a_log(request: MountRequest) -> tuple[MountRequest, tuple[str, ...]]:
    """Return *request* with standard error for its log where its file cannot be written: who read the mount stay."""
    try:
        DaemonLog.check(request.config["log_file"])
    except MountError as exc:
        config = {**request.config, "log_file": None}
        return replace(request, config=config), (f"{exc}; the mount goes on, and its messages come here",)
    return request, ()


def _stored() -> frozenset[str]:
    """Return what systemd has passed of a mount, by name."""
    return frozenset(os.environ.get("LISTEN_FDNAMES", "").split(":"))


def _same_again(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return a command that prints the request which this command line would make another day."""
    own = [argument for argument in arguments if argument != "--print-request"]
    return (sys.executable, "-P", "-m", "tigrismount", *own, "--print-request") if own else ()


def _places(places: tuple[str, ...]) -> tuple[str | None, str]:
    """Return source and mountpoint; with one argument it is the mountpoint."""
    if len(places) == 2:
        if "://" in places[1] and "://" not in places[0]:
            raise click.UsageError(f"the SOURCE comes first: {places[1]} {places[0]}", click.get_current_context())
        return places[0], places[1]
    if len(places) > 2:
        raise click.UsageError(f"too many arguments ({' '.join(places)})", click.get_current_context())
    if not places or "://" in places[0]:
        raise click.UsageError("the MOUNTPOINT is missing", click.get_current_context())
    return None, places[0]


def _places_of_unit(name: str, places: tuple[str, ...], config_file: str | None) -> tuple[str | None, str, str | None]:
    """Return source, mountpoint and configuration file of a systemd unit."""
    if places or config_file:
        raise click.UsageError("--unit says what is mounted, and where", click.get_current_context())
    # Under systemd the unit of the system runs as a user of its own; its manager is root's.
    is_system = os.geteuid() == 0 or os.environ.get("XDG_RUNTIME_DIR") == os.path.dirname(UNITS_DIRECTORY)
    try:
        unit = read_unit(name, uid=0 if is_system else os.geteuid(), home=os.path.expanduser("~"))
    except MountError as exc:
        raise ConfigError(str(exc)) from exc
    if not is_system:
        try:
            os.makedirs(unit.mountpoint, exist_ok=True)
        except OSError as exc:
            raise MountError(f"{unit.mountpoint}: cannot be made: {exc.strerror}") from exc
    return unit.source, unit.mountpoint, unit.file


def _check_files(config: MountConfig) -> None:
    """Look at files that the worker needs, while the name under which they were given is at hand.

    Raises:
        ConfigError: One cannot be read.
    """
    bundle = config.s3.ca_bundle
    if bundle is not None and not os.access(bundle, os.R_OK):
        raise ConfigError(f"{config.origins.get('ca_bundle', 'ca-bundle')}: {bundle}: cannot be read")


def _tell(request: MountRequest, outcome: Outcome) -> None:
    if not outcome.ok:
        print_error(outcome.message)
        return
    for warning in outcome.warnings:
        print_warning(warning)
    print_outcome(f"{request.spec.fsname} is mounted on {request.spec.mountpoint} (pid {outcome.pid})")
