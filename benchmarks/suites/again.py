"""The suite ``p3``: a new daemon on a full cache beside the same loader on the cache's own files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bench import HOWS
from benchmarks.report import Row, ratio_row, value_row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.bench import Bench


def run(bench: Bench) -> None:
    """P3: a new daemon on a full cache beside the same loader on the cache's own files."""
    cache = bench.empty_cache()
    with bench.mounted(cache) as mount:
        bench.load("filling the cache", mount.mountpoint, "read")
        mount.wait_until_cached(bench.size_bytes)
    files = cached_shards(cache, len(bench.shards))
    for how in HOWS:
        # A new process: nothing in the daemon's memory, nothing in the kernel's.
        with bench.mounted(cache) as mount:
            name = f"mount, warm NVMe, {how}"
            counted = bench.counted(name, mount, _loading(bench, name, mount.mountpoint, how))
            bench.value(f"bytes fetched / model, again, {how}", counted["fetched_bytes"] / bench.size_bytes)
        bench.measure(f"cache files, {how}", "load", *map(str, files), "--how", how)
    bench.measure("cache files, O_DIRECT", "read-disk", *map(str, files))


def _loading(bench: Bench, name: str, directory: Path, how: str) -> Callable[[], None]:
    return lambda: bench.load(name, directory, how)


def cached_shards(cache: Path, count: int) -> list[Path]:
    """Return the cache's copies of the shards: its *count* largest object files."""
    return sorted(cache.glob("objects/*/*"), key=lambda path: path.stat().st_size)[-count:]


def rows(bench: Bench) -> list[Row]:
    """P3 and its cost."""
    rows = []
    for how in HOWS:
        name = f"mount, warm NVMe, {how}"
        files = bench.rates(f"cache files, {how}")
        rows.append(
            ratio_row(f"P3 warm NVMe {how} / same load of the cache files", bench.rates(name), files, ">= 0.90")
        )
        rows.append(value_row(f"P5 daemon CPU s/GiB, warm NVMe {how}", bench.costs(f"daemon: {name}"), "<= 0.45"))
    return rows
