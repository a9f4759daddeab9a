"""``tigrismount loads``: what each model load cost, and why; asked of running mounts, or read from the cache."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import click

from tigrismount.cli.completing import mountpoints, values
from tigrismount.cli.failure import NOT_FOUND, CommandFailure
from tigrismount.cli.table import print_table
from tigrismount.config.loading import cache_directory
from tigrismount.config.units import format_size
from tigrismount.control.client import StaleSocketError, request, sockets
from tigrismount.control.paths import find_socket, runtime_directories
from tigrismount.errors import CacheError, MountError
from tigrismount.holder.mountinfo import canonical_mountpoint, mount_at

_ANSWER_TIMEOUT_S = 10.0  # the cache's disk is asked
_MOST_SHOWN = 20  # loads in the table; a screen
_CAUSES = {
    "plan": "bytes nobody had asked for yet",
    "store": "bytes still on their way from the store",
    "slow_down": "the store asking for fewer requests",
    "memory": "room in --memory-limit",
    "disk": "the cache disk",
}
_IN_SHORT = {"plan": "not asked for yet", "store": "the store", "slow_down": "a slower store", "disk": "the cache disk"}
"""The same for a column."""


@click.command(epilog="Example: tigrismount loads --last")
@click.argument("mountpoint", required=False, shell_complete=mountpoints)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list, newest last.")
@click.option("--last", is_flag=True, help="Show the newest load only, in detail.")
@click.option(
    "--cache-dir",
    metavar="DIR",
    shell_complete=values,
    help="Read the reports kept in this cache, whatever is mounted.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
def loads(mountpoint: str | None, as_json: bool, last: bool, cache_dir: str | None) -> int:
    """Show what model loads cost: bytes needed and fetched, time to the first tensor, GETs, and what was waited for.

    Asks the mount at MOUNTPOINT, or all of this user's mounts; where none runs, reads what the cache has kept. A load
    in progress is shown as far as it has come.
    """
    if mountpoint is not None:
        path = canonical_mountpoint(mountpoint)
        told = _ask(path, timelines=as_json) if cache_dir is None else _of_cache(cache_dir)
        reports = [report for report in told if report.get("mountpoint") == path]
    else:
        reports = _of_cache(cache_dir) if cache_dir is not None else _of_all_mounts(timelines=as_json)
    if last:
        reports = reports[-1:]
    if as_json:
        click.echo(json.dumps(reports, indent=2))
    elif not reports:
        click.echo("no load was seen; one that the kernel's page cache answers alone leaves no report")
    elif last:
        _print_details(reports[-1])
    else:
        _print_overview(reports[-_MOST_SHOWN:])
    return 0


def _ask(mountpoint: str, *, timelines: bool) -> list[dict[str, Any]]:
    path = find_socket(os.environ, uid=os.geteuid(), mountpoint=mountpoint)
    try:
        return _reports_in(request(path, "loads", timeout_s=_ANSWER_TIMEOUT_S, timelines=timelines))
    except StaleSocketError as exc:
        entry = mount_at(mountpoint)
        what = "its daemon is gone, or another user's" if entry is not None and entry.is_ours else "is not mounted"
        raise CommandFailure(
            f"{mountpoint}: {what}; 'tigrismount loads' alone shows what the cache has kept", NOT_FOUND
        ) from exc


def _of_all_mounts(*, timelines: bool) -> list[dict[str, Any]]:
    """Return the reports of every mount of this user, each once; those of the cache where there is no mount."""
    answers = []
    directories = runtime_directories(os.environ, uid=os.geteuid())
    for path in (path for directory in directories for path in sockets(directory)):
        try:
            answers.append(_reports_in(request(path, "loads", timeout_s=_ANSWER_TIMEOUT_S, timelines=timelines)))
        except MountError:
            continue  # 'status' says what is wrong with it
    if not answers:
        return _of_cache(None)
    # Mounts that share a cache directory all tell what is kept there.
    found = {(r.get("mountpoint"), r.get("model"), r["started"]): r for answer in answers for r in answer}
    return sorted(found.values(), key=lambda report: report["started"])


def _reports_in(reply: dict[str, Any]) -> list[dict[str, Any]]:
    reports = reply.get("loads", [])
    return [report for report in reports if isinstance(report, dict) and "started" in report]


def _of_cache(flag: str | None) -> list[dict[str, Any]]:
    directory = cache_directory(flag, os.environ)
    if directory is None or not os.path.isdir(directory):
        if flag is None:
            return []
        raise CommandFailure(f"{flag}: there is no cache; name one with --cache-dir", NOT_FOUND)
    from tigrismount.cache.inspect import read_records  # lmdb, which --help does not need
    from tigrismount.reader.loads import MOST_SHOWN, TABLE, unpack_reports

    try:
        return unpack_reports(read_records(directory, TABLE, limit=MOST_SHOWN))
    except CacheError as exc:
        raise CommandFailure(str(exc)) from exc


def _print_overview(reports: list[dict[str, Any]]) -> None:
    headers = ("STARTED", "MODEL", "TOOK", "NEEDED", "FETCHED", "FIRST TENSOR", "GET P50/P99", "WAITED", "MOSTLY FOR")
    print_table(headers, [_row(report) for report in reports])


def _row(report: dict[str, Any]) -> list[str]:
    gets = report.get("gets", {})
    return [
        _moment(report["started"]),
        str(report.get("model", "")),
        _seconds(report.get("seconds")) + (" so far" if report.get("state") == "loading" else ""),
        _size(report.get("bytes_needed")),
        _size(report.get("bytes_fetched")),
        _seconds(report.get("first_tensor_s")),
        f"{_seconds(gets.get('p50_s'))} / {_seconds(gets.get('p99_s'))}" if gets.get("count") else "-",
        _seconds(report.get("waits", {}).get("seconds")),
        _main_cause(report) or "-",
    ]


def _main_cause(report: dict[str, Any]) -> str:
    causes = report.get("waits", {}).get("causes", {})
    waited = {cause: facts["seconds"] for cause, facts in causes.items() if facts["seconds"]}
    most = max(waited, key=lambda cause: waited[cause], default="")
    return _IN_SHORT.get(most, most)


def _print_details(report: dict[str, Any]) -> None:
    rows = [[name, str(report[name])] for name in ("model", "source", "mountpoint", "state") if report.get(name)]
    rows += [["started", _moment(report["started"])], ["took", _seconds(report.get("seconds"))]]
    rows += _byte_rows(report) + _time_rows(report)
    print_table(("WHAT", "VALUE"), rows)
    stalls = report.get("stalls", {}).get("longest", [])
    if stalls:
        click.echo()
        headers = ("AT", "WAITED", "FOR", "FILE", "BYTES")
        print_table(headers, [_stall_row(stall) for stall in stalls], title="Longest waits")


def _byte_rows(report: dict[str, Any]) -> list[list[str]]:
    total = f"of {report.get('files')} files with {_size(report.get('bytes_total'))}"
    rows = [["bytes needed", f"{_size(report.get('bytes_needed'))} {total}"]]
    factor = report.get("amplification")
    times = f", {factor:.2f} times what was needed" if isinstance(factor, int | float) else ""
    rows += [["bytes fetched", f"{_size(report.get('bytes_fetched'))}{times}"]]
    rows += [["bytes from NVMe", _size(report.get("bytes_nvme"))], ["bytes pushed", _size(report.get("bytes_pushed"))]]
    if report.get("bytes_through"):
        rows.append(
            ["left to the kernel", f"{_size(report['bytes_through'])} of files that it reads from NVMe by itself"]
        )
    return rows


def _time_rows(report: dict[str, Any]) -> list[list[str]]:
    gets, waits = report.get("gets", {}), report.get("waits", {})
    rows = [["first tensor after", _seconds(report.get("first_tensor_s"))]]
    rows += [["GETs", f"{gets.get('count', 0)}, p50 {_seconds(gets.get('p50_s'))}, p99 {_seconds(gets.get('p99_s'))}"]]
    rows += [["retries", f"{gets.get('retries', 0)}, asked to slow down {gets.get('slow_downs', 0)} times"]]
    rows += [["one GET after the other", f"would have taken {_seconds(report.get('sequential_s'))}"]]
    rows += [["somebody waited", f"{_seconds(waits.get('seconds'))} of that time"]]
    for cause, facts in waits.get("causes", {}).items():
        if facts["count"]:
            what = _CAUSES.get(cause, cause)
            rows.append([f"waits: {cause}", f"{facts['count']} reads, {_seconds(facts['seconds'])} in all, for {what}"])
    return rows


def _stall_row(stall: dict[str, Any]) -> list[str]:
    name = str(stall.get("file", "")).rpartition("/")[2]
    extent = f"{stall.get('start')}-{stall.get('stop')}"
    return [_seconds(stall.get("at_s")), _seconds(stall.get("seconds")), str(stall.get("cause")), name, extent]


def _moment(epoch_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch_s))


def _seconds(value: object) -> str:
    if not isinstance(value, int | float):
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _size(count: object) -> str:
    return format_size(count) if isinstance(count, int) else "-"
