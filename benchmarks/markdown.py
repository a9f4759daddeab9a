"""The tables of a run as Markdown, for docs/benchmarks.md.

A file with the two marks keeps all that is outside them; any other is written anew. Rows that are named after a target
(P1 to P11) come first, in words: reached or not.
"""

from __future__ import annotations

import re
import statistics
import time
from typing import TYPE_CHECKING

from benchmarks.report import WORDS, command, cost_s_per_gib, machine
from benchmarks.suites.published import table as fio_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from benchmarks.bench import Bench
    from benchmarks.report import Row

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
"""What is between them belongs to this module."""
_BAR = re.compile(r"P(\d+) ")


def write(bench: Bench, rows: Sequence[Row], path: Path) -> None:
    """Write the tables of a run.

    Args:
        bench: What was measured.
        rows: What it says.
        path: File; of one that has the marks, only what is between them changes.
    """
    text = tables(bench, rows)
    before, begin, rest = path.read_text().partition(BEGIN) if path.exists() else ("", "", "")
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}" if begin else text + "\n")


def tables(bench: Bench, rows: Sequence[Row]) -> str:
    """Return all tables of a run."""
    bars = sorted((row for row in rows if _BAR.match(row.name)), key=lambda row: int(_BAR.findall(row.name)[0]))
    others = [row for row in rows if not _BAR.match(row.name) and "fio " not in row.name]
    parts = [_head(bench), _section("The targets", _results(bars)), _section("Besides", _results(others))]
    fio = fio_table(bench)
    if fio:
        parts.append(_section("Published read jobs", _table(fio)))
    parts.append(_section("What each variant took", _table(_variants(bench))))
    return "\n\n".join(part for part in parts if part)


def _head(bench: Bench) -> str:
    facts = "; ".join(f"{key} {value}" for key, value in machine().items())
    lines = [f"{time.strftime('%Y-%m-%d')}, `{command()}`.", f"{facts}."]
    lines += [f"{note}." for note in bench.notes]
    lines += [f"**The suite {name} failed**: {why}." for name, why in bench.failures.items()]
    return "\n".join(lines)


def _section(title: str, body: str) -> str:
    return f"### {title}\n\n{body}" if body else ""


def _results(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    head = ["result", "median", "rounds", "target", ""]
    cells = [[row.name, f"{row.value:.2f}", row.spread, pretty(row.target), WORDS[row.holds]] for row in rows]
    return _table([head, *cells])


def pretty(target: str) -> str:
    """Return a target as it is printed."""
    return target.replace(">=", "≥").replace("<=", "≤")


def _variants(bench: Bench) -> list[list[str]]:
    found = [["variant", "s", "MB/s", "CPU s/GiB", "the daemon's"]]
    for name, measurements in bench.rounds.items():
        if name.startswith(("daemon: ", "fio ")):
            continue
        daemon = bench.rounds.get(f"daemon: {name}", [])
        found.append(
            [
                name,
                f"{statistics.median(m.seconds for m in measurements):.3f}",
                f"{statistics.median(m.rate_mb_s for m in measurements):.0f}",
                f"{statistics.median(map(cost_s_per_gib, measurements)):.2f}",
                f"{statistics.median(map(cost_s_per_gib, daemon)):.2f}" if daemon else "-",
            ]
        )
    return found


def _table(rows: Iterable[Sequence[str]]) -> str:
    head, *body = rows
    lines = [_line(head), _line(["---", *("---:" for _ in head[1:])]), *(_line(row) for row in body)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
