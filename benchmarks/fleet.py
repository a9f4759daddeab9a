"""``python -m benchmarks.fleet``: what a fleet that loads one model at once does to the store, in virtual time.

Nothing is sent and nothing is measured: this is a simulation, and what it says about the store it was told, in
``fleet_store.Assumptions``. What each node asks for, how much at once, and when it asks again is the package's own
code (``fleet_node``); so the figures say what *we* do to a store like that. Times are only as good as the assumptions.

Five ways to load: mounts that read the store (``direct``), ``warm`` that fills the caches first (``warm``), the same
with ``--spread`` (``spread``), mounts behind TAG that has nothing yet (``tag``), and behind one that has the model
(``tag-warmed``). Of a larger fleet as many mounts are simulated as ``--sample`` says, and each stands for several
that do the same in the same instant, which makes bursts coarser than they are.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fleet_node import CONCURRENCY, Load, Node, layout_of
from benchmarks.fleet_store import Assumptions, Direct, Store, Tag
from tigrismount.cli.warm import delay_s

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NODES = (1, 3, 10, 30, 100, 300, 1000)
WAYS = ("direct", "warm", "spread", "tag", "tag-warmed")
SHARDS_BYTES = [4 << 30] * 4
"""A model of 8 billion parameters in 16 bits, as it is usually cut."""
WARMERS_PER_MOUNT = 8
"""Nodes that warm cost the simulation so much less than mounts, whose plans are the most of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one fleet did."""

    way: str
    nodes: int
    simulated: int
    """Nodes that were simulated."""
    requests: int
    """What the store saw, refusals and metadata too."""
    refused: int
    """Of those, how many it refused."""
    slow_down_share: float
    """Refusals among all answers that nodes got, the store's and TAG's."""
    store_bytes: int
    """What left the store."""
    node_bytes: int
    """What nodes got."""
    tag_hit_bytes: int
    """What of that came from TAG's cache."""
    tag_background_bytes: int
    """What TAG fetched for its cache."""
    models_from_store: float
    """What left the store, in models."""
    peak_requests_s: int
    """Most requests that the store saw in one second."""
    last_ready_s: float
    """When the last node had its model."""
    longest_get_s: float
    """The longest that one range took, refusals and waits with it; a mount gives up after 300 s."""
    first_ready_s: float
    """When the first had."""


class Events:
    """Virtual time: what is to happen, in its order."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, when_s: float, event: Callable[[], None]) -> None:
        """Have *event* happen at a moment."""
        heapq.heappush(self._heap, (when_s, next(self._numbers), event))

    def run(self) -> None:
        """Let everything happen."""
        while self._heap:
            self.now_s, _, event = heapq.heappop(self._heap)
            event()


def simulate(
    way: str,
    count: int,
    world: Assumptions,
    *,
    shards_bytes: Sequence[int] = tuple(SHARDS_BYTES),
    sample: int = 16,
    tags: int = 1,
    spread: str = "5m",
    concurrency: int = CONCURRENCY,
) -> Outcome:
    """Return what *count* nodes do that begin in the same second.

    Args:
        way: One of ``WAYS``.
        count: Nodes.
        world: What is assumed.
        shards_bytes: The model.
        sample: Most mounts to simulate; more of those that warm.
        tags: How many TAGs share their cache.
        spread: What ``--spread`` is given.
        concurrency: What ``--concurrency`` is given.
    """
    events, draw, sizes_bytes = Events(), random.Random(f"{way} {count}"), list(shards_bytes)
    store = Store(events, world)
    behind, reads = way.startswith("tag"), way not in ("warm", "spread")
    tag = Tag(events, store, world, sizes_bytes, count=tags, warmed=way == "tag-warmed") if behind else None
    layouts = [layout_of(size_bytes) for size_bytes in sizes_bytes]
    simulated = min(count, sample if reads else WARMERS_PER_MOUNT * sample)
    nodes = []
    for number in range(simulated):
        weight = count // simulated + (number < count % simulated)
        load = Load(sizes_bytes, layouts) if reads else None
        nodes.append(Node(events, tag or Direct(store), world, sizes_bytes, load, draw, weight, concurrency))
        # No two machines are given their pods in the same millisecond.
        events.at(delay_s(spread if way == "spread" else "1s", draw.random()), nodes[-1].start)
    events.run()
    return _outcome(way, store, nodes, tag, sum(sizes_bytes))


def _outcome(way: str, store: Store, nodes: list[Node], tag: Tag | None, model_bytes: int) -> Outcome:
    ready_s = [node.ready_s for node in nodes if node.ready_s is not None]
    assert len(ready_s) == len(nodes), "every node gets its model in the end"
    refused = sum(node.refused for node in nodes)
    requests, own = store.requests.total(), tag.refused if tag else 0
    hits = tag.hits if tag else 0
    return Outcome(
        way=way,
        nodes=sum(node.weight for node in nodes),
        simulated=len(nodes),
        requests=requests,
        refused=store.refused,
        slow_down_share=refused / (requests + own + hits),
        store_bytes=store.sent_bytes,
        node_bytes=sum(node.fetched_bytes for node in nodes),
        tag_hit_bytes=tag.hit_bytes if tag else 0,
        tag_background_bytes=tag.background_bytes if tag else 0,
        models_from_store=store.sent_bytes / model_bytes,
        peak_requests_s=max(store.requests.values(), default=0),
        last_ready_s=max(ready_s),
        longest_get_s=max(node.longest_s for node in nodes),
        first_ready_s=min(ready_s),
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes in Markdown."""
    lines = [
        "| way | nodes | requests | models from the store | SlowDown | peak requests/s | longest range | first ready "
        "| last ready |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one.way} | {one.nodes} | {one.requests:,} | {one.models_from_store:,.1f} | {one.slow_down_share:.1%} "
        f"| {one.peak_requests_s:,} | {one.longest_get_s:,.1f} s | {one.first_ready_s:,.0f} s "
        f"| {one.last_ready_s:,.0f} s |"
        for one in outcomes
    ]
    return "\n".join(lines)


