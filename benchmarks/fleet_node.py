"""One node of ``benchmarks.fleet``: what it asks for, how much at once, and when it asks again after a refusal.

All three are decided by the package's own code: the plans of ``core.fileplan`` and ``core.modelplan``, put together as
``reader.model`` does it; the limit of ``core.adaptive``; the waits of ``core.backoff``. What is left here is a loader
that reads one shard after the other, and a clock of its own.

A node that *warms* has no loader: it asks for every block in order and begins with as few requests as ``warm`` does.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from benchmarks.fleet_store import Pipe
from tigrismount.blocks.options import BlocksConfig, with_demand
from tigrismount.core.adaptive import AdaptiveLimit
from tigrismount.core.backoff import backoff_s
from tigrismount.core.fileplan import FilePlan
from tigrismount.core.layout import Layout, TensorExtent
from tigrismount.core.modelplan import ModelPlan
from tigrismount.core.readahead import StreamPolicy
from tigrismount.reader.options import ReaderConfig
from tigrismount.warm.filling import FIRST_JOBS

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from benchmarks.fleet_store import Assumptions, Clock
    from tigrismount.core.adaptive import Ticket

BLOCK_BYTES = BlocksConfig().block_bytes
CONCURRENCY = 192
"""What a mount goes up to by itself where it has 2 GiB for read buffers."""
READ_AHEAD_BYTES = ReaderConfig().read_ahead_bytes
READ_BYTES = 1 << 20
"""One READ of the kernel, which is what plans are made from."""
TENSOR_BYTES = 112 << 20
"""A matrix of a model of 8 billion parameters."""
METADATA_REQUESTS = 7
"""Listings and HEADs before the first byte is read, one after the other: what one cold node was measured to send."""
Block = tuple[int, int]
"""A shard, and the number of a block in it."""


class Route(Protocol):
    """The way to the store."""

    def get(self, shard: int, size_bytes: int, weight: int) -> float | None:
        """Return when the answer is complete; None for a refusal."""
        ...

    def ended(self, weight: int) -> None:
        """An answer is complete."""
        ...


def layout_of(size_bytes: int) -> Layout:
    """Return tensors of one size that fill a shard."""
    bounds = [*range(READ_BYTES, size_bytes, TENSOR_BYTES), size_bytes]
    return Layout(
        READ_BYTES, tuple(TensorExtent(str(start), "BF16", (), start, stop) for start, stop in pairwise(bounds))
    )


class Load:
    """The plans of one load, in the order of a loader that reads shard after shard."""

    def __init__(self, shards_bytes: list[int], layouts: list[Layout]) -> None:
        policy = StreamPolicy(block_bytes=BLOCK_BYTES, max_window_bytes=READ_AHEAD_BYTES)
        half_bytes = READ_AHEAD_BYTES // 2
        self._shards_bytes = shards_bytes
        self._layouts = layouts
        self._files = [FilePlan(size_bytes, policy) for size_bytes in shards_bytes]
        self._model = ModelPlan(shards_bytes, block_bytes=BLOCK_BYTES, heads_bytes=half_bytes, budget_bytes=half_bytes)
        self._granted = [0] * len(shards_bytes)
        self._model.open()
        self._apply(0)

    def arrived(self, block: Block) -> None:
        """Plan by the header, once it has come."""
        shard, index = block
        if index == 0:
            self._files[shard].learn(self._layouts[shard])

    def read(self, block: Block, *, missed: bool) -> bool:
        """Note that the loader reads a block; return whether something else is wanted now."""
        shard, index = block
        plan, changed = self._files[shard], False
        stop = min((index + 1) * BLOCK_BYTES, self._shards_bytes[shard])
        for start in range(index * BLOCK_BYTES, stop, READ_BYTES):
            changed |= plan.observe(start, min(start + READ_BYTES, stop), missed=missed)
        if changed:
            self._model.observe(shard, plan.touched_bytes, plan.overflow_bytes)
            self._apply(plan.window_bytes)
        return changed

    def wanted(self) -> Iterator[Block]:
        """Yield what is wanted, most urgent first."""
        for shard, plan in enumerate(self._files):
            for extent in plan.ahead():
                for index in range(extent.start // BLOCK_BYTES, -(-extent.stop // BLOCK_BYTES)):
                    yield shard, index

    def _apply(self, window_bytes: int) -> None:
        for shard, (spill_bytes, head_bytes) in enumerate(zip(self._model.spills(), self._model.heads(), strict=True)):
            wanted_bytes = max(spill_bytes, head_bytes)
            if wanted_bytes != self._granted[shard]:
                self._granted[shard] = wanted_bytes
                if window_bytes and spill_bytes:
                    self._files[shard].expect(window_bytes, self._model.read_bytes)
                self._files[shard].grant(wanted_bytes)


class Node:
    """One node, or several that do the same in the same instant.

    Args:
        clock: Events.
        route: The way to the store.
        world: What is assumed of its network and its loader.
        shards_bytes: Sizes of the model's shards.
        load: Plans of the loader; None for a node that warms.
        draw: Random numbers, for the waits.
        weight: How many it stands for.
        concurrency: What ``--concurrency`` is given.
    """

    def __init__(
        self,
        clock: Clock,
        route: Route,
        world: Assumptions,
        shards_bytes: list[int],
        load: Load | None,
        draw: random.Random,
        weight: int,
        concurrency: int = CONCURRENCY,
    ) -> None:
        self._clock, self._route, self._world, self._draw, self.weight = clock, route, world, draw, weight
        self._shards_bytes = shards_bytes
        self._load = load
        self._blocks = [
            (shard, index) for shard, size in enumerate(shards_bytes) for index in range(-(-size // BLOCK_BYTES))
        ]
        self._place = 0
        """The loader's next block, as a number in that list."""
        self._wanted: deque[Block] = deque() if load else deque(self._blocks)
        self._again: deque[tuple[Block, int]] = deque()
        """What was refused, and how often, and may be asked again now."""
        self._asked: dict[Block, float] = {}
        """When each block was asked for first."""
        self._here: set[Block] = set()
        self._waits_for: Block | None = None
        self._concurrency = concurrency
        self._limit = AdaptiveLimit(concurrency, draw=draw.random)
        self._pumps_at_s = 0.0
        """When it will look again what may be sent."""
        self._network = Pipe(world.node_bytes_s)
        self._jobs = concurrency if load else min(FIRST_JOBS, concurrency)
        """What ``warm`` has on its way at most."""
        self._flights = 0
        """GETs that have begun, those that wait after a refusal too."""
        self._sent = 0
        """Of those, how many the store has not answered."""
        self.fetched_bytes = 0
        self.refused = 0
        self.longest_s = 0.0
        """The longest that a block took, refusals and waits with it."""
        self.ready_s: float | None = None

    def start(self, left: int = METADATA_REQUESTS, failures: int = 0) -> None:
        """Send what goes before the first byte, one after the other, and go on."""
        if not left:
            return self._read() if self._load else self._pump()
        done_s = self._route.get(0, 0, self.weight)
        if done_s is None:
            self.refused += self.weight
            wait_s = self._world.first_byte_s + backoff_s(failures + 1, self._draw.random())
            return self._clock.at(self._clock.now_s + wait_s, lambda: self.start(left, failures + 1))

        def answered() -> None:
            self._route.ended(self.weight)
            self.start(left - 1)

        return self._clock.at(done_s, answered)

    # -- the loader --------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Read the next block, or wait for it."""
        assert self._load is not None
        if self._place == len(self._blocks):
            self.ready_s = self._clock.now_s
            return
        block = self._blocks[self._place]
        missed = block not in self._here
        if self._load.read(block, missed=missed):
            self._wanted = deque(one for one in self._load.wanted() if one not in self._asked)
        if missed:
            self._waits_for = block
            if block not in self._asked:
                self._wanted.appendleft(block)
        else:
            self._take()
        self._pump()

    def _take(self) -> None:
        self._place += 1
        self._clock.at(self._clock.now_s + BLOCK_BYTES / self._world.loader_bytes_s, self._read)

    # -- the client --------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send what the limit allows, first what was refused before."""
        while self._sent < self._limit.limit and self._wanted_now():
            wait_s = self._limit.wait_s(self._clock.now_s)
            if wait_s > 0:
                return self._pump_at(self._clock.now_s + wait_s)
            if self._again:
                self._send(*self._again.popleft())
            else:
                self._flights += 1
                self._asked[self._wanted[0]] = self._clock.now_s
                self._send(self._wanted.popleft(), 0)
        return None

    def _wanted_now(self) -> bool:
        """Tell whether there is something to send: what was refused, or what has a place."""
        if self._again:
            return True
        while self._wanted and self._wanted[0] in self._asked:
            self._wanted.popleft()
        if not self._wanted:
            return False
        limit = min(self._limit.limit, self._jobs)
        # The last places are for what somebody waits for.
        return self._flights < (with_demand(limit) if self._wanted[0] == self._waits_for else limit)

    def _pump_at(self, when_s: float) -> None:
        if self._pumps_at_s <= self._clock.now_s or when_s < self._pumps_at_s:
            self._pumps_at_s = when_s
            self._clock.at(when_s, self._pump)

    def _send(self, block: Block, failures: int) -> None:
        now_s, ticket = self._clock.now_s, self._limit.sent(self._clock.now_s)
        size_bytes = min(BLOCK_BYTES, self._shards_bytes[block[0]] - block[1] * BLOCK_BYTES)
        done_s = self._route.get(block[0], size_bytes, self.weight)
        self._sent += 1
        if done_s is None:
            event = lambda: self._refuse(block, failures + 1, ticket)  # noqa: E731
            self._clock.at(now_s + self._world.first_byte_s, event)
        else:
            done_s = max(done_s, self._network.carry(now_s, size_bytes))
            self._clock.at(done_s, lambda: self._arrive(block, size_bytes, ticket))

    def _refuse(self, block: Block, failures: int, ticket: Ticket) -> None:
        self._sent -= 1
        self.refused += self.weight
        self._limit.left(ticket, self._clock.now_s)
        self._limit.refused(ticket, self._clock.now_s)

        def again() -> None:
            self._again.append((block, failures))
            self._pump()

        self._clock.at(self._clock.now_s + backoff_s(failures, self._draw.random()), again)
        self._pump()

    def _arrive(self, block: Block, size_bytes: int, ticket: Ticket) -> None:
        self._sent -= 1
        self._flights -= 1
        self._route.ended(self.weight)
        self._limit.left(ticket, self._clock.now_s)
        self._limit.ended(ticket, self._clock.now_s, size_bytes)
        self._here.add(block)
        self.longest_s = max(self.longest_s, self._clock.now_s - self._asked[block])
        self.fetched_bytes += size_bytes * self.weight
        if self._load is None:
            self._jobs = min(self._concurrency, self._jobs + 1)
            if len(self._here) == len(self._blocks):
                self.ready_s = self._clock.now_s
        else:
            self._load.arrived(block)
            if block == self._waits_for:
                self._waits_for = None
                self._take()
        self._pump()
