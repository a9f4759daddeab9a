"""``tigrismount snapshots``: what ``mount --snapshot`` can name."""

from __future__ import annotations

import dataclasses
import json
import time
from functools import partial
from typing import TYPE_CHECKING

import click

from tigrismount.cli.connection import connected, load_without_mount
from tigrismount.cli.flags import CONNECTION, flags
from tigrismount.cli.running import run_engine
from tigrismount.cli.table import print_table

if TYPE_CHECKING:
    from tigrismount.config.model import MountConfig
    from tigrismount.objects.snapshots import Snapshot


@click.command(epilog="Example: tigrismount snapshots s3://my-bucket --json")
@click.argument("source", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
@flags(CONNECTION)
def snapshots(source: str | None, as_json: bool, **given: object) -> int:
    """List the snapshots that were taken of SOURCE's bucket, oldest first.

    'mount --snapshot' takes a VERSION or a NAME of them, and also any other moment, as a time or as nanoseconds since
    the epoch.
    """
    config = load_without_mount(source, given)
    taken = run_engine(partial(_taken, config))
    if as_json:
        rows = [{**dataclasses.asdict(snapshot), "taken": snapshot.taken_s} for snapshot in taken]
        click.echo(json.dumps({"bucket": config.vfs.bucket, "snapshots": rows}, indent=2))
    elif taken:
        print_table(("VERSION", "TAKEN", "NAME"), [_row(snapshot) for snapshot in taken])
    else:
        click.echo("no snapshot was taken yet; 'mount --snapshot now' freezes the present moment")
    return 0


async def _taken(config: MountConfig) -> tuple[Snapshot, ...]:
    from tigrismount.objects.snapshots import check_snapshots_enabled

    live = dataclasses.replace(config, s3=dataclasses.replace(config.s3, snapshot=None))
    async with connected(live) as client:
        await check_snapshots_enabled(client, config.vfs.bucket)
        return await client.snapshots(config.vfs.bucket)


def _row(snapshot: Snapshot) -> list[str]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot.taken_s))
    return [snapshot.version, when, snapshot.name]
