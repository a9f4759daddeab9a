"""The suite ``p6``: one byte at a random place, nothing cached, beside one plain GET of a page there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bench import HOWS, scatter_path
from benchmarks.measuring import RANGE_BYTES
from benchmarks.report import Row, ratio_row
from benchmarks.store import BUCKET, SCATTER_KEY, SCATTER_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench

FIRST_BYTES = 24
"""Ranges whose first byte is asked for; at most one per block, and half of the smallest file."""


def run(bench: Bench) -> None:
    """P6: one byte at a random place of a file, nothing cached, beside one plain GET of a page there."""
    seed, size = str(bench.number), str(bench.size_bytes)
    count = ["--count", str(min(FIRST_BYTES, max(bench.size_bytes // RANGE_BYTES // 2, 1))), "--seed", seed]
    store = ["--endpoint-url", bench.endpoint_url, "--bucket", BUCKET, "--size", size]
    bench.measure("plain GET of a page", "gets", SCATTER_KEY, *store, *count)
    for how in HOWS:
        with bench.mounted(bench.empty_cache(), prefix=SCATTER_PREFIX) as mount:
            name, path = f"first byte, {how}", scatter_path(mount)
            bench.counted(name, mount, _measuring(bench, name, "first-bytes", path, "--how", how, *count))


def _measuring(bench: Bench, name: str, *arguments: str) -> Callable[[], None]:
    return lambda: bench.measure(name, *arguments)


def rows(bench: Bench) -> list[Row]:
    """P6: times, so less is better."""
    plain = bench.seconds("plain GET of a page")
    return [
        ratio_row(f"P6 first byte, {how} / plain GET", bench.seconds(f"first byte, {how}"), plain, "<= 1.2")
        for how in HOWS
    ]