def draw(outcomes: Sequence[Outcome], path: Path) -> bool:
    """Write a picture of the outcomes; return whether there was matplotlib to draw it with."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = (("last_ready_s", "last node ready, s"), ("models_from_store", "models from the store"))
    figure, panels = plt.subplots(1, 3, figsize=(12, 4))
    for axes, (field, label) in zip(panels, (*shown, ("slow_down_share", "share of SlowDown")), strict=True):
        for way in dict.fromkeys(one.way for one in outcomes):
            rows = [one for one in outcomes if one.way == way]
            axes.plot([one.nodes for one in rows], [getattr(one, field) for one in rows], "o-", label=way, markersize=3)
        axes.set_xscale("log")
        axes.set_yscale("linear" if field == "slow_down_share" else "log")
        axes.set_xlabel("nodes")
        axes.set_title(label, fontsize=9)
    panels[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)
    return True


def main() -> None:
    """Simulate all fleets, and print the table."""
    usual = Assumptions()
    parser = argparse.ArgumentParser(prog="benchmarks.fleet", description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=_numbers, default=NODES, help="fleets, as 1,10,100")
    parser.add_argument("--ways", type=lambda text: text.split(","), default=WAYS, help="some of " + ",".join(WAYS))
    parser.add_argument("--sample", type=int, default=16, help="mounts to simulate of a larger fleet [16]")
    parser.add_argument("--tags", type=int, default=1, help="TAGs that share their cache [1]")
    parser.add_argument("--spread", default="5m", help="what --spread is given [5m]")
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY, help="what --concurrency is given [192]")
    parser.add_argument("--store-requests", type=float, default=usual.store_requests_s, help="a second [5500]")
    parser.add_argument("--store-gigabytes", type=float, default=50.0, help="a second [50]")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the picture goes, a PNG")
    arguments = parser.parse_args()
    world = Assumptions(store_requests_s=arguments.store_requests, store_bytes_s=arguments.store_gigabytes * 1e9)
    outcomes = []
    for way, count in itertools.product(arguments.ways, arguments.nodes):
        begun_s = time.monotonic()
        outcome = simulate(
            way,
            count,
            world,
            sample=arguments.sample,
            tags=arguments.tags,
            spread=arguments.spread,
            concurrency=arguments.concurrency,
        )
        outcomes.append(outcome)
        print(f"  {way}, {count} nodes: simulated in {time.monotonic() - begun_s:.1f} s", file=sys.stderr)
    print(table(outcomes))
    if arguments.json:
        figures = {"assumptions": asdict(world), "outcomes": [asdict(one) for one in outcomes]}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.plot and not draw(outcomes, arguments.plot):
        print("no picture: matplotlib is not installed", file=sys.stderr)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    main()
