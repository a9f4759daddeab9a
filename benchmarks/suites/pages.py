"""The suite ``pages``: pages at random of a file that the disk cache has and memory does not."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.bench import scatter_path
from benchmarks.measuring import PAGE_BYTES
from benchmarks.report import Row, ratio_row, value_row
from benchmarks.store import SCATTER_KEY, SCATTER_PREFIX

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.bench import Bench

PAGES = 512
"""Read one after the other."""
MEMORY_LIMIT = "256MiB"
"""Of the daemon; a quarter of the default file, so that what is asked for is seldom in it."""
_OURS, _LOCAL = "page at random, from the cache", "page at random, local file"
_READ_BYTES = 1 << 20


def run(bench: Bench) -> None:
    """Read pages of ours, of the cache's own file, and of each other mount, all of which have read the file before."""
    cache = bench.empty_cache()
    with bench.mounted(cache, prefix=SCATTER_PREFIX, flags=["--memory-limit", MEMORY_LIMIT]) as mount:
        for _ in range(2):  # what was read from the disk once since the mount began is not verified again
            bench.settle()
            _read_whole(scatter_path(mount))
            mount.wait_until_cached(bench.size_bytes)
        counted = bench.counted(_OURS, mount, lambda: _read_pages(bench, _OURS, scatter_path(mount)))
    bench.value("bytes from NVMe / byte asked for, pages at random", counted["nvme_bytes"] / (PAGES * PAGE_BYTES))
    _read_pages(bench, _LOCAL, str(_largest(cache)))
    for installed, variant in bench.ways():
        bench.with_peer(installed, variant, SCATTER_PREFIX, partial(_peer, bench, installed.label(variant)))


def _peer(bench: Bench, label: str, directory: Path) -> None:
    path = str(directory / SCATTER_KEY.rpartition("/")[2])
    _read_whole(path)
    _read_pages(bench, _peer_name(label), path)


def _read_pages(bench: Bench, name: str, path: str) -> None:
    bench.measure(name, "scatter", path, "--how", "read", "--seed", str(bench.number), "--count", str(PAGES))


def _read_whole(path: str) -> None:
    with open(path, "rb", buffering=0) as file:
        while file.read(_READ_BYTES):
            pass


def _largest(cache: Path) -> Path:
    return max((path for path in cache.rglob("*") if path.is_file()), key=lambda path: path.stat().st_blocks)


def _peer_name(label: str) -> str:
    return f"page at random, {label}"


def rows(bench: Bench) -> list[Row]:
    """Times, so less is better."""
    name = "bytes from NVMe / byte asked for, pages at random"
    rows = [
        value_row("ms for a page at random, from the cache", [1e3 * s for s in bench.seconds(_OURS)], "-"),
        ratio_row(f"{_OURS} / local file", bench.seconds(_OURS), bench.seconds(_LOCAL), "-"),
        value_row(name, bench.values[name], "-"),
    ]
    for installed, variant in bench.ways():
        peer = _peer_name(installed.label(variant))
        if peer in bench.rounds:
            rows.append(
                ratio_row(f"{_OURS} / {installed.label(variant)}", bench.seconds(_OURS), bench.seconds(peer), "<= 1")
            )
    return rows
