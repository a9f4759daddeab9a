"""The suite ``p9``: the most memory that the daemon ever holds, beside the limit that it was given for its buffers.

A cold load, then pages at random of a file as large: the two ways to fill buffers. Memory is counted as the kernel does
(VmHWM), libraries and interpreter included, of the process that answers FUSE and of all that it started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bench import HOWS
from benchmarks.report import Row, value_row

if TYPE_CHECKING:
    from benchmarks.bench import Bench

LIMITS_MIB = (256, 512)
"""What ``--memory-limit`` says: the least that is taken by itself, and the double of it."""
MIB = 1 << 20


def run(bench: Bench) -> None:
    """Load cold with each limit, mapped and read."""
    for limit_mib in LIMITS_MIB:
        with bench.mounted(bench.empty_cache(), flags=[f"--memory-limit={limit_mib}MiB"]) as mount:
            for how in HOWS:
                bench.load(f"mount, {limit_mib} MiB of memory, {how}", mount.mountpoint, how)
            mount.wait_until_cached(bench.size_bytes)
            bench.value(_name(limit_mib), mount.peak_rss_bytes() / MIB - limit_mib)


def rows(bench: Bench) -> list[Row]:
    """P9."""
    return [value_row(_name(limit_mib), bench.values[_name(limit_mib)], "<= 150") for limit_mib in LIMITS_MIB]


def _name(limit_mib: int) -> str:
    return f"P9 peak RSS - limit of {limit_mib} MiB, MiB"
