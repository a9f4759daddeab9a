"""What ``status`` says of mounts, as rows for :mod:`tigrismount.cli.table` and lines: pure functions over its JSON.

A daemon may be older or newer than the command that asks it, so nothing is taken for granted but the mountpoint and
the state.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from tigrismount import __version__
from tigrismount.config.options import BY_KEY
from tigrismount.config.units import format_size
from tigrismount.fuse.options import NOT_ASKED_FOR

Mount = Mapping[str, Any]

OVERVIEW = ("MOUNTPOINT", "SOURCE", "STATE", "CACHE", "FROM STORE", "FROM NVME", "PID")
"""Headers of :func:`overview_row`."""
_DEFAULT = "default"
"""Where a value is from that nobody has set."""
_BAR = 20
"""Cells of a bar: one for each 5 %, and a load still fits on a line of 80."""
SOURCES = {
    "remote": "from the store",
    "nvme": "from NVMe",
    "ram": "read at once",
    "flight": "read after waiting",
    "pushed": "pushed to the kernel",
}
"""What is called what: what came in, then what went out."""


def overview_row(mount: Mount) -> list[str]:
    """Return a mount's line among others."""
    moved = mount.get("bytes", {})
    return [
        mount["mountpoint"],
        str(mount.get("source", "")),
        mount["state"],
        cache_fill(mount.get("cache", {})),
        size(moved.get("remote")),
        size(moved.get("nvme")),
        str(mount.get("pid") or "-"),
    ]


def overview_lines(mount: Mount) -> list[str]:
    """Return what stands below the table about one mount: loads in progress, and what is wrong or could be better."""
    lines = []
    for load in mount.get("loads", ()):
        # The bar has a line of its own, so that it is whole on a terminal of 80.
        lines += [f"{mount['mountpoint']}: loading {load.get('model')}", f"  {load_progress(load)}"]
    reasons = [*mount.get("degraded", ()), *(knob_text(knob) for knob in mount.get("knobs", ()))]
    return lines + [f"{mount['mountpoint']}: {line}" for line in reasons]


def detail_rows(mount: Mount) -> list[list[str]]:
    """Return what can be told of one mount, but for its configuration: (what, value)."""
    facts = ("mountpoint", "source", "snapshot", "state")
    rows = [[name, str(mount[name])] for name in facts if mount.get(name)]
    rows += _daemon_rows(mount)
    rows += _takeover_rows(mount.get("takeovers", {}))
    rows += [["degraded", reason] for reason in mount.get("degraded", ())]
    rows += [["setting", knob_text(knob)] for knob in mount.get("knobs", ())]
    rows += [["note", note] for note in mount.get("notes", ())]
    if mount.get("cache_dir"):
        rows += [["cache", f"{cache_fill(mount.get('cache', {}))} in {mount['cache_dir']}"]]
    if room := _cache_room(mount.get("cache", {})):
        rows += [["cache", room]]
    if left_over_bytes := mount.get("cache", {}).get("left_over_bytes"):
        rows += [["cache", f"{size(left_over_bytes)} came too fast for its disk, and follow when all is quiet"]]
    rows += load_rows(mount) + source_rows(mount)
    counts = mount.get("requests", {}).items()
    rows += [[f"requests: {name.replace('_', ' ')}", str(count)] for name, count in counts if count]
    if (limit := mount.get("get_limit", {})).get("gets"):
        rows += [["GETs at once", f"{limit['gets']} of at most {limit['most']}: {limit['reason']}"]]
    rows += _fetch_process_rows(mount.get("fetch_processes", {}))
    rows += _passthrough_rows(mount.get("passthrough", {}))
    return rows + _hidden_rows(mount.get("names", {})) + _checksum_rows(mount.get("checksums", {}))


