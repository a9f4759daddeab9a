"""``tigrismount ls``: what a mount would show, and what it would not, without a mount.

Lines are written as the pages of the listing come, so that a directory of a million keys begins at once and can be cut
off by ``head``.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from tigrismount.cli.connection import connected, load_without_mount
from tigrismount.cli.flags import CONNECTION, flags
from tigrismount.cli.running import run_engine
from tigrismount.cli.table import visible
from tigrismount.config.units import format_size

if TYPE_CHECKING:
    from tigrismount.config.model import MountConfig
    from tigrismount.core.listing import Dentry


@click.command(epilog="Example: tigrismount ls s3://my-bucket/models --hidden")
@click.argument("source", required=False)
@click.option("--hidden", is_flag=True, help="List the keys below SOURCE that a mount cannot show, and why.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
@flags(("all_buckets", "snapshot", *CONNECTION))
def ls(source: str | None, hidden: bool, as_json: bool, **given: object) -> int:
    """List SOURCE as a mount of it would show it, without a mount.

    With --hidden, list all keys below it that no path can express (an empty, '.' or '..' component, a NUL, a component
    above 255 bytes) and those that a directory of the same name hides; control characters and backslashes are written
    as escapes. The whole prefix is walked for that.
    """
    config = load_without_mount(source, given)
    if hidden and not config.vfs.bucket:
        raise click.UsageError("--hidden looks into one bucket: name it as SOURCE", click.get_current_context())
    rows = _hidden_rows if hidden else _shown_rows
    run_engine(partial(_print_rows, config, rows, as_json=as_json))
    return 0


async def _print_rows(config: MountConfig, rows: Any, *, as_json: bool) -> None:
    """Write the rows as they come: a line each, or one JSON list."""
    count = 0
    async with connected(config) as client:
        await client.check_access(config.vfs.bucket, config.vfs.prefix)
        async for row in rows(client, config):
            if as_json:
                click.echo(f"{',' if count else '['}\n  {json.dumps(row)}", nl=False)
            else:
                click.echo(_line(row))
            count += 1
    if as_json:
        click.echo("\n]" if count else "[]")


async def _shown_rows(client: Any, config: MountConfig) -> AsyncIterator[dict[str, Any]]:
    from tigrismount.core.names import DirectoryKey
    from tigrismount.vfs.directory import Directories
    from tigrismount.vfs.names import LiveNames

    directories = Directories(LiveNames(client), config.vfs, time.monotonic)
    where, cursor = DirectoryKey(config.vfs.bucket, config.vfs.prefix), 0
    directories.shelf.pin(where)
    while True:
        listing, ordinal = await directories.read(where, cursor)
        if ordinal >= len(listing.dentries):
            return
        for dentry in listing.dentries[ordinal:]:
            yield _row(dentry)
        cursor = listing.cursor(len(listing.dentries))


async def _hidden_rows(client: Any, config: MountConfig) -> AsyncIterator[dict[str, Any]]:
    from tigrismount.core.hidden import HiddenKeys

    finder, token = HiddenKeys(config.vfs.prefix), None
    while True:
        page = await client.list_page(config.vfs.bucket, config.vfs.prefix, delimiter="", token=token)
        for key, reason in finder.feed(page.objects):
            yield {"key": key, "reason": reason}
        token = page.next_token
        if token is None:
            return


def _row(dentry: Dentry) -> dict[str, Any]:
    name, info = dentry.name.decode("utf-8", "surrogateescape"), dentry.info
    if info is None:
        return {"name": name, "type": "directory"}
    facts = {"mtime": info.mtime_s, "etag": info.id.etag, "storage_class": info.storage_class}
    if info.symlink_target:
        target = info.symlink_target.decode("utf-8", "surrogateescape")
        return {"name": name, "type": "symlink", "target": target, **facts}
    return {"name": name, "type": "file", "size": info.id.size_bytes, **facts}


def _line(row: dict[str, Any]) -> str:
    """Return a row for people: nothing in it can steer a terminal."""
    if "reason" in row:
        return f"{visible(row['key'])}  ({row['reason']})"
    kind = row["type"]
    size = format_size(row["size"]) if kind == "file" else "-"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["mtime"])) if "mtime" in row else ""
    tail = {"directory": "/", "symlink": f" -> {visible(row.get('target', ''))}"}.get(kind, "")
    return f"{size:>12}  {when:19}  {visible(row['name'])}{tail}"
