"""The suite ``p8``: processes that start together on one model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bench import HOWS
from benchmarks.report import Row, value_row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.bench import Bench

READERS = 10
"""Processes that start together on one model."""


def run(bench: Bench) -> None:
    """P8: ten processes that load the whole model at the same time."""
    for how in HOWS:
        with bench.mounted(bench.empty_cache()) as mount:
            name = f"{READERS} readers together, {how}"
            counted = bench.counted(name, mount, _together(bench, name, mount.mountpoint, how))
            bench.value(f"P8 fetched / model, {how}", counted["fetched_bytes"] / bench.size_bytes)


def _together(bench: Bench, name: str, directory: Path, how: str) -> Callable[[], None]:
    return lambda: bench.load(name, directory, how, together=READERS)


def rows(bench: Bench) -> list[Row]:
    """P8, as counted by the mount."""
    return [
        value_row(f"P8 fetched / model, {how}", bench.values[f"P8 fetched / model, {how}"], "<= 1.01") for how in HOWS
    ]
