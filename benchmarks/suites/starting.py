"""The suite ``p11``: how long ``mount`` takes to return, with an empty cache and with the index of one of 1 TiB.

The index is made up once, in seconds: the records of 500 files of 2 GiB, whose data are holes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import index
from benchmarks.report import Row, value_row

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_EMPTY = "P11 s until mount returns, empty cache"
_FULL = "P11 s until mount returns, index of 1 TiB"


def run(bench: Bench) -> None:
    """Mount with each."""
    bench.settle()
    with bench.mounted(bench.empty_cache()) as mount:
        bench.value(_EMPTY, mount.mount_s)
    full = bench.disk / "cache-1tib"
    if not full.exists():
        index.fill(str(full))
    bench.settle()
    with bench.mounted(full, flags=index.flags()) as mount:
        bench.value(_FULL, mount.mount_s)
        cached_bytes = mount.status()["cache"]["bytes_cached"]
    if cached_bytes < index.TIB * 0.99:
        raise ValueError(f"the mount knows of {cached_bytes / 2**30:.0f} GiB in the cache, not of a TiB")


def rows(bench: Bench) -> list[Row]:
    """P11, in seconds."""
    return [value_row(_EMPTY, bench.values[_EMPTY], "<= 1"), value_row(_FULL, bench.values[_FULL], "<= 2")]