def _fetch_process_rows(processes: Mapping[str, Any]) -> list[list[str]]:
    """Return how many fetch processes there are, and what they do; nothing where there may be none."""
    most, gets = processes.get("configured"), processes.get("in_flight", [])
    if not most:
        return []
    busy = f", {' and '.join(str(count) for count in gets)} GETs under way" if any(gets) else ""
    done = processes.get("gets", 0)
    return [["fetch processes", f"{processes.get('ready', 0)} of {most}{busy}, {done} GETs in all"]]


def watch_rows(mount: Mount) -> list[list[str]]:
    """Return what changes from look to look, for who watches: (what, value)."""
    rows = [[mount["mountpoint"], f"{mount.get('source', '')}, {mount['state']}"]]
    rows += [["degraded", reason] for reason in mount.get("degraded", ())]
    rows += [["setting", knob_text(knob)] for knob in mount.get("knobs", ())]
    if mount.get("cache_dir"):
        rows += [["cache", cache_fill(mount.get("cache", {}), barred=True)]]
    return rows + source_rows(mount) + load_rows(mount)


def watch_line(mount: Mount) -> str:
    """Return the same as one line, for a log."""
    rates = mount.get("bytes_per_second") or {}
    moved = [f"{SOURCES.get(name, name)} {size(rate)}/s" for name, rate in rates.items() if rate]
    parts = [
        mount["state"],
        *moved,
        *(f"loading {load.get('model')}: {load_progress(load)}" for load in mount.get("loads", ())),
    ]
    return f"{mount['mountpoint']}: {'; '.join([*parts, *mount.get('degraded', ())])}"


def source_rows(mount: Mount) -> list[list[str]]:
    """Return how much came from where, and how fast where that was measured."""
    moved, rates = mount.get("bytes", {}), mount.get("bytes_per_second") or {}
    rows = []
    for name in (*(name for name in SOURCES if name in moved), *(name for name in moved if name not in SOURCES)):
        rate = f", {size(rates[name])}/s" if rates.get(name) else ""
        rows.append([SOURCES.get(name, name), f"{size(moved[name])}{rate}"])
    return rows


def load_rows(mount: Mount) -> list[list[str]]:
    """Return the loads in progress: each by name, and below it how far it is."""
    rows = []
    for load in mount.get("loads", ()):
        rows += [["loading", str(load.get("model"))], ["", load_progress(load)]]
    return rows


def load_progress(load: Mapping[str, Any]) -> str:
    """Return how far a load is: a bar, bytes, rate and time left of the files it has opened so far."""
    done, total = load.get("bytes_needed"), load.get("bytes_total")
    parts = [f"{size(done)} of {size(total)}"]
    if load.get("bytes_per_second"):
        parts.append(f"{size(load['bytes_per_second'])}/s")
    if isinstance(load.get("seconds_left"), int | float) and load["seconds_left"] > 0:
        parts.append(f"{seconds(load['seconds_left'])} left")
    shown = bar(done / total) + ", " if isinstance(done, int) and isinstance(total, int) and total else ""
    return shown + ", ".join(parts)


def knob_text(knob: Mapping[str, Any]) -> str:
    """Return what one setting of the host is, and the command that makes it what it should be."""
    return f"{knob.get('name')} is {knob.get('value')}, {knob.get('wanted')} is faster: {knob.get('command')}"


def option_rows(mount: Mount) -> list[list[str]]:
    """Return every option that somebody has set: name, value, and where that came from."""
    options = mount.get("config", {}).items()
    rows = [[key.replace("_", "-"), _value(key, item), str(item.get("from", ""))] for key, item in options]
    return [row for row in rows if row[2] != _DEFAULT]


def default_options(mount: Mount) -> str:
    """Return the options that nobody has set, with the values they have here; empty where there is none."""
    options = mount.get("config", {}).items()
    unset = [(key, _value(key, item)) for key, item in options if item.get("from") == _DEFAULT]
    shown = [f"{key.replace('_', '-')} {value}" for key, value in unset if value != "-"]
    return f"by default: {', '.join(shown)}" if shown else ""


