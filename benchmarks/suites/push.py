"""The suite ``push``: pages pushed into the kernel beside the kernel's own read-ahead, at its default and raised.

The kernel's read-ahead can be raised by root alone, so 128 KiB is what a plain user has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bench import HOWS, Bench
from benchmarks.mounts import mounted
from benchmarks.report import Row, ratio_row, value_row
from benchmarks.store import BUCKET, PREFIX

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from benchmarks.mounts import Mount

VARIANTS = {
    "128 KiB": ("--kernel-read-ahead=0", "--push=off"),
    "128 KiB, push": ("--kernel-read-ahead=0", "--push=on"),
    "4 MiB": ("--kernel-read-ahead=4096", "--push=off"),
    "4 MiB, push": ("--kernel-read-ahead=4096", "--push=on"),
}
"""Flags of ``mount``, by what the kernel reads ahead."""
STATES = ("cold", "warm NVMe")
"""What the disk cache holds."""


def run(bench: Bench) -> None:
    """Load cold, then from the full cache by a new daemon, in every variant."""
    for how in HOWS:
        for variant, flags in VARIANTS.items():
            cache = bench.empty_cache()
            for state in STATES:
                with _mounted(bench, cache, flags) as mount:
                    _load(bench, mount, _name(state, how, variant), how)


def _load(bench: Bench, mount: Mount, name: str, how: str) -> None:
    bench.counted(name, mount, lambda: bench.load(name, mount.mountpoint, how))
    bench.value(f"asked for / model, {name}", mount.status()["kernel_reads"]["bytes"] / bench.size_bytes)


def _mounted(bench: Bench, cache: Path, flags: tuple[str, ...]) -> AbstractContextManager[Mount]:
    source = f"s3://{BUCKET}/{PREFIX}"
    return mounted(source, bench.disk / "mount", bench.endpoint_url, cache, [*bench.flags, *flags])


def rows(bench: Bench) -> list[Row]:
    """Rates beside those without push at 128 KiB, what they cost, and what the kernel still asked for."""
    found = []
    plain, *others = VARIANTS
    for state in STATES:
        for how in HOWS:
            slowest = bench.rates(_name(state, how, plain))
            for variant in others:
                name = _name(state, how, variant)
                found.append(ratio_row(f"{name} / 128 KiB", bench.rates(name), slowest, "> 1"))
            for variant in VARIANTS:
                name = _name(state, how, variant)
                found.append(value_row(f"daemon CPU s/GiB, {name}", bench.costs(f"daemon: {name}"), "-"))
                found.append(value_row(f"asked for / model, {name}", bench.values[f"asked for / model, {name}"], "-"))
    return found


def _name(state: str, how: str, variant: str) -> str:
    return f"{state}, {how}, {variant}"
