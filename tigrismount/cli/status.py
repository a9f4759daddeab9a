"""``tigrismount status``: what is mounted and how it does, once or again and again."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import click

from tigrismount.cli.completing import mountpoints
from tigrismount.cli.failure import NOT_FOUND, CommandFailure
from tigrismount.cli.mounted import collect_mounts
from tigrismount.cli.rates import with_rates
from tigrismount.cli.status_text import (
    OVERVIEW,
    default_options,
    detail_rows,
    option_rows,
    overview_lines,
    overview_row,
)
from tigrismount.cli.table import print_table, print_wrapped, visible
from tigrismount.cli.watching import shown, watch
from tigrismount.control.paths import runtime_directories
from tigrismount.holder.mountinfo import canonical_mountpoint, read_mounts

_BETWEEN_LOOKS_S = 0.5
"""Between the two looks that a rate needs: enough to tell one, and nobody minds waiting for it."""


@click.command(epilog="Example: tigrismount status /models --watch")
@click.argument("mountpoint", required=False, shell_complete=mountpoints)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch an object per line.")
@click.option("--watch", "is_watch", is_flag=True, help="Look again and again, with rates, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(0.1, 86_400), default=1.0, metavar="S", help="Seconds between looks. [1]"
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
def status(mountpoint: str | None, as_json: bool, is_watch: bool, interval: float) -> int:
    """Show what is mounted: all mounts, or one in detail."""
    path = canonical_mountpoint(mountpoint) if mountpoint is not None else None
    mounts = _look(path)
    if path is not None and not mounts:
        raise CommandFailure(f"{path}: is not mounted; 'tigrismount status' lists the mounts", NOT_FOUND)
    if is_watch:
        with shown(as_json=as_json) as show:
            watch(lambda: _look(path), show, lambda: time.sleep(interval), time.monotonic)
    elif as_json:
        click.echo(json.dumps({"mounts": mounts}, indent=2))
    elif not mounts:
        click.echo("nothing is mounted")
    else:
        mounts = _with_rates(mounts, path)
        _print_details(mounts[0]) if path is not None else _print_overview(mounts)
    return 0


def _look(path: str | None) -> list[dict[str, Any]]:
    mounts = collect_mounts(runtime_directories(os.environ, uid=os.geteuid()), read_mounts())
    return mounts if path is None else [mount for mount in mounts if mount["mountpoint"] == path]


def _with_rates(mounts: list[dict[str, Any]], path: str | None) -> list[dict[str, Any]]:
    """Add rates where somebody loads: only then is it worth a second look."""
    if not any(mount.get("loads") for mount in mounts):
        return mounts
    began_s = time.monotonic()
    time.sleep(_BETWEEN_LOOKS_S)
    return with_rates(_look(path) or mounts, mounts, time.monotonic() - began_s)


def _print_overview(mounts: list[dict[str, Any]]) -> None:
    print_table(OVERVIEW, [overview_row(mount) for mount in mounts])
    for mount in mounts:
        for line in overview_lines(mount):
            click.echo(visible(line))


def _print_details(mount: dict[str, Any]) -> None:
    print_table(("WHAT", "VALUE"), detail_rows(mount))
    options = option_rows(mount)
    if options:
        click.echo()
        print_table(("OPTION", "VALUE", "FROM"), options)
    if defaults := default_options(mount):
        click.echo()
        print_wrapped(visible(defaults))