def cache_fill(cache: Mapping[str, Any], *, barred: bool = False) -> str:
    """Return how full the cache is."""
    capacity, used = cache.get("capacity_bytes"), cache.get("bytes_cached", 0)
    if not capacity:
        return "-"
    return f"{bar(used / capacity) + ', ' if barred else ''}{format_size(used)} of {format_size(capacity)}"


def _cache_room(cache: Mapping[str, Any]) -> str:
    """Return what is left for the cache where others have filled most of its disk; it may be all but empty then."""
    capacity, room = cache.get("capacity_bytes", 0), cache.get("room_bytes")
    if room is None or 2 * room >= capacity:
        return ""
    return f"other files on its disk leave room for {size(room)} of it"


def bar(fraction: float) -> str:
    """Return a bar and the percentage."""
    fraction = min(1.0, max(0.0, fraction))
    full = int(fraction * _BAR)
    return f"{'█' * full}{'░' * (_BAR - full)} {int(fraction * 100):3d}%"


def size(count: object) -> str:
    """Return bytes as a person would write them."""
    return format_size(count) if isinstance(count, int) else "-"


def seconds(value: float) -> str:
    """Return a time left: to the second, and minutes from two on."""
    return f"{value:.0f} s" if value < 120 else f"{value // 60:.0f} min {value % 60:.0f} s"


def _daemon_rows(mount: Mount) -> list[list[str]]:
    version = mount.get("version")
    text = f"pid {mount.get('pid') or '-'}, supervisor {mount.get('supervisor_pid') or '-'}"
    rows = [["daemon", f"{text}, version {version}" if version else text]]
    if version and version != __version__:
        command = f"tigrismount upgrade {shlex.quote(mount['mountpoint'])}"
        rows += [["", f"this is {__version__}: '{command}' replaces the daemon"]]
    return rows


def _hidden_rows(names: Mapping[str, Any]) -> list[list[str]]:
    """Return what the listings so far could not show, where there was something."""
    counts = {"hidden keys": names.get("hidden_keys"), "shadowed keys": names.get("shadowed_keys")}
    hint = "; 'tigrismount ls SOURCE --hidden' lists them"
    return [[what, f"{count} in the directories listed so far{hint}"] for what, count in counts.items() if count]


def _checksum_rows(checksums: Mapping[str, Any]) -> list[list[str]]:
    """Return what was compared with known checksums, where something was; first of all what is refused."""
    hint = "its bytes are not what a known checksum says; the log has both"
    rows = [["refused", f"{what}: {hint}"] for what in checksums.get("refused", ())]
    counts = {name: checksums.get(name, 0) for name in ("verified", "mismatched", "unknown", "waiting")}
    if any(counts.values()):
        rows.append(["checksums", ", ".join(f"{count} {name}" for name, count in counts.items() if count)])
    return rows


def _passthrough_rows(passthrough: Mapping[str, Any]) -> list[list[str]]:
    """Return how many files the kernel reads by itself, and why it does not read others."""
    opens, files = passthrough.get("opens", 0), passthrough.get("files", 0)
    proven_bytes = passthrough.get("proven_bytes", 0)
    proven = f", {format_size(proven_bytes)} verified for them" if proven_bytes else ""
    opened = [["passthrough", f"{opens} opens, {files} files in use{proven}"]] if opens or files or proven else []
    if reason := passthrough.get("off"):
        return opened if reason == NOT_ASKED_FOR else [*opened, ["passthrough", f"off: {reason}"]]
    over = passthrough.get("passed_over", {}).items()
    return opened + [["not passed through", f"{count} opens: {reason}"] for reason, count in over]


def _takeover_rows(takeovers: Mapping[str, Any]) -> list[list[str]]:
    count = takeovers.get("count", 0)
    rows = [["takeovers", f"{count}, the last after a worker {takeovers.get('last_reason')}"]] if count else []
    failure = takeovers.get("last_failure")
    return [*rows, ["not upgraded", str(failure)]] if failure else rows


def _value(key: str, item: Mapping[str, Any]) -> str:
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
