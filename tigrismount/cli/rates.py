"""Rates and times left, from the difference between two looks at the same mounts.

Counters begin anew when another worker takes over, so a rate is told only between two looks at the same process. A
load in progress also has an average since it began, which stands in where there was no earlier look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Mount = dict[str, Any]


def with_rates(mounts: Sequence[Mount], before: Sequence[Mount] = (), elapsed_s: float = 0.0) -> list[Mount]:
    """Return *mounts*, each with ``bytes_per_second`` by source, and its loads with rate and ``seconds_left``.

    Args:
        mounts: What ``status --json`` shows of each.
        before: The same at an earlier look; empty for a first one.
        elapsed_s: Seconds between the two.
    """
    earlier = {(mount["mountpoint"], mount.get("pid")): mount for mount in before if elapsed_s > 0}
    return [_with_rates(mount, earlier.get((mount["mountpoint"], mount.get("pid"))), elapsed_s) for mount in mounts]


def _with_rates(mount: Mount, before: Mount | None, elapsed_s: float) -> Mount:
    rates: dict[str, int] | None = None
    if before is not None:
        then = before.get("bytes", {})
        rates = {name: _rate(count, then.get(name), elapsed_s) for name, count in mount.get("bytes", {}).items()}
    known = {_identity(load): load for load in before.get("loads", ())} if before is not None else {}
    loads = [_load_with_rate(load, known.get(_identity(load)), elapsed_s) for load in mount.get("loads", ())]
    return {**mount, "bytes_per_second": rates, "loads": loads}


def _load_with_rate(load: Mapping[str, Any], before: Mapping[str, Any] | None, elapsed_s: float) -> dict[str, Any]:
    needed = load.get("bytes_needed", 0)
    if before is not None:
        rate = _rate(needed, before.get("bytes_needed"), elapsed_s)
    else:
        seconds = load.get("seconds") or 0
        rate = int(needed / seconds) if seconds > 0 else 0
    left = max(0, load.get("bytes_total", 0) - needed)
    return {**load, "bytes_per_second": rate, "seconds_left": round(left / rate, 1) if rate else None}


def _rate(now: int, then: int | None, elapsed_s: float) -> int:
    return int(max(0, now - then) / elapsed_s) if then is not None else 0


def _identity(load: Mapping[str, Any]) -> tuple[object, object]:
    return load.get("model"), load.get("started")
