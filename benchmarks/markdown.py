"""The tables of one run or of several as Markdown, and its pictures: ``python -m benchmarks.markdown FILE.json...``.

Of several runs the last one that has a result counts, so that suites can be measured one by one. A page with the two
marks keeps all that is outside them; any other is written anew. Rows that are named after a target (P1 to P11) come
first, in words: reached or not.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.plot import draw, draw_rates
from benchmarks.report import RATE_BYTES, WORDS, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
"""What is between them, each on a line of its own, belongs to this module."""
OURS = "ours"
LEAST_RATE_MB_S = 0.01
"""Below it a job asks for single bytes: about time, and not in a picture of rates."""
_BAR = re.compile(r"P(\d+) ")
_FIO = re.compile(r"fio (.*) \| (.*)")
_GIB = 1 << 30

Run = dict[str, Any]
"""A run as it is saved."""


def write(runs: Sequence[Run], path: Path) -> None:
    """Write the tables of *runs*; of a page that has the marks, only what is between them changes."""
    text = tables(runs)
    before, begin, rest = path.read_text().partition(f"\n{BEGIN}\n") if path.exists() else ("", "", "")
    after = rest.partition(f"\n{END}\n")[2]
    path.write_text(f"{before}\n{BEGIN}\n{text}\n{END}\n{after}" if begin else text + "\n")


def tables(runs: Sequence[Run]) -> str:
    """Return all tables of *runs*."""
    found = rows(runs)
    bars = sorted((row for row in found if _BAR.match(row.name)), key=lambda row: int(_BAR.findall(row.name)[0]))
    others = [row for row in found if not _BAR.match(row.name) and "fio " not in row.name]
    parts = [
        *map(_head, runs),
        _section("The targets", _results(bars)),
        _section("Besides", _results(others)),
        _section("Published read jobs", _table(fio_table(runs))),
        _section("What each variant took", _table(_variants(_rounds(runs)))),
    ]
    return "\n\n".join(part for part in parts if part)


def rows(runs: Sequence[Run]) -> list[Row]:
    """Return the results of *runs*, of each the last."""
    found = {row["name"]: row for run in runs for row in run["results"]}
    return [Row(row["name"], row["value"], row["target"], tuple(row["values"])) for row in found.values()]


def pictures(runs: Sequence[Run], places: Mapping[str, Path]) -> bool:
    """Draw what there is; return whether there was matplotlib to draw it with.

    Args:
        runs: What was measured.
        places: PNG files, of ``targets`` and of ``fio``.
    """
    caption = title(runs)
    rates = {job: found for job, found in fio_rates(runs).items() if max(found.values()) > LEAST_RATE_MB_S}
    in_order = sorted(rows(runs), key=lambda row: int((_BAR.findall(row.name) or [99])[0]))
    return draw(in_order, places["targets"], caption) and draw_rates(rates, places["fio"], caption)


def title(runs: Sequence[Run]) -> str:
    """Return what stands above the pictures: when and by which command it was measured, or by how many."""
    dates = sorted({run["date"] for run in runs})
    commands = runs[-1]["command"] if len(runs) == 1 else f"{len(runs)} runs, the last result of each kind"
    return f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}; {commands}; {runs[-1]['machine']['cpu']}"


def fio_rates(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Return the median rates of fio's jobs in MB/s, by job and by mount."""
    found: dict[str, dict[str, float]] = {}
    for name, measurements in _rounds(runs).items():
        if match := _FIO.fullmatch(name):
            found.setdefault(match[1], {})[match[2]] = statistics.median(map(_rate_mb_s, measurements))
    return {job: rates for job, rates in found.items() if OURS in rates}


