"""``tigrismount cache``: what is in a disk cache, mounted or not."""

from __future__ import annotations

import dataclasses
import json
import os
import time

import click

from tigrismount.cli.failure import NOT_FOUND, CommandFailure
from tigrismount.cli.table import print_table
from tigrismount.config.loading import cache_directory
from tigrismount.config.units import format_size

_MOST_SHOWN = 20  # versions in the list; a screen


@click.group(no_args_is_help=False, epilog="Example: tigrismount cache stats --cache-dir /nvme/tigrismount")
def cache() -> None:
    """Look into a disk cache."""


@cache.command(epilog="Example: tigrismount cache stats --json")
@click.option("--cache-dir", metavar="DIR", help="The cache's directory. [as 'mount' would choose it]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
def stats(cache_dir: str | None, as_json: bool) -> int:
    """Show how much a disk cache holds, and of what."""
    directory = cache_directory(cache_dir, os.environ)
    if directory is None:
        raise CommandFailure("the disk cache is configured off; name one with --cache-dir", NOT_FOUND)
    if not os.path.isdir(directory):
        raise CommandFailure(f"{directory}: there is no cache; name one with --cache-dir", NOT_FOUND)
    from tigrismount.cache.inspect import read_cache_statistics  # lmdb, which --help does not need

    report = dataclasses.asdict(read_cache_statistics(directory, limit=_MOST_SHOWN))
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return 0
    click.echo(
        f"{report['directory']}: {format_size(report['bytes_cached'])} of {format_size(report['capacity_bytes'])}"
    )
    click.echo(f"{report['objects']} object versions, {report['blocks']} blocks")
    click.echo(f"{format_size(report['disk_free_bytes'])} free on its filesystem")
    rows = [
        [
            f"s3://{item['bucket']}/{item['key']}",
            f"{format_size(item['cached_bytes'])} of {format_size(item['size_bytes'])}",
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(item["last_used_s"])),
        ]
        for item in report["most_recent"]
    ]
    if rows:
        print_table(("OBJECT", "CACHED", "LAST USED"), rows)
    return 0
