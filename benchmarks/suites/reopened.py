"""The suite ``p4``: the second load of a model that the kernel still has, beside the same files on the local disk.

Nothing goes through the daemon then but the opens, and the kernel must have kept its pages across them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bench import HOWS
from benchmarks.report import Row, ratio_row, value_row
from benchmarks.suites.again import cached_shards

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.bench import Bench


def run(bench: Bench) -> None:
    """Load twice through the mount, then twice from the cache's own files; the second times count."""
    cache = bench.empty_cache()
    with bench.mounted(cache) as mount:
        for how in HOWS:
            _fill(bench, mount.mountpoint, how)
            before_bytes = mount.status()["kernel_reads"]["bytes"]
            bench.load(_mount(how), mount.mountpoint, how, on_warm_pages=True)
            asked_bytes = mount.status()["kernel_reads"]["bytes"] - before_bytes
            bench.value(_asked(how), asked_bytes / bench.size_bytes)
        mount.wait_until_cached(bench.size_bytes)
    files = list(map(str, cached_shards(cache, len(bench.shards))))
    for how in HOWS:
        bench.measure("filling the page cache, files", "load", *files, "--how", how)
        bench.measure(_files(how), "load", *files, "--how", how, on_warm_pages=True)


def _fill(bench: Bench, directory: Path, how: str) -> None:
    bench.load("filling the page cache, mount", directory, how)


def rows(bench: Bench) -> list[Row]:
    """P4, and what the kernel asked for all the same."""
    rows = []
    for how in HOWS:
        ours, files = bench.rates(_mount(how)), bench.rates(_files(how))
        rows.append(ratio_row(f"P4 second open {how} / the local file", ours, files, ">= 0.95"))
        rows.append(value_row(_asked(how), bench.values[_asked(how)], "-"))
    return rows


def _mount(how: str) -> str:
    return f"mount, page cache warm, {how}"


def _files(how: str) -> str:
    return f"local files, page cache warm, {how}"


def _asked(how: str) -> str:
    return f"asked for / model, second open, {how}"