def fio_table(runs: Sequence[Run]) -> list[list[str]]:
    """Return head and rows of a table of median rates in MB/s, a column for each mount; empty where fio did not run."""
    rates = fio_rates(runs)
    if not rates:
        return []
    values = {name: found for run in runs for name, found in run["values"].items()}
    labels = list(dict.fromkeys(label for found in rates.values() for label in found))
    table = [["MB/s", *labels, "ours / fastest peer", "fetched / read", "p50, p99 ms of ours"]]
    for job, found in rates.items():
        best = max((rate for label, rate in found.items() if label != OURS), default=0.0)
        times = [statistics.median(values[f"{which} ms, fio {job} | {OURS}"]) for which in ("p50", "p99")]
        table.append(
            [
                job,
                *(f"{found[label]:.3g}" if label in found else "-" for label in labels),
                f"{found[OURS] / best:.2f}" if best else "-",
                _median(values.get(f"amplification, {job}")),
                ", ".join(f"{time_ms:.3g}" for time_ms in times),
            ]
        )
    return table


def _median(values: Sequence[float] | None) -> str:
    return f"{statistics.median(values):.2f}" if values else "-"


def _rounds(runs: Sequence[Run]) -> dict[str, list[dict[str, float]]]:
    return {name: measurements for run in runs for name, measurements in run["rounds"].items()}


def _rate_mb_s(measurement: Mapping[str, float]) -> float:
    return measurement["size_bytes"] / measurement["seconds"] / 1e6


def _head(run: Run) -> str:
    facts = "; ".join(f"{key} {value}" for key, value in run["machine"].items())
    lines = [f"{run['date']}, `{run['command']}`: {facts}."]
    lines += [f"{note}." for note in run["notes"]]
    lines += [f"**The suite {name} failed**: {why}." for name, why in run["failures"].items()]
    return "\n".join(lines)


def _section(title: str, body: str) -> str:
    return f"### {title}\n\n{body}" if body else ""


def _results(found: Sequence[Row]) -> str:
    cells = [[row.name, f"{row.value:.2f}", row.spread, _pretty(row.target), WORDS[row.holds]] for row in found]
    return _table([["result", "median", "rounds", "target", ""], *cells])


def _pretty(target: str) -> str:
    return target.replace(">=", "≥").replace("<=", "≤")


def _variants(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> list[list[str]]:
    found = [["variant", "s", "MB/s", "CPU s/GiB", "the daemon's"]]
    for name, measurements in rounds.items():
        if not name.startswith(("daemon: ", "fio ")):
            seconds = statistics.median(m["seconds"] for m in measurements)
            rate = f"{statistics.median(map(_rate_mb_s, measurements)):.0f}"
            costs = [_cost(measurements), _cost(rounds.get(f"daemon: {name}", []))]
            small = measurements[0]["size_bytes"] < RATE_BYTES
            found.append([name, f"{seconds:.3f}", *(["-"] * 3 if small else [rate, *costs])])
    return found


def _cost(measurements: Sequence[Mapping[str, float]]) -> str:
    costs = [m["cpu_s"] / (m["size_bytes"] / _GIB) for m in measurements]
    return f"{statistics.median(costs):.2f}" if costs else "-"


def _table(cells: Iterable[Sequence[str]]) -> str:
    """Return a table, of which the first row is the head; nothing of one that has no other."""
    head, *body = [*cells] or [[]]
    lines = [_line(head), _line(["---", *("---:" for _ in head[1:])]), *(_line(row) for row in body)]
    return "\n".join(lines) if body else ""


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    """Write the tables, and the pictures, of the runs that the command line names, in their order."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.markdown", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="what benchmarks.run saved")
    parser.add_argument("--into", type=Path, required=True, help="page to write")
    parser.add_argument("--images", type=Path, help="directory for the pictures")
    arguments = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in arguments.files]
    write(runs, arguments.into)
    if arguments.images:
        pictures(runs, image_places(arguments.images))


def image_places(directory: Path) -> dict[str, Path]:
    """Return where the pictures of the documentation are."""
    return {"targets": directory / "benchmarks.png", "fio": directory / "benchmarks-fio.png"}


if __name__ == "__main__":
    main()
