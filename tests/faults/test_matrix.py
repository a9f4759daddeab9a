"""Readers x faults: right bytes or an error within the deadline, and all is well again once the fault ends.

Drawn at random from every trouble of the fault proxy that an honest client can notice, and from those of connections,
over plain HTTP and over TLS; with several rules at a time, readers that share blocks, look-ups and listings beside
them. ``TIGRISMOUNT_FAULT_CASES`` sets how many cases are tried; how many were is printed at the end.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tigrismount.blocks.options import BlocksConfig
from tigrismount.blocks.store import BlockStore
from tigrismount.cache.none import NoCache
from tigrismount.core.types import Extent, ObjectId, Priority
from tigrismount.errors import ObjectError, ObjectUnavailableError, StaleObjectError
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.fetchers.memory import SharedMemory
from tigrismount.objects.fetchers.pool import FetchProcesses
from tigrismount.objects.options import S3Config
from tigrismount.objects.s3 import S3Client
from tigrismount.testing.certificates import make_certificate
from tigrismount.testing.fault_proxy import SILENT, FaultProxy
from tigrismount.testing.object_contract import pattern
from tigrismount.testing.spoiling import Trouble, TroubleRule
from tigrismount.testing.wire_proxy import WireProxy, WireRule, WireTrouble

KIB = 1 << 10
BLOCK = 64 * KIB
SIZES = {"a": 5 * BLOCK + 777, "b": BLOCK, "c": 1, "empty": 0}
DATA = {key: pattern(size) for key, size in SIZES.items()}
TIMEOUT_S = 2.0
"""Longest a request may keep trying, in these tests."""
PATIENT_S = 20.0
"""The same where a test is about a fault that ends."""
MARGIN_S = 30.0
"""What a loaded machine may add before a test calls it a hang."""
CASES = int(os.environ.get("TIGRISMOUNT_FAULT_CASES", "30"))
ENOUGH_CASES = 30
"""So many have something of everything."""

troubles = st.sampled_from([trouble for trouble in get_args(Trouble) if trouble not in SILENT])
errors = st.sampled_from(
    [
        (503, "SlowDown"),
        (500, "InternalError"),
        (503, "ServiceUnavailable"),
        (429, "TooManyRequests"),
        (403, "AccessDenied"),
        (403, "ExpiredToken"),
        (400, "RequestTimeout"),
        (404, "NoSuchKey"),
        (412, "PreconditionFailed"),
        (416, "InvalidRange"),
        (301, "PermanentRedirect"),
        (204, "NoContent"),
    ]
)
rules = st.builds(
    lambda match, trouble, skip, count, error, retry_after, delay_s, after_bytes: TroubleRule(
        match=match,
        trouble=trouble,
        skip=skip,
        count=count,
        status=error[0],
        code=error[1],
        retry_after=retry_after,
        delay_s=delay_s,
        after_bytes=after_bytes,
    ),
    match=st.sampled_from(["GET .*/a", "GET .*/b", "GET .*/[abc]", "HEAD", "list-type", ""]),
    trouble=troubles,
    skip=st.integers(0, 3),
    count=st.sampled_from([1, 1, 2, 2, 5, -1]),
    error=errors,
    retry_after=st.sampled_from(["", "0", "1", "-1", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "9" * 30]),
    delay_s=st.sampled_from([0.0, 0.05, 0.4]),
    after_bytes=st.sampled_from([0, 1, 4096, BLOCK - 1, BLOCK, 3 * BLOCK]),
)
reads = st.builds(
    lambda key, start, length: (key, min(start, SIZES[key]), min(start + length, SIZES[key])),
    st.sampled_from(["a", "a", "a", "b", "c"]),
    st.integers(0, 5 * BLOCK + 776),
    st.sampled_from([1, 4096, BLOCK, 2 * BLOCK, 6 * BLOCK]),
)


def wire_rules(*kinds: WireTrouble):
    """Troubles of connections: in a handshake, between it and the first answer, in the middle of bodies."""
    drawn = st.builds(
        WireRule,
        trouble=st.sampled_from(kinds),
        after_bytes=st.sampled_from([0, 1, 60, 500, 1_000, 1_500, 2_000, 20_000, BLOCK, 3 * BLOCK]),
        skip=st.integers(0, 3),
        count=st.sampled_from([1, 1, 2, 5, -1]),
        delay_s=st.sampled_from([0.05, 0.4, 5.0]),
    )
    return st.lists(drawn, max_size=2)


wires = st.one_of(
    # A bit that is flipped where nothing guards against it is a lie that nobody can tell.
    st.tuples(st.just(False), wire_rules("cut", "reset", "stall")),
    st.tuples(st.just(True), wire_rules("flip", "cut", "reset", "stall")),
)
"""Whether TLS is spoken, and what happens to connections."""
plans = st.lists(st.sampled_from(["read-ahead", "head", "list"]), max_size=3, unique=True)


@dataclass
class Score:
    """What came of the cases, to be printed."""

    cases: int = 0
    secure: int = 0
    processes: int = 0
    gets: int = 0
    spoiled: int = 0
    broken: int = 0
    right: int = 0
    refused: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def score():
    score = Score()
    yield score
    refused = ", ".join(f"{count} {name}" for name, count in sorted(score.refused.items()))
    print(
        f"\nfaults: {score.cases} cases, {score.secure} of them over TLS, "
        f"{score.processes} with a fetch process that sent {score.gets} GETs, {score.spoiled} answers spoiled and "
        f"{score.broken} connections broken, {score.right} reads right, then {refused}"
    )
    if score.cases >= ENOUGH_CASES:  # else the draw may have left one out
        reached = (score.secure, score.gets, score.spoiled, score.broken, score.right, len(score.refused))
        assert all(reached), "a trouble that meets no request proves nothing"


class Way(NamedTuple):
    """How the store is reached."""

    url: str
    proxy: FaultProxy
    wire: WireProxy
    fetchers: FetchProcesses


@pytest.fixture(scope="module")
def world(s3, tmp_path_factory):
    client = s3.client()
    client.create_bucket(Bucket="faults")
    ids = {}
    for key, data in DATA.items():
        etag = client.put_object(Bucket="faults", Key=key, Body=data)["ETag"].strip('"')
        ids[key] = ObjectId("faults", key, etag, len(data))
    client.close()
    bundle = tmp_path_factory.mktemp("tls") / "store.pem"
    with contextlib.ExitStack() as stack:
        ways = []
        for tls in (None, make_certificate(bundle)):
            proxy = stack.enter_context(FaultProxy(s3.endpoint_url, tls=tls))
            wire = stack.enter_context(WireProxy(proxy.port))
            url = f"{'http' if tls is None else 'https'}://127.0.0.1:{wire.port}"
            config = settings_of(s3, url, str(bundle), TIMEOUT_S, fetch_processes=1)
            fetchers = FetchProcesses(config, SharedMemory.create(256 << 20))
            stack.callback(fetchers.close)
            ways.append(Way(url, proxy, wire, fetchers))
        yield s3, ways, ids, str(bundle)


def settings_of(s3, url, bundle, timeout_s, **more) -> S3Config:
    return S3Config(
        endpoint_url=url,
        ca_bundle=bundle if url.startswith("https") else None,
        region=s3.region,
        connect_timeout_s=timeout_s / 2,
        request_timeout_s=timeout_s,
        metadata_timeout_s=timeout_s,
        stall_timeout_s=0.2,
        concurrency=4,
        fetch_process_start_bytes=1,
        fetch_process_least_bytes=1,
        **more,
    )


class Stack:
    """Client and block store over the proxies, for one case."""

    def __init__(
        self, s3, ways, ids, bundle, *, secure: bool = False, processes: bool = False, timeout_s: float = TIMEOUT_S
    ) -> None:
        way = ways[secure]
        key = Credentials(source="the test", access_key_id=s3.access_key, secret_access_key=s3.secret_key)
        self.fetchers = way.fetchers
        fetchers = way.fetchers if processes else None
        self.client = S3Client(settings_of(s3, way.url, bundle, timeout_s), key, fetchers=fetchers)
        limits = BlocksConfig(block_bytes=BLOCK, part_bytes=2 * BLOCK, memory_limit_bytes=16 * BLOCK, concurrency=4)
        self.store = BlockStore(self.client, NoCache(BLOCK), limits, shared=fetchers and fetchers.memory)
        self.proxy, self.wire = way.proxy, way.wire
        self.ids = ids

    async def read(self, key: str, start: int, stop: int) -> bytes:
        obj = self.ids[key]
        with trio.fail_after(TIMEOUT_S * 2 + MARGIN_S):
            data = b""
            while start < stop:  # as the kernel does: a read lies within what one reply may hold
                end = min(stop, (start // BLOCK + 2) * BLOCK)
                data += bytes(await self.store.read(obj, start, end, Priority.DEMAND))
                start = end
            return data

    async def read_again(self, key: str) -> bytes:
        """Read all of *key*: while the client pauses for a store that refused even one request at a time, not yet."""
        deadline_s = trio.current_time() + MARGIN_S
        while True:
            try:
                return await self.read(key, 0, SIZES[key])
            except ObjectUnavailableError:
                if trio.current_time() > deadline_s:
                    raise

    async def land(self) -> None:
        """Wait until nothing is under way whose answer was spoiled: a read may join it and share its end."""
        self.store.plan(self.ids["a"], (), Priority.READAHEAD)
        with trio.fail_after(TIMEOUT_S * 2 + MARGIN_S):
            while self.store.statistics().flights or self.store.statistics().queued:  # noqa: ASYNC110 -- of all flights, whoever started them
                await trio.sleep(0.01)


async def try_it(score: Score, count: bool, action) -> None:
    """Run *action*; an error of ours is one of the two things allowed, and is counted."""
    try:
        await action()
    except ObjectError as exc:
        error = exc
    else:
        score.right += count
        return
    assert str(error)
    assert "\n" not in str(error)
    name = type(error).__name__
    score.refused[name] = score.refused.get(name, 0) + 1


async def one_case(stack: Stack, score: Score, case_rules, wire_rules, case_reads, beside) -> None:
    async def read(key, start, stop):
        async def action():
            assert await stack.read(key, start, stop) == DATA[key][start:stop]

        await try_it(score, True, action)

    async def head():
        async def action():
            # A size that lies cannot be told from a true one yet: each range read by it is compared with it.
            assert (await stack.client.head("faults", "a")).id.key == "a"

        with trio.fail_after(TIMEOUT_S * 2 + MARGIN_S):
            await try_it(score, False, action)

    async def list_all():
        async def action():
            page = await stack.client.list_page("faults", "")
            assert [info.id for info in page.objects] == [stack.ids[key] for key in sorted(SIZES)]

        with trio.fail_after(TIMEOUT_S * 2 + MARGIN_S):
            await try_it(score, False, action)

    async with trio.open_nursery() as services:
        await services.start(lambda task_status: stack.store.run(task_status=task_status))
        for key in ("a", "b", "c"):
            stack.store.retain(stack.ids[key])
        stack.proxy.inject(*case_rules)
        stack.wire.inject(*wire_rules)
        async with trio.open_nursery() as nursery:
            if "read-ahead" in beside:
                stack.store.plan(stack.ids["a"], [Extent(0, SIZES["a"])], Priority.READAHEAD)
            if "head" in beside:
                nursery.start_soon(head)
            if "list" in beside:
                nursery.start_soon(list_all)
            for wanted in case_reads:
                nursery.start_soon(read, *wanted)
        score.spoiled += stack.proxy.hits
        score.broken += stack.wire.hits
        stack.proxy.inject()
        stack.wire.inject()
        await stack.land()
        for key in ("a", "b", "c"):  # all is well again, with the same store and client
            assert await stack.read_again(key) == DATA[key], key
        for key in ("a", "b", "c"):
            stack.store.release(stack.ids[key])
        stack.store.check_invariants()
        services.cancel_scope.cancel()
    score.cases += 1


@settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # what fails is small enough to read
)
@given(st.lists(rules, min_size=1, max_size=4), wires, st.lists(reads, min_size=1, max_size=4), plans, st.booleans())
def test_every_read_is_right_or_an_error_and_recovers(world, score, case_rules, wire, case_reads, beside, processes):
    secure, wire_rules = wire
    stack = Stack(*world, secure=secure, processes=processes)
    score.secure += secure
    score.processes += processes
    gets_before = stack.fetchers.statistics().gets

    async def run():
        try:
            await one_case(stack, score, case_rules, wire_rules, case_reads, beside)
        finally:
            with trio.CancelScope(shield=True):
                await stack.client.aclose()

    trio.run(run)
    score.gets += stack.fetchers.statistics().gets - gets_before


@pytest.mark.parametrize("trouble", [trouble for trouble in get_args(Trouble) if trouble not in SILENT])
def test_each_trouble_alone_once_is_invisible_to_a_reader(world, trouble):
    """A single bad answer costs time and no more, unless it says that the object is another one now."""
    stack = Stack(*world, timeout_s=PATIENT_S)
    rule = TroubleRule(match="GET .*/a", trouble=trouble, delay_s=0.05, after_bytes=BLOCK // 2)

    async def run():
        async with trio.open_nursery() as services:
            await services.start(lambda task_status: stack.store.run(task_status=task_status))
            stack.store.retain(stack.ids["a"])
            stack.proxy.inject(rule)
            try:
                assert await stack.read("a", 0, SIZES["a"]) == DATA["a"]
            except StaleObjectError:
                assert trouble == "wrong_etag"
            assert stack.proxy.hits == 1
            stack.proxy.inject()
            assert await stack.read("a", 0, SIZES["a"]) == DATA["a"]
            services.cancel_scope.cancel()
        await stack.client.aclose()

    trio.run(run)


def test_refused_connections_for_less_than_the_deadline_are_invisible(world):
    stack = Stack(*world, timeout_s=PATIENT_S)
    stack.proxy.inject()

    async def run():
        async with trio.open_nursery() as services:
            await services.start(lambda task_status: stack.store.run(task_status=task_status))
            stack.store.retain(stack.ids["a"])
            await trio.to_thread.run_sync(stack.wire.refuse)

            async def read_it():
                assert await stack.read("a", 0, SIZES["a"]) == DATA["a"]

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_it)
                while not stack.client.statistics().retries:  # noqa: ASYNC110 -- counted in threads
                    await trio.sleep(0.01)
                await trio.to_thread.run_sync(stack.wire.accept)
            services.cancel_scope.cancel()
        await stack.client.aclose()

    trio.run(run)


def test_answers_that_change_places_reach_nobody(world):
    """Two reads at once, each answered with what the other asked for: other bytes of the same object."""
    stack = Stack(*world, timeout_s=PATIENT_S)
    stack.proxy.inject(TroubleRule(match="GET .*/a", trouble="swap", count=2, delay_s=PATIENT_S / 2))
    stack.wire.inject()

    async def run():
        async with trio.open_nursery() as services:
            await services.start(lambda task_status: stack.store.run(task_status=task_status))
            stack.store.retain(stack.ids["a"])

            async def read(start):
                assert await stack.read("a", start, start + BLOCK) == DATA["a"][start : start + BLOCK]

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, 0)
                nursery.start_soon(read, 3 * BLOCK)
            assert stack.proxy.hits == 2
            assert stack.client.statistics().retries >= 2, "both were asked again"
            services.cancel_scope.cancel()
        await stack.client.aclose()

    trio.run(run)
