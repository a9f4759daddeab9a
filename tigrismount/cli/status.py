"""``tigrismount status``: every mount that can be found, asked through its control socket or judged from outside.

Two lists are joined: the control sockets of this user, whose workers tell about themselves, and the kernel's mounts,
which also hold those whose daemon is gone or does not answer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import click

from tigrismount.cli.failure import NOT_FOUND, CommandFailure
from tigrismount.cli.table import print_table
from tigrismount.config.options import BY_KEY
from tigrismount.config.units import format_size
from tigrismount.control.client import StaleSocketError, drop_stale, request, sockets
from tigrismount.control.paths import runtime_directories, socket_path
from tigrismount.errors import MountError
from tigrismount.holder.mountinfo import MountEntry, canonical_mountpoint, read_mounts
from tigrismount.holder.probe import Health, probe

_ANSWER_TIMEOUT_S = 3.0  # a healthy daemon answers in milliseconds; a person waits


@click.command(epilog="Example: tigrismount status /models --json")
@click.argument("mountpoint", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
def status(mountpoint: str | None, as_json: bool) -> int:
    """Show what is mounted: all mounts, or one in detail."""
    mounts = collect_mounts(runtime_directories(os.environ, uid=os.geteuid()), read_mounts())
    if mountpoint is not None:
        path = canonical_mountpoint(mountpoint)
        mounts = [mount for mount in mounts if mount["mountpoint"] == path]
        if not mounts:
            raise CommandFailure(f"{path}: is not mounted; 'tigrismount status' lists the mounts", NOT_FOUND)
    if as_json:
        click.echo(json.dumps({"mounts": mounts}, indent=2))
    elif mountpoint is not None:
        _print_details(mounts[0])
    elif mounts:
        _print_overview(mounts)
    else:
        click.echo("nothing is mounted")
    return 0


def collect_mounts(directories: Sequence[str], mounted: Iterable[MountEntry]) -> list[dict[str, Any]]:
    """Return what ``status --json`` shows of each mount, by mountpoint.

    Each has a ``state``: ``ok``, ``degraded``, ``detached`` (unmounted lazily, still in use), ``dead``,
    ``not answering``, or ``unknown`` (it serves, but has no control socket that we may ask).

    Args:
        directories: Where the control sockets are that this user may ask.
        mounted: The kernel's mounts.

    Returns:
        What each worker tells of itself, or what can be seen from outside.
    """
    entries = {entry.mountpoint: entry for entry in mounted if entry.is_ours}
    mounts = {mount["mountpoint"]: mount for directory in directories for mount in _ask_all(directory, entries.keys())}
    for mountpoint, entry in entries.items():
        if mountpoint not in mounts:
            mounts[mountpoint] = _judge(entry)
    return [mounts[mountpoint] for mountpoint in sorted(mounts)]


def _ask_all(directory: str, mountpoints: Collection[str]) -> list[dict[str, Any]]:
    """Ask every control socket of this user; sockets that nobody listens on are removed, but not of live mounts."""
    mounts = []
    # A worker that takes over may be about to listen where the one before it did.
    in_use = {socket_path(directory, mountpoint) for mountpoint in mountpoints}
    for path in sockets(directory):
        try:
            mount = request(path, "status", timeout_s=_ANSWER_TIMEOUT_S)
        except StaleSocketError:
            if path not in in_use:
                drop_stale(path)
        except MountError:
            continue  # the kernel's list has it, if it is mounted
        else:
            if isinstance(mount.get("mountpoint"), str):
                there = mount["mountpoint"] in mountpoints
                mounts.append({**mount, "state": _state(mount) if there else "detached"})
    return mounts


def _state(mount: dict[str, Any]) -> str:
    return "degraded" if mount.get("degraded") else "ok"


def _judge(entry: MountEntry) -> dict[str, Any]:
    """Return what can be said of a mount whose worker tells nothing."""
    finding = probe(entry.mountpoint, timeout_s=_ANSWER_TIMEOUT_S)
    state = {Health.DEAD: "dead", Health.HUNG: "not answering"}.get(finding.health, "unknown")
    reasons = {
        "dead": "its daemon is gone: mount it again, or unmount it",
        "not answering": "its daemon does not answer",
        "unknown": f"it belongs to user {entry.owner_uid}, or its control socket is gone",
    }
    return {
        "mountpoint": entry.mountpoint,
        "source": entry.source,
        "state": state,
        "pid": None,
        "supervisor_pid": None,
        "cache_dir": None,
        "cache_dirs": [],
        "snapshot": None,
        "degraded": [reasons[state]],
        "bytes": {},
        "loads": [],
    }


def _print_overview(mounts: list[dict[str, Any]]) -> None:
    headers = ("MOUNTPOINT", "SOURCE", "STATE", "CACHE", "FROM STORE", "FROM NVME", "PID")
    print_table(headers, [_overview_row(mount) for mount in mounts])
    for mount in mounts:
        for reason in mount.get("degraded", ()):
            click.echo(f"{mount['mountpoint']}: {reason}")


def _overview_row(mount: dict[str, Any]) -> list[str]:
    moved = mount.get("bytes", {})
    return [
        mount["mountpoint"],
        str(mount.get("source", "")),
        mount["state"],
        _cache_fill(mount.get("cache", {})),
        _size(moved.get("remote")),
        _size(moved.get("nvme")),
        str(mount.get("pid") or "-"),
    ]


def _print_details(mount: dict[str, Any]) -> None:
    headers = ("WHAT", "VALUE")
    facts = ("mountpoint", "source", "snapshot", "state", "version")
    rows = [[name, str(mount[name])] for name in facts if mount.get(name)]
    rows += [["daemon", f"pid {mount.get('pid') or '-'}, supervisor {mount.get('supervisor_pid') or '-'}"]]
    rows += _takeover_rows(mount.get("takeovers", {}))
    rows += [["degraded", reason] for reason in mount.get("degraded", ())]
    rows += [["note", note] for note in mount.get("notes", ())]
    rows += (
        [["cache", f"{_cache_fill(mount.get('cache', {}))} in {mount['cache_dir']}"]] if mount.get("cache_dir") else []
    )
    rows += [["loading", _progress(load)] for load in mount.get("loads", ())]
    rows += [[f"bytes from {name}", _size(count)] for name, count in mount.get("bytes", {}).items()]
    rows += [[f"requests: {name}", str(count)] for name, count in mount.get("requests", {}).items()]
    rows += _hidden_rows(mount.get("names", {}))
    rows += _checksum_rows(mount.get("checksums", {}))
    print_table(headers, rows)
    config = mount.get("config", {})
    if config:
        click.echo()
        rows = [[key.replace("_", "-"), _value(key, item), str(item.get("from", ""))] for key, item in config.items()]
        print_table(("OPTION", "VALUE", "FROM"), rows)


def _progress(load: dict[str, Any]) -> str:
    done, total = _size(load.get("bytes_needed")), _size(load.get("bytes_total"))
    return f"{load.get('model')}: {done} of {total}, {_size(load.get('bytes_fetched'))} fetched"


def _hidden_rows(names: dict[str, Any]) -> list[list[str]]:
    """Return what the listings so far could not show, where there was something."""
    counts = {"hidden keys": names.get("hidden_keys"), "shadowed keys": names.get("shadowed_keys")}
    hint = "; 'tigrismount ls SOURCE --hidden' lists them"
    return [[what, f"{count} in the directories listed so far{hint}"] for what, count in counts.items() if count]


def _checksum_rows(checksums: dict[str, Any]) -> list[list[str]]:
    """Return what was compared with known checksums, where something was; first of all what is refused."""
    hint = "its bytes are not what a known checksum says; the log has both"
    rows = [["refused", f"{what}: {hint}"] for what in checksums.get("refused", ())]
    counts = {name: checksums.get(name, 0) for name in ("verified", "mismatched", "unknown", "waiting")}
    if any(counts.values()):
        rows.append(["checksums", ", ".join(f"{count} {name}" for name, count in counts.items() if count)])
    return rows


def _cache_fill(cache: dict[str, Any]) -> str:
    if not cache.get("capacity_bytes"):
        return "-"
    return f"{format_size(cache.get('bytes_cached', 0))} of {format_size(cache['capacity_bytes'])}"


def _size(count: object) -> str:
    return format_size(count) if isinstance(count, int) else "-"


def _value(key: str, item: dict[str, Any]) -> str:
    """Return an option's value as a person would write it; an option of a newer worker is shown as it is."""
    value = item.get("value")
    kind = BY_KEY[key].metavar if key in BY_KEY else ""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    if "SIZE" in kind and isinstance(value, int):
        return format_size(value)
    if kind == "TIME" and isinstance(value, int | float):
        return f"{value:g}s"
    return f"{value:.0%}" if kind == "PERCENT" and isinstance(value, float) else str(value)


def _takeover_rows(takeovers: dict[str, Any]) -> list[list[str]]:
    count = takeovers.get("count", 0)
    rows = [["takeovers", f"{count}, the last after a worker {takeovers.get('last_reason')}"]] if count else []
    failure = takeovers.get("last_failure")
    return [*rows, ["not upgraded", str(failure)]] if failure else rows
