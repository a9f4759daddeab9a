"""Medians, ratios, the table and the JSON file of a run."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.loads import Measurement

RESULTS = Path(__file__).parent / "results"
"""Where JSON goes; ignored by git."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of results."""

    name: str
    """What is measured."""
    value: float
    """The ratio, or the cost."""
    target: str
    """What must hold."""
    spread: str
    """Smallest and largest of the rounds."""


def machine() -> dict[str, str]:
    """Describe what this ran on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": f"{os.cpu_count()} x {model}",
        "memory": f"{memory_bytes / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f} at the end",
    }


def ratio_row(name: str, ours: Sequence[float], reference: Sequence[float], target: str) -> Row:
    """Compare rates: the median of the rounds' ratios, each between neighbours in time."""
    return value_row(name, [a / b for a, b in zip(ours, reference, strict=True)], target)


def value_row(name: str, values: Sequence[float], target: str) -> Row:
    """Show the median of *values*."""
    return Row(name, statistics.median(values), target, f"{min(values):.2f}-{max(values):.2f}")


def show(rounds: dict[str, list[Measurement]], rows: Sequence[Row]) -> None:
    """Print machine, command, what each variant took, and the results."""
    print("; ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"command: {command()}")
    console = Console()
    variants = Table("variant", title="Medians")
    for column in ("s", "MB/s", "CPU s/GiB"):
        variants.add_column(column, justify="right")
    for name, measurements in rounds.items():
        seconds = statistics.median(m.seconds for m in measurements)
        rate_mb_s = statistics.median(m.rate_mb_s for m in measurements)
        cost = statistics.median(cost_s_per_gib(m) for m in measurements)
        variants.add_row(name, f"{seconds:.2f}", f"{rate_mb_s:.0f}", f"{cost:.2f}")
    console.print(variants)
    results = Table("result", title="Results")
    for column in ("median", "rounds", "target"):
        results.add_column(column, justify="right")
    for row in rows:
        results.add_row(row.name, f"{row.value:.2f}", row.spread, row.target)
    console.print(results)


def cost_s_per_gib(measurement: Measurement) -> float:
    """Return CPU seconds per GiB delivered."""
    return measurement.cpu_s / (measurement.size_bytes / 2**30)


def command() -> str:
    """Return the command as it was typed, more or less."""
    return " ".join(["python -m benchmarks.run", *sys.argv[1:]])


def save(rounds: dict[str, list[Measurement]], rows: Sequence[Row]) -> Path:
    """Write everything as JSON and return the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / time.strftime("%Y%m%dT%H%M%S.json")
    content = {
        "machine": machine(),
        "command": command(),
        "rounds": {name: [asdict(m) for m in measurements] for name, measurements in rounds.items()},
        "results": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path
