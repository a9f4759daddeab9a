"""Fifty machines that warm one model in the same second, simulated: what the store sees of them.

Each machine is a real ``Warmer`` over a real block store. Its client is put together as ``objects.s3`` does it, of the
same adaptive limit, retries and backoff, and the store answers each GET in a fixed time, or with 503 where too many are
in flight. Time is virtual and no thread takes part; what differs between runs is the order within one instant.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import AsyncExitStack

import trio

from tigrismount.blocks.options import BlocksConfig
from tigrismount.blocks.store import BlockStore
from tigrismount.cache.memory import MemoryBlockCache
from tigrismount.cli.warm import delay_s
from tigrismount.core.adaptive import AdaptiveLimit
from tigrismount.core.types import ObjectId
from tigrismount.errors import SlowDownError
from tigrismount.integrity.verdicts import Verdicts
from tigrismount.integrity.verifier import Verifier
from tigrismount.objects.memory import MemoryObjectClient
from tigrismount.objects.responses import Target as Wanted
from tigrismount.objects.retry import RetryPolicy, retrying
from tigrismount.warm.filling import FIRST_JOBS
from tigrismount.warm.report import WarmReport
from tigrismount.warm.selection import Target
from tigrismount.warm.warmer import Warmer

NODES = 50
BLOCK = 4096
BLOCKS = 32
JOBS = 16
GET_S = 0.1
"""What a GET takes where the store is not full."""
REFUSAL_S = 0.01
CAPACITY = 250
"""GETs that the store takes at once: less than a third of what the machines would send together."""
POLICY = RetryPolicy(timeout_s=300.0, max_retries=100)


class Store:
    """What all machines share."""

    def __init__(self) -> None:
        self.sent: Counter[int] = Counter()
        """GETs by the tenth of a second in which they came."""
        self.refused: Counter[int] = Counter()
        """Those of them that were refused."""
        self.in_flight = self.served = 0
        self.first_wave = 0
        """GETs that came before the first answer left."""

    async def get(self) -> None:
        tick = int(trio.current_time() / GET_S + 0.001)
        self.sent[tick] += 1
        self.first_wave += not self.served
        if self.in_flight >= CAPACITY:
            self.refused[tick] += 1
            await trio.sleep(REFUSAL_S)
            raise SlowDownError("full")
        self.in_flight += 1
        await trio.sleep(GET_S)
        self.in_flight -= 1
        self.served += 1


class Node(MemoryObjectClient):
    """One machine's client."""

    def __init__(self, store: Store, seed: int) -> None:
        super().__init__()
        self.put("m", bytes(BLOCKS * BLOCK))
        self._store = store
        self._draw = random.Random(seed).random
        self._limit = AdaptiveLimit(JOBS, draw=self._draw)
        self._lane = trio.CapacityLimiter(JOBS)

    async def fetch(self, obj: ObjectId, start: int, stop: int, sink) -> None:
        target = Wanted("http://store", "a test", obj.bucket, obj.key)
        await retrying(self._attempt, POLICY, target, draw=self._draw)
        await super().fetch(obj, start, stop, sink)

    async def _attempt(self) -> None:
        async with self._lane:
            while (wait_s := self._limit.wait_s(trio.current_time())) > 0:  # noqa: ASYNC110 - it may have moved
                await trio.sleep(wait_s)
            ticket = self._limit.sent(trio.current_time())
            try:
                try:
                    await self._store.get()
                finally:
                    self._limit.left(ticket, trio.current_time())
            except SlowDownError:
                self._limit.refused(ticket, trio.current_time())
                raise
            else:
                self._limit.ended(ticket, trio.current_time(), BLOCK)
            finally:
                self._lane.total_tokens = self._limit.limit


async def warm_one(store: Store, seed: int, starts_s: float, reports: list[WarmReport]) -> None:
    await trio.sleep(starts_s)
    client, cache = Node(store, seed), MemoryBlockCache(block_bytes=BLOCK)
    config = BlocksConfig(block_bytes=BLOCK, part_bytes=BLOCK, memory_limit_bytes=64 * BLOCK, concurrency=JOBS)
    blocks = BlockStore(client, cache, config)
    verifier = Verifier(client, cache, Verdicts(cache.records, "tigris"), least_bytes=1 << 40)
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(lambda task_status: blocks.run(task_status=task_status))
        reports.append(await Warmer(client, cache, blocks, verifier=verifier, jobs=JOBS).run([Target("bucket", "m")]))
        nursery.cancel_scope.cancel()


async def stampede(starts_s: list[float]) -> Store:
    """Warm on all machines; each has everything in the end."""
    store, reports = Store(), []
    async with trio.open_nursery() as nursery:
        for seed, its_start_s in enumerate(starts_s):
            nursery.start_soon(warm_one, store, seed, its_start_s, reports)
    assert [report.failures for report in reports] == [[]] * NODES
    assert [report.fetched_bytes for report in reports] == [BLOCKS * BLOCK] * NODES
    assert store.served == NODES * BLOCKS
    return store


async def test_machines_that_start_in_the_same_second_find_the_stores_limit_from_below(autojump_clock) -> None:
    """Mutations: all jobs at once (800 GETs first, 900 at the peak), a limit that no refusal halves (860 at the peak,
    half of all refused), retries without jitter (400 come back together)."""
    store = await stampede([0.0] * NODES)
    assert store.first_wave == NODES * FIRST_JOBS <= CAPACITY
    assert max(store.sent.values()) <= 2 * CAPACITY, "the wave that finds the limit"
    assert max(sent for tick, sent in store.sent.items() if tick >= 2) <= 1.3 * CAPACITY, "and none after it"
    assert store.refused.total() <= 0.2 * store.served


async def test_a_spread_keeps_the_store_from_being_full_at_all(autojump_clock) -> None:
    """Mutation: a draw that is not used has all of them start together."""
    draw = random.Random(5).random
    starts_s = [delay_s("30s", draw()) for _ in range(NODES)]
    assert 0 <= min(starts_s) < max(starts_s) < 30
    assert max(Counter(int(start_s) for start_s in starts_s).values()) <= NODES // 8
    store = await stampede(starts_s)
    assert max(store.sent.values()) <= CAPACITY // 4
    assert store.refused.total() == 0
