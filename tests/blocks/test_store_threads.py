"""The block store over fetching threads: what the thread writes and what the event loop reads never disagree."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator

import pytest
import trio

from tigrismount.blocks.options import BlocksConfig
from tigrismount.blocks.store import BlockStore
from tigrismount.cache.none import NoCache
from tigrismount.core.types import Extent, ObjectId, Priority
from tigrismount.errors import ObjectUnavailableError
from tigrismount.objects.client import FetchSink
from tigrismount.objects.memory import MemoryObjectClient

from .conftest import KIB, pattern, running

pytestmark = pytest.mark.timeout(60)

SIZE = 256 * KIB
BLOCK = 64 * KIB


class ThreadedClient(MemoryObjectClient):
    """Fills sinks from threads, in random slices; every *failing*-th fetch breaks in the middle."""

    def __init__(self, bodies: dict[str, bytes], failing: int = 0) -> None:
        super().__init__()
        self._bodies = bodies
        self._failing = failing
        self._fetches = 0
        self.trio_thread = threading.get_ident()

    async def fetch(self, obj: ObjectId, start: int, stop: int, sink: FetchSink) -> None:
        self._fetches += 1
        breaks = self._failing and self._fetches % self._failing == 0
        draw = random.Random(self._fetches)
        body = memoryview(self._bodies[obj.key])[start:stop]
        await trio.to_thread.run_sync(self._fill, body, sink, draw, draw.random() if breaks else 2.0)

    def _fill(self, body: memoryview, sink: FetchSink, draw: random.Random, break_at: float) -> None:
        assert threading.get_ident() != self.trio_thread
        position = 0
        while position < len(body):
            if position > break_at * len(body):
                raise ObjectUnavailableError("broken", bucket="bucket")
            view = sink.next_view()
            count = draw.randint(1, min(len(view), 1 + draw.choice((100, 5000, BLOCK))))
            view[:count] = body[position : position + count]
            sink.wrote(count)
            position += count
        assert not sink.next_view()


@pytest.fixture(autouse=True)
def _switch_threads_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("failing", [0, 5])
async def test_small_concurrent_reads_are_right_and_none_is_forgotten(failing: int) -> None:
    body = pattern(SIZE)
    client = ThreadedClient({"a": body}, failing)
    config = BlocksConfig(block_bytes=BLOCK, memory_limit_bytes=6 * BLOCK, concurrency=4, part_bytes=32 * KIB)
    draw = random.Random(failing)
    served = 0

    async def reader(obj: ObjectId) -> None:
        nonlocal served
        start = draw.randrange(SIZE)
        stop = min(SIZE, start + draw.randint(1, 20 * KIB))
        try:
            got = await store.read(obj, start, stop)
        except ObjectUnavailableError:
            assert failing
        else:
            assert bytes(got) == body[start:stop]
        served += 1

    async with running(BlockStore(client, NoCache(BLOCK), config)) as store:
        for i in range(200):
            obj = ObjectId("bucket", "a", f"etag{i}", SIZE)
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    for _ in range(10):
                        nursery.start_soon(reader, obj)
                    store.plan(obj, [Extent(draw.randrange(SIZE), SIZE)] if i % 2 else (), Priority.READAHEAD)
            store.check_invariants()
            store.plan(obj, (), Priority.READAHEAD)
        with trio.fail_after(30):
            while store.statistics().flights:  # noqa: ASYNC110 - threads are out: there is no event to wait for
                await trio.sleep(0.01)
            await store.drain()
        store.check_idle()
    assert served == 2000
