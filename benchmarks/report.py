"""Medians, ratios, the table and the JSON file of a run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.bench import Bench
    from benchmarks.measuring import Measurement

WORDS = {True: "reached", False: "not reached", None: "-"}
"""How a target is said to hold."""
RATE_BYTES = 1 << 20
"""Variants that move less are about time: pages, names."""
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
    """What must hold: ``>=`` or ``<=`` and a number; anything else is no target."""
    values: tuple[float, ...]
    """One per round."""

    @property
    def spread(self) -> str:
        """Smallest and largest of the rounds."""
        return f"{min(self.values):.2f}-{max(self.values):.2f}"

    @property
    def limit(self) -> float:
        """The number of the target."""
        return float(self.target.split()[1])

    @property
    def holds(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if not self.target.startswith((">=", "<=")):
            return None
        return self.value >= self.limit if self.target.startswith(">=") else self.value <= self.limit


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


def versions() -> dict[str, str]:
    """Return what ran, ours and the store's."""
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    said = subprocess.run([nginx, "-v"], check=False, capture_output=True, text=True).stderr.strip() if nginx else "-"
    names = ("tigrismount", "pyfuse3", "trio", "boto3", "botocore", "urllib3", "lmdb", "safetensors")
    return {"nginx": said, **{name: metadata.version(name) for name in names}}


def ratio_row(name: str, ours: Sequence[float], reference: Sequence[float], target: str) -> Row:
    """Compare rates: the median of the rounds' ratios, each between neighbours in time."""
    return value_row(name, [a / b for a, b in zip(ours, reference, strict=False)], target)


def value_row(name: str, values: Sequence[float], target: str) -> Row:
    """Show the median of *values*."""
    return Row(name, statistics.median(values), target, tuple(values))


def show(bench: Bench, rows: Sequence[Row]) -> None:
    """Print machine, command, what each variant took and made the mount do, and the results."""
    print("; ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"command: {command()}")
    for note in bench.notes:
        print(f"note: {note}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    variants = Table("variant", title="Medians")
    for column in ("s", "MB/s", "CPU s/GiB", "daemon's"):
        variants.add_column(column, justify="right")
    for name, measurements in bench.rounds.items():
        if name.startswith("daemon: "):
            continue
        seconds = statistics.median(m.seconds for m in measurements)
        rate_mb_s = statistics.median(m.rate_mb_s for m in measurements)
        cost = statistics.median(cost_s_per_gib(m) for m in measurements)
        daemon = bench.rounds.get(f"daemon: {name}", [])
        daemon_cost = f"{statistics.median(cost_s_per_gib(m) for m in daemon):.2f}" if daemon else "-"
        costs = [f"{rate_mb_s:.0f}", f"{cost:.2f}", daemon_cost] if measurements[0].size_bytes >= RATE_BYTES else []
        variants.add_row(name, f"{seconds:.3f}", *costs)
    console.print(variants)
    if bench.counters:
        console.print(_counters_table(bench))
    results = Table("result", title="Results")
    for column in ("median", "rounds", "target", ""):
        results.add_column(column, justify="right")
    for row in rows:
        results.add_row(row.name, f"{row.value:.2f}", row.spread, row.target, WORDS[row.holds])
    for name, why in bench.failures.items():
        results.add_row(f"the suite {name}", "failed", "", "", why, style="red")
    console.print(results)


def _counters_table(bench: Bench) -> Table:
    """Return what the mount counted in the last round."""
    table = Table("variant", title="Counters of the mount, last round")
    names = list(next(iter(bench.counters.values()))[-1])
    for name in names:
        table.add_column(name.replace("_bytes", " MB").replace("_", " "), justify="right")
    for variant, rounds in bench.counters.items():
        counted = rounds[-1]
        cells = [f"{counted[n] / 1e6:.0f}" if n.endswith("_bytes") else str(counted[n]) for n in names]
        table.add_row(variant, *cells)
    return table


def cost_s_per_gib(measurement: Measurement) -> float:
    """Return CPU seconds per GiB delivered."""
    return measurement.cpu_s / (measurement.size_bytes / 2**30)


def command() -> str:
    """Return the command as it was typed, more or less."""
    return " ".join(["python -m benchmarks.run", *sys.argv[1:]])


def content(bench: Bench, rows: Sequence[Row]) -> dict[str, Any]:
    """Return everything about a run, as it is saved."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
        "command": command(),
        "commands": bench.commands,
        "notes": bench.notes,
        "failures": bench.failures,
        "rounds": {name: [asdict(m) for m in measurements] for name, measurements in bench.rounds.items()},
        "counters": bench.counters,
        "values": bench.values,
        "results": [asdict(row) for row in rows],
    }


def save(found: dict[str, Any], directory: Path) -> Path:
    """Write a run as JSON into *directory*; return the file."""
    directory.mkdir(exist_ok=True)
    path = directory / time.strftime("%Y%m%dT%H%M%S.json")
    path.write_text(json.dumps(found, indent=2) + "\n")
    return path
