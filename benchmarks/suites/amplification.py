"""The suite ``p7``: bytes fetched beside bytes needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bench import HOWS, scatter_path
from benchmarks.measuring import RANGE_BYTES
from benchmarks.report import Row, value_row
from benchmarks.store import SCATTER_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.bench import Bench

SCATTERED = 64
"""Pages read at random."""


def run(bench: Bench) -> None:
    """P7: what is fetched for a whole model, for the first half of its tensors, and for 64 pages of a large file."""
    needed, rounded = half_of(bench)
    for how in HOWS:
        with bench.mounted(bench.empty_cache()) as mount:
            name = f"whole model, {how}"
            counted = bench.counted(name, mount, _loading(bench, name, mount.mountpoint, how))
            bench.value(f"P7 whole model, {how}", counted["fetched_bytes"] / bench.size_bytes)
        with bench.mounted(bench.empty_cache()) as mount:
            name = f"half of the tensors, {how}"
            counted = bench.counted(name, mount, _half(bench, name, mount.mountpoint, how, needed))
            bench.value(f"P7 half of the tensors, {how}", counted["fetched_bytes"] / rounded)
        with bench.mounted(bench.empty_cache(), prefix=SCATTER_PREFIX) as mount:
            name, path = f"64 pages, {how}", scatter_path(mount)
            options = ["--how", how, "--seed", str(bench.number), "--count", str(SCATTERED)]
            counted = bench.counted(name, mount, _measuring(bench, name, "scatter", path, *options))
            bench.value(f"P7 blocks for 64 pages, {how}", counted["fetched_bytes"] / RANGE_BYTES)


def _loading(bench: Bench, name: str, directory: Path, how: str) -> Callable[[], None]:
    return lambda: bench.load(name, directory, how)


def _measuring(bench: Bench, name: str, *arguments: str) -> Callable[[], None]:
    return lambda: bench.measure(name, *arguments)


def _half(bench: Bench, name: str, directory: Path, how: str, most_bytes: int) -> Callable[[], None]:
    return lambda: bench.load(name, directory, how, most_bytes=most_bytes)


def half_of(bench: Bench) -> tuple[int, int]:
    """Return the bytes of the first half of the tensors, and of the blocks that they and the headers touch."""
    needed, blocks = 0, 0
    for shard in bench.model.shards:
        header_bytes, stop = len(shard.header()), 0
        for tensor in shard.tensors:
            if needed >= bench.size_bytes // 2:
                break
            needed += tensor.size_bytes
            stop = header_bytes + tensor.start + tensor.size_bytes
        size_bytes = header_bytes + sum(tensor.size_bytes for tensor in shard.tensors)
        if stop:
            blocks += min(-(-stop // RANGE_BYTES) * RANGE_BYTES, size_bytes)
    return needed, blocks


def rows(bench: Bench) -> list[Row]:
    """P7, as counted by the mount."""
    targets = {"P7 whole model": "<= 1.01", "P7 half of the tensors": "<= 1.15", "P7 blocks for 64 pages": "<= 64"}
    return [
        value_row(f"{name}, {how}", bench.values[f"{name}, {how}"], target)
        for name, target in targets.items()
        for how in HOWS
    ]
