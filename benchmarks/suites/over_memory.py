"""The suite ``stub``: our file system over memory, so that what FUSE costs is seen without what a store costs.

``benchmarks.stub`` has the cuts. A cold load cannot be faster than the last of them, nor a warm one than the first;
between both lies what blocks and planning cost. The one between them has the lane before the library.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.bench import HOWS
from benchmarks.measuring import Measurement
from benchmarks.mounts import is_mounted, process_cpu_seconds
from benchmarks.report import Row, ratio_row, value_row
from benchmarks.stub import CUTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.bench import Bench


class StubFailedError(Exception):
    """The stub does not mount; why is on standard error."""


def run(bench: Bench) -> None:
    """Load through each cut; a new process for each load, because what was read stays in memory."""
    for how in HOWS:
        for cut in CUTS:
            with _mounted(bench, cut) as (pid, directory):
                cpu_before_s = process_cpu_seconds(pid)
                bench.load(_name(cut, how), directory, how)
                cpu_s = process_cpu_seconds(pid) - cpu_before_s
            last = bench.rounds[_name(cut, how)][-1]
            bench.record(f"daemon: {_name(cut, how)}", Measurement(last.seconds, last.size_bytes, cpu_s), quiet=True)


@contextlib.contextmanager
def _mounted(bench: Bench, cut: str) -> Iterator[tuple[int, Path]]:
    directory = bench.disk / "stub"
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.stub", str(directory), cut, str(bench.plan.size_bytes)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "mounted":
            raise StubFailedError(f"exit status {process.wait()} of the stub")
        yield process.pid, directory
    finally:
        if is_mounted(directory):
            subprocess.run(["fusermount3", "-uz", str(directory)], check=False)
        process.terminate()
        process.communicate()


def rows(bench: Bench) -> list[Row]:
    """What each cut costs, and how fast the second is beside the first."""
    rows = []
    for how in HOWS:
        handlers, lane, store = (_name(cut, how) for cut in CUTS)
        name = f"FUSE with the lane / without, over memory, {how}"
        rows.append(ratio_row(name, bench.rates(lane), bench.rates(handlers), "-"))
        rows.append(
            ratio_row(
                f"whole read path / FUSE alone, over memory, {how}", bench.rates(store), bench.rates(handlers), "-"
            )
        )
        for cut in CUTS:
            rows.append(
                value_row(f"daemon CPU s/GiB, {_name(cut, how)}", bench.costs(f"daemon: {_name(cut, how)}"), "-")
            )
            rows.append(value_row(f"MB/s, {_name(cut, how)}", bench.rates(_name(cut, how)), "-"))
    return rows


def _name(cut: str, how: str) -> str:
    names = {"handlers": "FUSE alone", "lane": "FUSE and lane", "store": "read path"}
    return f"{names[cut]} over memory, {how}"
