"""A GET that lags far behind the others is asked again for its rest: with timeouts of minutes, a test would not end.

How many GETs are needed before anything is behind is ``core.pace``'s business.
"""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from functools import partial

import pytest
import trio

from tigrismount.core.types import ObjectId
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.options import S3Config
from tigrismount.objects.responses import Target
from tigrismount.objects.s3 import S3Client
from tigrismount.objects.stragglers import Stragglers, settle
from tigrismount.objects.transfer import Transfer
from tigrismount.testing.object_contract import CollectingSink, pattern
from tigrismount.testing.waiting import no_threads, until

SIZE = 2 << 20
DATA = pattern(SIZE)
OBJ = ObjectId("b", "k", "abc", SIZE)
WARM_UP = 10
"""Just enough for one to be given up, so that none is while the machine is busy and this goes on."""


@pytest.fixture
async def client(server):
    key = Credentials(source="the test", access_key_id="id", secret_access_key="secret")
    config = S3Config(
        endpoint_url=server.url,
        region="us-east-1",
        stall_timeout_s=120.0,
        request_timeout_s=120.0,
        concurrency=4,
    )
    made = S3Client(config, key, draw=lambda: 0.0)
    yield made
    server.stop()  # what hangs, hangs on it
    await made.aclose()


async def fetch(client) -> bytes:
    sink = CollectingSink(SIZE)
    await client.fetch(OBJ, 0, SIZE, sink)
    return sink.data


async def warm_up(server, say, client, *script) -> None:
    """Make what is usual known; from then on the server follows *script*."""
    for _ in range(WARM_UP):
        server.answer(say.truth(DATA))
    for steps in script:
        server.answer(*steps)
    for _ in range(WARM_UP):
        assert await fetch(client) == DATA
    assert client.statistics().given_up == 0


async def test_a_body_that_stalls_is_resumed_behind_its_last_byte_long_before_the_timeout(server, say, client):
    whole = say.part(DATA, 0, SIZE)
    half = whole[: len(whole) - SIZE + SIZE // 2]
    await warm_up(server, say, client, (half, say.Then.STALL), (say.truth(DATA),))
    assert await fetch(client) == DATA
    ranges = [request.range for request in server.requests[WARM_UP:]]
    assert ranges == [f"bytes=0-{SIZE - 1}", f"bytes={SIZE // 2}-{SIZE - 1}"]
    assert client.statistics().given_up == 1


async def test_an_answer_that_never_begins_is_asked_for_again(server, say, client):
    await warm_up(server, say, client, (say.Then.STALL,), (say.truth(DATA),))
    assert await fetch(client) == DATA
    assert client.statistics().given_up == 1
    assert len(server.requests) == WARM_UP + 2


async def test_a_get_that_is_sent_again_is_not_judged_by_the_times_of_the_one_before(server, say, client):
    """Mutation: it is given up the moment it is sent, and a store that asked for fewer requests gets two for each."""
    await warm_up(server, say, client, (say.error(503, "SlowDown", Retry_After=1),), (say.truth(DATA),))
    assert await fetch(client) == DATA
    assert client.statistics().given_up == 0
    assert len(server.requests) == WARM_UP + 2


class Whole:
    """A body that comes at once."""

    def readinto(self, view: memoryview) -> int:
        return len(view)

    def interrupt(self) -> None:
        pass

    def close(self, *, complete: bool) -> None:
        pass


async def test_of_a_get_that_brought_all_just_before_it_was_given_up_nothing_is_left_to_ask_for():
    transfers = [Transfer(OBJ, 0, SIZE, CollectingSink(SIZE)) for _ in range(WARM_UP + 1)]
    target = Target("http://s", "the test", "b", "k")

    def receive(transfer: Transfer) -> None:
        transfer.answer(time.monotonic())
        transfer.receive(Whole(), target, lambda _: None)

    given_up = []

    def on_given_up() -> None:  # its thread goes on until it is told
        given_up.append(transfers[-1])
        receive(transfers[-1])

    stragglers = Stragglers(lambda: True, on_given_up)

    async def get(transfer: Transfer) -> None:
        transfer.send(time.monotonic())
        if transfer is transfers[-1]:
            await trio.sleep_forever()
        receive(transfer)

    for transfer in transfers:
        assert await stragglers.run(transfer, partial(get, transfer)), "it ended"
    assert given_up == transfers[-1:]


async def test_where_all_are_slow_the_budget_ends_and_the_bytes_still_come(server, say, client):
    """Ten GETs that ended well pay for one that is given up; the next one is waited for."""
    whole = say.part(DATA, 0, SIZE)
    half = whole[: len(whole) - SIZE + SIZE // 2]
    late = (lambda request: _after_a_while(say.truth(DATA)(request)),)
    await warm_up(server, say, client, (half, say.Then.STALL), late)
    assert await fetch(client) == DATA
    assert client.statistics().given_up == 1
    assert len(server.requests) == WARM_UP + 2


def _after_a_while(answer: bytes) -> bytes:
    time.sleep(0.4)  # several times what is usual here: an empty budget, not patience, is why it is waited for
    return answer


class HungBody:
    """A body whose read is cut short, and ends only when it may."""

    def __init__(self) -> None:
        self.reads, self.cut, self.may_end = threading.Event(), threading.Event(), threading.Event()

    def readinto(self, view: memoryview) -> int:
        self.reads.set()
        self.may_end.wait(30)
        view[:1] = b"!"
        return 1

    def interrupt(self) -> None:
        self.cut.set()


@pytest.mark.parametrize("with_threads", [True, False])
async def test_a_transfer_has_settled_once_nobody_writes_any_more(with_threads) -> None:
    """Also where the system has no thread to wait for it. Mutation: without that wait, memory is used twice."""
    sink, body, done = CollectingSink(SIZE), HungBody(), []
    transfer = Transfer(OBJ, 0, SIZE, sink)

    async def give_up() -> None:
        await settle(transfer)
        done.append(body.may_end.is_set())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            trio.to_thread.run_sync, transfer.receive, body, Target("http://s", "the test", "b", "k"), lambda _: None
        )
        await until(body.reads.is_set)
        with no_threads() if not with_threads else nullcontext():
            nursery.start_soon(give_up)
            await until(body.cut.is_set)
            await trio.sleep(0.05)
            assert done == []
            body.may_end.set()
            await until(lambda: done)
    assert (done, transfer.position) == ([True], 0)
