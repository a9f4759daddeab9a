"""The suite ``p1``: a cold load through the mount beside plain downloads of the same bytes to files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bench import HOWS
from benchmarks.report import Row, ratio_row, value_row

if TYPE_CHECKING:
    from benchmarks.bench import Bench

DOWNLOADS = {"download, boto3": "download", "download, plain HTTP": "download-plain"}


def run(bench: Bench) -> None:
    """P1: downloads to files, and a cold mount for each kind of loader."""
    for name, what in DOWNLOADS.items():
        bench.download(name, what, to_files=True)
    for how in HOWS:
        load_cold(bench, how)


def load_cold(bench: Bench, how: str) -> None:
    """Load the model once through a new mount with an empty cache."""
    with bench.mounted(bench.empty_cache()) as mount:
        name = f"mount, cold, {how}"
        counted = bench.counted(name, mount, lambda: bench.load(name, mount.mountpoint, how))
        bench.value(f"bytes fetched / model, {how}", counted["fetched_bytes"] / bench.size_bytes)


def rows(bench: Bench) -> list[Row]:
    """P1, and what it cost."""
    best = [max(rates) for rates in zip(*(bench.rates(name) for name in DOWNLOADS), strict=True)]
    rows = [ratio_row(f"P1 cold {how} / best download", bench.rates(cold_name(how)), best, ">= 0.90") for how in HOWS]
    costs = [
        value_row(f"P5 daemon CPU s/GiB, cold {how}", bench.costs(f"daemon: {cold_name(how)}"), "<= 1.1")
        for how in HOWS
    ]
    return rows + costs


def cold_name(how: str) -> str:
    """Return what a cold load through the mount is booked under."""
    return f"mount, cold, {how}"
