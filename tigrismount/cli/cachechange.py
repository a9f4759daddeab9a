"""``cache verify``, ``evict``, ``pin``, ``unpin`` and ``clear``: safe beside daemons that use the cache."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from tigrismount.cli.cachedirs import cache_command, cache_prefix, existing_directories
from tigrismount.cli.failure import FAILED, print_error, print_warning
from tigrismount.cli.warmbar import shown_progress
from tigrismount.config.units import format_size

if TYPE_CHECKING:
    from tigrismount.cache.access import CacheAccess, Evicted


@contextmanager
def _opened(directory: str, *, write: bool = True) -> Iterator[CacheAccess]:
    from tigrismount.cache.access import open_cache_access  # lmdb, which --help does not need

    with open_cache_access(directory, write=write) as access:
        yield access


# -- verify ----------------------------------------------------------------------------------------------------------


@cache_command("Example: tigrismount cache verify --cache-dir /nvme/tigrismount")
@click.argument("prefix", default="")
def verify(prefix: str, cache_dirs: tuple[str, ...], as_json: bool) -> int:
    """Read everything in a disk cache back from the disk and compare it with its checksums.

    PREFIX narrows it down, as for 'cache list'. Blocks that fail are forgotten, so the next read fetches them again;
    they are listed, and the exit status is 1.
    """
    wanted = cache_prefix(prefix)
    objects, checked_bytes = 0, 0
    faults: list[dict[str, Any]] = []
    strays: list[str] = []
    with shown_progress() as tell:
        for directory in existing_directories(cache_dirs, [prefix] if prefix else []):
            with _opened(directory) as access:
                for verified in access.verify(wanted, on_progress=_counting(access, wanted, tell)):
                    objects, checked_bytes = objects + 1, checked_bytes + verified.checked_bytes
                    where = f"s3://{verified.report.bucket}/{verified.report.key}"
                    faults += [{"object": where, **dataclasses.asdict(fault)} for fault in verified.faults]
                strays += access.strays() if not wanted else []
    if as_json:
        whole = {"ok": not faults, "objects": objects, "checked_bytes": checked_bytes}
        click.echo(json.dumps({**whole, "faults": faults, "strays": strays}, indent=2))
    else:
        for fault in faults:
            place = f"bytes {fault['start']}-{fault['start'] + fault['length_bytes']}" if fault["index"] >= 0 else "all"
            print_error(f"{fault['object']}: {place}: {fault['reason']}; dropped, the next read fetches it again")
        left = f", {len(strays)} files that belong to nothing (the next mount removes them)" if strays else ""
        right = f"{len(faults)} faults" if faults else "all right"
        click.echo(f"{objects} object versions, {format_size(checked_bytes)} read back: {right}{left}")
    return FAILED if faults else 0


def _counting(access: CacheAccess, wanted: str, tell: Callable[[dict[str, Any]], None]) -> Callable[[int], None]:
    reports = access.objects(wanted)
    progress: dict[str, Any] = {
        "phase": "checking",
        "objects": len(reports),
        "objects_done": 0,
        "wanted_bytes": sum(report.cached_bytes for report in reports),
        "done_bytes": 0,
    }

    def advance(checked_bytes: int) -> None:
        progress["done_bytes"] += checked_bytes
        tell(progress)

    return advance


# -- evict and clear -------------------------------------------------------------------------------------------------


@cache_command("Example: tigrismount cache evict s3://my-bucket/models/old/")
@click.argument("prefixes", nargs=-1, required=True, metavar="PREFIX...")
@click.option("--pinned", "even_pinned", is_flag=True, help="Also what is pinned.")
def evict(prefixes: tuple[str, ...], even_pinned: bool, cache_dirs: tuple[str, ...], as_json: bool) -> int:
    """Take object versions out of a disk cache.

    PREFIX is as for 'cache list'. What a daemon has open stays, and so does what is pinned; both are listed, and the
    exit status is 1 then.
    """
    wanted = [cache_prefix(prefix) for prefix in prefixes]
    done: list[Evicted] = []
    unknown = list(dict.fromkeys(wanted))
    for directory in existing_directories(cache_dirs, prefixes):
        with _opened(directory) as access:
            unknown = [prefix for prefix in unknown if not access.objects(prefix)]
            done += [access.evict(prefix, even_pinned=even_pinned) for prefix in wanted]
    return _tell_evicted(done, unknown, as_json=as_json)


@cache_command("Example: tigrismount cache clear --yes")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(yes: bool, cache_dirs: tuple[str, ...], as_json: bool) -> int:
    """Empty a disk cache, pinned versions, load reports and learned orders included; pins themselves stay.

    What a daemon has open stays; it is listed, and the exit status is 1 then.
    """
    directories = existing_directories(cache_dirs)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody is there to ask: pass --yes", click.get_current_context())
        click.confirm(f"Empty {' and '.join(directories)}?", abort=True, err=True)
    done = []
    for directory in directories:
        with _opened(directory) as access:
            done.append(access.clear())
    return _tell_evicted(done, as_json=as_json)


def _tell_evicted(done: list[Evicted], unknown: Sequence[str] | None = None, *, as_json: bool) -> int:
    in_use = [report for evicted in done for report in evicted.in_use]
    pinned = [report for evicted in done for report in evicted.pinned]
    objects, freed_bytes = sum(e.objects for e in done), sum(e.freed_bytes for e in done)
    if as_json:
        stayed = {"in_use": in_use, "pinned": pinned}
        asked = {} if unknown is None else {"unknown": unknown}
        rows = {name: [dataclasses.asdict(report) for report in reports] for name, reports in stayed.items()}
        click.echo(json.dumps({"objects": objects, "freed_bytes": freed_bytes, **rows, **asked}, indent=2))
    else:
        for report in in_use:
            print_error(f"s3://{report.bucket}/{report.key}: stays: a mount has it open")
        for report in pinned:
            print_error(f"s3://{report.bucket}/{report.key}: stays: it is pinned ('cache unpin', or --pinned)")
        for prefix in unknown or ():
            print_warning(f"s3://{prefix}: nothing in the cache begins so; see 'tigrismount cache list'")
        click.echo(f"{objects} object versions evicted, {format_size(freed_bytes)} freed")
    return FAILED if in_use or pinned else 0


# -- pins ------------------------------------------------------------------------------------------------------------


@cache_command("Example: tigrismount cache pin s3://my-bucket/models/llama/")
@click.argument("prefixes", nargs=-1, metavar="[PREFIX]...")
def pin(prefixes: tuple[str, ...], cache_dirs: tuple[str, ...], as_json: bool) -> int:
    """Keep what begins with PREFIX in a disk cache: eviction takes everything else first, and never this.

    PREFIX is as for 'cache list', and may be of objects that are not cached yet. Without one, lists what is pinned.
    Pins count for every mount that uses the directory.
    """
    wanted = [cache_prefix(prefix) for prefix in prefixes]
    kept, pinned = True, set[str]()
    for directory in existing_directories(cache_dirs, prefixes):
        with _opened(directory, write=bool(wanted)) as access:
            kept &= not wanted or access.pin(*wanted)
            pinned.update(access.pinned())
    if as_json:
        click.echo(json.dumps({"ok": kept, "pinned": sorted(pinned)}, indent=2))
    else:
        for prefix in sorted(pinned):
            click.echo(f"s3://{prefix}")
        if not pinned:
            click.echo("nothing is pinned")
    if not kept:
        print_error("the cache takes no more pins: take some back with 'tigrismount cache unpin'")
    return 0 if kept else FAILED


@cache_command("Example: tigrismount cache unpin s3://my-bucket/models/llama/")
@click.argument("prefixes", nargs=-1, required=True, metavar="PREFIX...")
def unpin(prefixes: tuple[str, ...], cache_dirs: tuple[str, ...], as_json: bool) -> int:
    """Take back pins, spelled as they were made; nothing leaves the cache before its turn."""
    wanted = [cache_prefix(prefix) for prefix in prefixes]
    unknown = set(wanted)
    for directory in existing_directories(cache_dirs, prefixes):
        with _opened(directory) as access:
            unknown -= set(access.pinned())
            access.unpin(*wanted)
    if as_json:
        click.echo(json.dumps({"unpinned": len(set(wanted) - unknown), "unknown": sorted(unknown)}, indent=2))
    else:
        click.echo(f"{len(set(wanted) - unknown)} unpinned")
        for prefix in sorted(unknown):
            print_error(f"s3://{prefix}: was not pinned; 'tigrismount cache pin' lists what is")
    return FAILED if unknown else 0
