"""The suite ``passthrough``: files that the kernel reads from the cache by itself, and what the lane before it costs.

In every variant a new daemon serves a full cache. *usual* answers all READs; *believed* has the files opened onto the
cache's own without a look; *proven* has them opened so once they were compared with their checksums, which is part of
its time. The cache's files are compared with last. Then the same by a second load, of pages that the kernel has. The
directory of many names shows what the way through the lane costs those requests that gain nothing from it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.bench import HOWS
from benchmarks.report import Row, ratio_row, value_row
from benchmarks.store import MANY_PREFIX
from benchmarks.suites.again import cached_shards

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_FLAGS = {
    "usual": ("--passthrough=off", "--verify=once"),
    "believed": ("--passthrough=auto", "--verify=off"),
    "proven": ("--passthrough=auto", "--verify=once"),
}
"""Flags of ``mount``, by variant; without verification a full cache counts as proven."""
_NAMES = {"usual": "--passthrough=off", "lane": "--passthrough=on"}


def run(bench: Bench) -> None:
    """Load from a full cache in every variant, and list many names with and without the lane."""
    cache = bench.empty_cache()
    with bench.mounted(cache) as mount:
        bench.load("filling the cache", mount.mountpoint, "read")
        mount.wait_until_cached(bench.size_bytes)
    files = list(map(str, cached_shards(cache, len(bench.shards))))
    for how in HOWS:
        for variant, flags in _FLAGS.items():
            with bench.mounted(cache, flags=flags) as mount:
                name = f"{variant}, {how}"
                bench.counted(name, mount, partial(bench.load, name, mount.mountpoint, how))
                bench.value(f"READs, {name}", mount.status()["kernel_reads"]["requests"])
                bench.load(f"again, {name}", mount.mountpoint, how, on_warm_pages=True)
        bench.measure(f"cache files, {how}", "load", *files, "--how", how)
        bench.measure(f"again, cache files, {how}", "load", *files, "--how", how, on_warm_pages=True)
    if bench.plan.keys:
        for variant, flag in _NAMES.items():
            with bench.mounted(bench.empty_cache(), prefix=MANY_PREFIX, flags=[flag]) as mount:
                for name in (f"ls -l, {variant}", f"ls -l again, {variant}"):
                    cpu_before_s = mount.cpu_seconds()
                    bench.measure(name, "ls", str(mount.mountpoint), on_warm_pages=True)
                    bench.value(f"daemon CPU s, {name}", mount.cpu_seconds() - cpu_before_s)


def rows(bench: Bench) -> list[Row]:
    """Rates beside the cache's own files, and what the daemon spent."""
    found = []
    for how in HOWS:
        for variant in _FLAGS:
            name = f"{variant}, {how}"
            for prefix in ("", "again, "):
                files = bench.rates(f"{prefix}cache files, {how}")
                found.append(ratio_row(f"{prefix}{name} / cache files", bench.rates(prefix + name), files, "-"))
            found.append(value_row(f"daemon CPU s/GiB, {name}", bench.costs(f"daemon: {name}"), "-"))
            found.append(value_row(f"READs, {name}", bench.values[f"READs, {name}"], "-"))
    for name in ("ls -l", "ls -l again"):
        if f"{name}, lane" in bench.rounds:
            usual, lane = bench.seconds(f"{name}, usual"), bench.seconds(f"{name}, lane")
            found.append(ratio_row(f"time of {name}: lane / usual", lane, usual, "-"))
            for variant in _NAMES:
                label = f"daemon CPU s, {name}, {variant}"
                found.append(value_row(label, bench.values[label], "-"))
    return found
