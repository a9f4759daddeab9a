"""The suite ``p2``: the same cold load through every other mount that is installed."""

from __future__ import annotations

from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING

from benchmarks.bench import HOWS
from benchmarks.report import Row, ratio_row
from benchmarks.store import PREFIX
from benchmarks.suites.cold import cold_name, load_cold

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.peer import Installed


def run(bench: Bench) -> None:
    """Load cold through ours, then through each way of each peer."""
    for how in HOWS:
        if len(bench.rounds.get(cold_name(how), ())) < bench.number:  # P1 of this round has it already
            load_cold(bench, how)
        for installed, variant in bench.ways():
            work = partial(bench.load, _name(installed, variant, how), how=how)
            bench.with_peer(installed, variant, PREFIX, work)


def rows(bench: Bench) -> list[Row]:
    """P2, beside the fastest way of each peer."""
    rows = []
    for how in HOWS:
        for installed in bench.plan.peers:
            ways = [bench.rounds.get(_name(installed, variant, how)) for variant in installed.peer.variants]
            rates = [[measurement.rate_mb_s for measurement in way] for way in ways if way]
            if rates:
                best = [max(found) for found in zip_longest(*rates, fillvalue=0.0)]
                name = f"P2 cold {how} / {installed.peer.name}"
                rows.append(ratio_row(name, bench.rates(cold_name(how)), best, ">= 2"))
    return rows


def _name(installed: Installed, variant: str, how: str) -> str:
    return f"{installed.label(variant)}, {how}"
