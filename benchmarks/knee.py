"""``python -m benchmarks.knee``: how near GETs in flight that find their number come to the best fixed number.

In virtual time: networks of stated latency, pace of a connection, bandwidth, and limits of the store
(``knee_network``), against them the package's own controller (``core.adaptive``), and each of many fixed numbers of
GETs. Nothing is sent. What counts is what arrives in a minute from a cold start, and how long GETs take: above the knee
they only wait in line, and with them a reader that needs one now.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.knee_network import NETWORKS, Network, Outcome, Simulation

if TYPE_CHECKING:
    from collections.abc import Sequence

FIXED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SECONDS = 60.0
SETTLED_S = 5.0
"""After that, GETs in flight and how long they take are what it comes to; before, what it takes to get there."""
NEARLY = 0.95
"""The least number that brings this share of the best is the knee."""
MODEL_PARTS = 128
TODAY = 32
"""What was the default when nothing was searched for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of one network."""

    network: str
    best_bytes_s: float
    """What the best fixed number brings."""
    knee: int
    """The least that brings nearly as much."""
    today_ratio: float
    """What 32 bring, as a share of the best."""
    ratio: float
    """What the controller brings, from a cold start."""
    first_load_ratio: float
    """How long the first load of 1 GiB takes, as a share of what it takes with 32."""
    in_flight: tuple[float, float, float]
    """GETs in flight once settled: the lowest tenth, the middle, the highest tenth."""
    get_s: float
    """What a GET takes then, in the mean."""
    today_get_s: float
    """What one takes with 32."""
    refused: int
    """Of the controller's GETs."""
    requests: int
    halved: int
    """How often a refusal lowered its limit."""


def compare(network: Network, seconds: float = SECONDS, fixed: Sequence[int] = FIXED, seed: int = 1) -> Row:
    """Return what the controller and what fixed numbers bring."""
    outcomes = {number: Simulation(network, fixed=number, seed=seed).run(seconds) for number in {*fixed, TODAY}}
    best_bytes = max(outcome.received_bytes for outcome in outcomes.values())
    adaptive, today = Simulation(network, fixed=None, seed=seed).run(seconds), outcomes[TODAY]
    settled = [in_flight for when_s, in_flight, _ in adaptive.trace if when_s >= min(SETTLED_S, seconds / 2)]
    tenths = statistics.quantiles(settled, n=10)
    return Row(
        network=network.name,
        best_bytes_s=best_bytes / seconds,
        knee=min(number for number, outcome in outcomes.items() if outcome.received_bytes >= NEARLY * best_bytes),
        today_ratio=today.received_bytes / best_bytes,
        ratio=adaptive.received_bytes / best_bytes,
        first_load_ratio=first_load_s(network, None) / first_load_s(network, TODAY),
        in_flight=(tenths[0], statistics.median(settled), tenths[-1]),
        get_s=_mean_get_s(adaptive),
        today_get_s=_mean_get_s(today),
        refused=adaptive.refused,
        requests=adaptive.requests,
        halved=len(adaptive.refused_at_s),
    )


def first_load_s(network: Network, fixed: int | None) -> float:
    """Return how long the first load takes of a model of 1 GiB."""
    return Simulation(network, fixed=fixed, parts=MODEL_PARTS).run(3600.0).done_s[-1]


def _mean_get_s(outcome: Outcome) -> float:
    pairs = zip(outcome.done_s, outcome.get_s, strict=True)
    return statistics.fmean([get_s for done_s, get_s in pairs if done_s >= SETTLED_S] or [0.0])


def table(rows: Sequence[Row]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| network | best fixed | knee | found | in flight, middle (tenths) | a GET takes | 32 fixed | a GET takes "
        "| first 1 GiB, by 32 | refused | halved |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.network} | {row.best_bytes_s / 1e6:,.0f} MB/s | {row.knee} | {row.ratio:.0%} "
        f"| {row.in_flight[1]:.0f} ({row.in_flight[0]:.0f}-{row.in_flight[2]:.0f}) | {row.get_s:.2f} s "
        f"| {row.today_ratio:.0%} | {row.today_get_s:.2f} s "
        f"| {row.first_load_ratio:.2f} | {row.refused / row.requests:.1%} | {row.halved} |"
        for row in rows
    ]
    return "\n".join(lines)


def draw(networks: Sequence[Network], path: Path, seconds: float = SECONDS) -> bool:
    """Write a picture of goodput and GETs in flight over time; return whether there was matplotlib to draw it with."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = 3
    lines = -(-len(networks) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(12, 2.4 * lines), squeeze=False)
    for axes, network in zip(panels.flat, networks, strict=False):
        trace = Simulation(network, fixed=None).run(seconds).trace[::10]
        moments = [when_s for when_s, _, _ in trace]
        rates = [(b[2] - a[2]) / (b[0] - a[0]) / 1e6 for a, b in itertools.pairwise(trace)]
        axes.plot(moments[1:], rates, color="tab:blue", linewidth=1)
        axes.set_ylim(bottom=0)
        axes.set_title(network.name, fontsize=8)
        axes.tick_params(labelsize=7)
        right = axes.twinx()
        right.step(moments, [in_flight for _, in_flight, _ in trace], color="tab:orange", linewidth=1)
        right.set_ylim(bottom=0)
        right.tick_params(labelsize=7)
    for axes in panels.flat[len(networks) :]:
        axes.axis("off")
    figure.suptitle("MB/s (blue, left) and GETs in flight (orange, right) over a minute from a cold start", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    plt.close(figure)
    return True


def main() -> None:
    """Compare on all networks, and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.knee", description=__doc__.split("\n")[0])
    parser.add_argument("--network", default="", help="only those whose name has this in it")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of virtual time for each [60]")
    parser.add_argument("--seed", type=int, default=1, help="of what differs by chance [1]")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the picture goes, a PNG")
    arguments = parser.parse_args()
    networks = [network for network in NETWORKS if arguments.network in network.name]
    rows = []
    for network in networks:
        begun_s = time.monotonic()
        rows.append(compare(network, arguments.seconds, seed=arguments.seed))
        print(f"  {network.name}: simulated in {time.monotonic() - begun_s:.1f} s", file=sys.stderr)
    print(table(rows))
    if arguments.json:
        figures = {"networks": [asdict(network) for network in networks], "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.plot and not draw(networks, arguments.plot, arguments.seconds):
        print("no picture: matplotlib is not installed", file=sys.stderr)


if __name__ == "__main__":
    main()
