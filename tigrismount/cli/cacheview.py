"""``cache stats`` and ``cache list``: look, and change nothing."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import click

from tigrismount.cli.cachedirs import cache_command, cache_prefix, existing_directories
from tigrismount.cli.table import print_table
from tigrismount.config.units import format_size

_MOST_SHOWN = 20  # versions in the list; a screen
_TOTALS = ("objects", "blocks", "bytes_cached", "capacity_bytes")


@cache_command("Example: tigrismount cache stats --json")
def stats(cache_dirs: tuple[str, ...], as_json: bool) -> int:
    """Show how much a disk cache holds, and of what."""
    from tigrismount.cache.inspect import read_cache_statistics  # lmdb, which --help does not need

    reports = [
        dataclasses.asdict(read_cache_statistics(directory, limit=_MOST_SHOWN))
        for directory in existing_directories(cache_dirs)
    ]
    recent = [item for report in reports for item in report["most_recent"]]
    recent = sorted(recent, key=lambda item: float(item["last_used_s"]), reverse=True)[:_MOST_SHOWN]
    if as_json:
        totals = {name: sum(report[name] for report in reports) for name in _TOTALS}
        whole = {**reports[0], **totals, "most_recent": recent, "directories": reports}
        click.echo(json.dumps(whole if len(reports) > 1 else {**reports[0], "directories": reports}, indent=2))
        return 0
    for report in reports:
        click.echo(
            f"{report['directory']}: {format_size(report['bytes_cached'])} of {format_size(report['capacity_bytes'])}"
        )
        click.echo(f"{report['objects']} object versions, {report['blocks']} blocks")
        click.echo(f"{format_size(report['disk_free_bytes'])} free on its filesystem")
    if recent:
        click.echo()
        print_table(("OBJECT", "CACHED", "LAST USED"), [_row(item)[:3] for item in recent])
    return 0


@cache_command("Example: tigrismount cache list s3://my-bucket/models/", name="list")
@click.argument("prefix", default="")
def list_(prefix: str, cache_dirs: tuple[str, ...], as_json: bool) -> int:
    """List the object versions in a disk cache.

    PREFIX is a source (s3://bucket/prefix), a path under a mount (from here: ./path), or bucket/prefix: what begins
    with it is listed, so end it with a slash to mean a directory.
    """
    from tigrismount.cache.access import open_cache_access

    wanted = cache_prefix(prefix)
    found: list[dict[str, Any]] = []
    for directory in existing_directories(cache_dirs, [prefix] if prefix else []):
        with open_cache_access(directory) as access:
            found += [{"directory": directory, **dataclasses.asdict(item)} for item in access.objects(wanted)]
    found.sort(key=lambda item: (item["bucket"], item["key"], -item["last_used_s"]))
    if as_json:
        click.echo(json.dumps({"objects": found}, indent=2))
    elif found:
        rows = [_row(item) for item in found]
        marked = any(item["is_pinned"] for item in found)
        print_table(("OBJECT", "CACHED", "LAST USED", "PINNED")[: 4 if marked else 3], [r[: 3 + marked] for r in rows])
    else:
        click.echo(f"nothing in the cache begins with {wanted!r}" if wanted else "the cache is empty")
    return 0


def _row(item: dict[str, Any]) -> list[str]:
    whole = item["cached_bytes"] == item["size_bytes"]
    size = format_size(item["size_bytes"])
    return [
        f"s3://{item['bucket']}/{item['key']}",
        size if whole else f"{format_size(item['cached_bytes'])} of {size}",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(item["last_used_s"])),
        "yes" if item.get("is_pinned") else "",
    ]
