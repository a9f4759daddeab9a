"""GETs in fetch processes: what is true of a thread is true of them, whatever happens to the process."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import resource
import signal
import socket
from pathlib import Path

import pytest
import trio

from tigrismount.blocks.buffers import BufferPool
from tigrismount.core.types import ObjectId
from tigrismount.errors import ObjectAccessError, ObjectProtocolError, ObjectUnavailableError, StaleObjectError
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.fetchers import pool as pools
from tigrismount.objects.fetchers import process as processes
from tigrismount.objects.fetchers import wire
from tigrismount.objects.fetchers.line import Line
from tigrismount.objects.fetchers.memory import SharedMemory
from tigrismount.objects.fetchers.pool import FetchProcesses, open_fetchers
from tigrismount.objects.fetchers.process import Patience
from tigrismount.objects.options import S3Config
from tigrismount.objects.responses import Target
from tigrismount.objects.s3 import S3Client
from tigrismount.testing.object_contract import CollectingSink, pattern
from tigrismount.testing.waiting import until

KEY = Credentials(source="the test", access_key_id="id", secret_access_key="very-secret")
DATA = pattern(200_000)
SIZE = len(DATA)
OBJ = ObjectId("b", "k", "abc", SIZE)
BUFFER = 208_896
"""Whole pages for it."""
IMPATIENT = Patience(silent_s=1.5, let_go_s=0.2, look_s=0.1)


class World:
    """A client with fetch processes, and their memory."""

    def __init__(self, client: S3Client, fetchers: FetchProcesses) -> None:
        self.client = client
        self.fetchers = fetchers
        self.buffer = fetchers.memory.take(BUFFER)
        self.sink = CollectingSink(SIZE, memory=self.buffer, view_bytes=40_000)

    @property
    def pid(self) -> int:
        return self.fetchers.statistics().pids[0]

    async def ready(self) -> None:
        await until(lambda: self.fetchers.want(1) or self.fetchers.statistics().ready >= 1)

    async def fetch(self, start: int = 0) -> bytes:
        self.sink = CollectingSink(SIZE - start, memory=self.buffer, view_bytes=40_000)
        await self.client.fetch(OBJ, start, SIZE, self.sink)
        return self.sink.data


@pytest.fixture
async def make_world(server):
    made = []

    async def make(*, patience: Patience = IMPATIENT, find=None, url=None, **settings) -> World:
        limits = {"fetch_process_start_bytes": 1, "fetch_process_least_bytes": 1, "fetch_processes": 1}
        times = {"stall_timeout_s": 60.0, "request_timeout_s": 60.0, "region": "us-east-1"}
        config = S3Config(endpoint_url=url or server.url, **{**limits, **times, **settings})
        fetchers = FetchProcesses(config, SharedMemory.create(16 << 20), patience=patience)
        client = S3Client(config, KEY, find_credentials=find, draw=lambda: 0.0, fetchers=fetchers)
        world = World(client, fetchers)
        made.append(world)
        await world.ready()
        return world

    yield make
    server.stop()
    for world in made:
        await world.client.aclose()
        await trio.to_thread.run_sync(world.fetchers.close)


def cut(say, count: int) -> bytes:
    """Return the head of the true answer and the first bytes of its body."""
    whole = say.part(DATA, 0, SIZE)
    return whole[: len(whole) - SIZE + count]


async def test_a_process_that_is_killed_in_the_middle_of_a_body_costs_a_retry(server, say, make_world):
    world = await make_world()
    server.answer(cut(say, 100_000), say.Then.STALL)
    server.answer(say.truth(DATA))
    pid = world.pid

    async def kill() -> None:
        await until(lambda: world.sink.received == 80_000)
        os.kill(pid, signal.SIGKILL)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        assert await world.fetch() == DATA
    assert [request.range for request in server.requests] == ["bytes=0-199999", "bytes=80000-199999"]
    assert world.client.statistics().retries == 1
    assert pid not in world.fetchers.statistics().pids


async def test_another_process_takes_the_place_of_one_that_died(server, say, make_world, monkeypatch):
    monkeypatch.setattr(pools, "RESTART_S", 0.0)
    world = await make_world()
    server.answer(say.truth(DATA))
    assert await world.fetch() == DATA
    os.kill(world.pid, signal.SIGKILL)
    await until(lambda: world.fetchers.statistics().ready == 0)
    await world.ready()
    assert await world.fetch() == DATA
    assert (world.fetchers.statistics().started, world.fetchers.statistics().gets) == (2, 2)
    assert world.client.statistics().retries == 0


async def test_processes_that_die_before_they_were_of_use_are_given_up(server, say, make_world, monkeypatch):
    monkeypatch.setattr(pools, "RESTART_S", 0.0)
    world = await make_world()
    for _ in range(pools.MOST_IN_VAIN):
        await world.ready()
        os.kill(world.pid, signal.SIGKILL)
        await until(lambda: world.fetchers.statistics().ready == 0)
    world.fetchers.want(1)
    assert "do not live" in world.fetchers.statistics().degraded
    server.answer(say.truth(DATA))
    assert await world.fetch() == DATA, "by a thread"
    assert world.fetchers.statistics().started == pools.MOST_IN_VAIN


async def test_processes_are_tried_again_some_time_after_they_were_given_up(server, say, make_world, monkeypatch):
    """As those that the kernel has ended while memory was short, or that found no task left, for a few seconds.

    Mutation: the mount goes on with threads for as long as it lives.
    """
    monkeypatch.setattr(pools, "RESTART_S", 0.0)
    world = await make_world()
    for _ in range(pools.MOST_IN_VAIN):
        await world.ready()
        os.kill(world.pid, signal.SIGKILL)
        await until(lambda: world.fetchers.statistics().ready == 0)
    world.fetchers.want(1)
    assert world.fetchers.statistics().degraded
    world.fetchers._none_until_s -= pools.AGAIN_S
    await world.ready()
    server.answer(say.truth(DATA))
    assert await world.fetch() == DATA
    assert (world.fetchers.statistics().gets, world.fetchers.statistics().degraded) == (1, "")


async def test_a_process_that_cannot_be_started_at_the_moment_is_started_later(make_world, monkeypatch):
    monkeypatch.setattr(pools, "RESTART_S", 0.0)
    world = await make_world()
    os.kill(world.pid, signal.SIGKILL)
    await until(lambda: world.fetchers.statistics().ready == 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        world.fetchers.want(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert world.fetchers.statistics().started == 1
    await world.ready()
    assert world.fetchers.statistics().started == 2


async def test_a_process_that_is_stopped_is_killed_and_its_get_sent_again(server, say, make_world):
    world = await make_world()
    server.answer(say.truth(DATA))
    pid = world.pid
    os.kill(pid, signal.SIGSTOP)
    with trio.fail_after(30):
        assert await world.fetch() == DATA
    assert world.client.statistics().retries == 1
    assert pid not in world.fetchers.statistics().pids


async def test_after_a_fetch_was_cancelled_nobody_writes_to_its_memory(server, say, make_world):
    world = await make_world(patience=Patience())
    server.answer(cut(say, 100_000), say.Then.STALL)
    server.answer(say.truth(DATA))
    pid = world.pid
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.fetch)
            await until(lambda: world.sink.received == 80_000)
            nursery.cancel_scope.cancel()
    world.buffer[:] = bytes(BUFFER)
    await until(lambda: world.fetchers.statistics().in_flight == (0,))
    assert bytes(world.buffer) == bytes(BUFFER)
    assert world.pid == pid, "it did as it was told"
    assert await world.fetch() == DATA


async def test_a_process_that_does_not_let_go_of_memory_is_killed_before_a_cancelled_fetch_ends(
    server, say, make_world
):
    world = await make_world(patience=Patience(silent_s=60.0, let_go_s=0.2, look_s=0.1))
    server.answer(cut(say, 100_000), say.Then.STALL)
    pid = world.pid
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.fetch)
            await until(lambda: world.sink.received == 80_000)
            os.kill(pid, signal.SIGSTOP)
            nursery.cancel_scope.cancel()
    assert not Path(f"/proc/{pid}").exists(), "killed and waited for"


def test_whoever_has_no_memory_to_hear_a_process_waits_for_its_end():
    """Mutation: the read ends, what was lent becomes another block's, and the process still writes there."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ended = []

    class Deaf(socket.socket):
        def recv(self, *_):
            raise MemoryError

    class Process:
        await_end = staticmethod(ended.append)

    with theirs:
        line = Line(Process(), 0, Deaf(fileno=ours.detach()), 1.0)
        with pytest.raises(ObjectUnavailableError, match="a fetch process has ended"):
            line.exchange(wire.read_message(0, 4096), wire.SHORT_BYTES, Target("http://s", "the test", "b", "k"))
        assert (ended, line.has_closed) == ([line], True)
        line.close()


@pytest.mark.parametrize("where", ["get_message", "take_head"])
async def test_a_get_for_whose_words_there_is_no_memory_is_sent_again(server, say, make_world, monkeypatch, where):
    """Mutation: the error is none of ours, so nobody asks again: it ends the worker, and the mount with it."""
    world = await make_world()
    server.answer(say.truth(DATA))
    server.answer(say.truth(DATA))
    real = getattr(wire, where)

    def fail(*_) -> None:
        monkeypatch.setattr(wire, where, real)
        raise MemoryError

    monkeypatch.setattr(wire, where, fail)
    assert await world.fetch() == DATA
    assert world.client.statistics().retries == 1
    assert world.fetchers.statistics().in_flight == (0,)


async def test_an_object_that_was_overwritten_is_stale(server, say, make_world):
    world = await make_world()
    server.answer(say.error(412, "PreconditionFailed"))
    with pytest.raises(StaleObjectError):
        await world.fetch()
    server.answer(say.part(DATA, 0, SIZE, ETag='"new"'))
    with pytest.raises(StaleObjectError):
        await world.fetch()
    assert world.sink.received == 0


async def test_a_key_that_was_replaced_signs_the_next_request(server, say, make_world):
    another = Credentials(source="another place", access_key_id="id2", secret_access_key="s2", session_token="t2")
    world = await make_world(find=lambda: another)
    server.answer(say.error(403, "ExpiredToken"))
    server.answer(say.truth(DATA))
    assert await world.fetch() == DATA
    signers = [request.headers["authorization"].split("Credential=")[1].split("/")[0] for request in server.requests]
    assert signers == ["id", "id2"]
    assert server.requests[1].headers["x-amz-security-token"] == "t2"


async def test_the_store_sees_the_same_request_from_a_process_as_from_a_thread(server, say, make_world):
    world = await make_world(requester_pays=True, snapshot="1", snapshot_version="17")
    server.answer(say.truth(DATA))
    assert await world.fetch() == DATA
    own = CollectingSink(SIZE)
    await world.client.fetch(OBJ, 0, SIZE, own)
    assert own.data == DATA
    varying = {"authorization", "x-amz-date", "amz-sdk-invocation-id", "user-agent"}
    one, other = ({k: v for k, v in r.headers.items() if k not in varying} for r in server.requests)
    assert one == other
    assert one["x-tigris-snapshot-version"] == "17"
    assert world.fetchers.statistics().gets == 1


async def test_a_store_that_asks_for_less_is_heard(server, say, make_world):
    world = await make_world(concurrency=8)
    server.answer(say.error(503, "SlowDown", Retry_After="0"))
    server.answer(say.truth(DATA))
    assert await world.fetch() == DATA
    assert (world.client.statistics().slow_downs, world.client.get_limit) == (1, 4)


async def test_an_answer_that_tells_of_a_cache_is_noticed(server, say, make_world):
    world = await make_world()
    server.answer(say.error(404, "NoSuchKey", X_Cache="HIT"))
    server.answer(say.truth(DATA))
    assert await world.fetch() == DATA, "a cache may be behind, so the store is asked again"
    assert world.client.traits.cache == "TAG"
    assert server.requests[1].headers["cache-control"] == "no-store"


async def test_bodies_come_over_tls_with_the_same_authorities(say, make_world, certificate):
    context, bundle = certificate
    server = say.Server(tls=context)
    server.answer(say.truth(DATA))
    world = await make_world(url=server.url, ca_bundle=bundle)
    assert await world.fetch() == DATA
    assert world.fetchers.statistics().gets == 1
    server.stop()


async def test_a_process_has_no_secret_and_no_file_of_ours(server, say, make_world, monkeypatch, tmp_path):
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"):
        monkeypatch.setenv(name, "very-secret")
    with (tmp_path / "our.lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        world = await make_world()
        server.answer(say.truth(DATA))
        assert await world.fetch() == DATA
        place = Path(f"/proc/{world.pid}")
        for name in ("environ", "cmdline"):
            assert b"very-secret" not in (place / name).read_bytes()
        files = [str(link.readlink()) for link in (place / "fd").iterdir()]
        assert not [name for name in files if "our.lock" in name or "fuse" in name]


async def test_signals_to_all_of_a_service_do_not_end_a_process(server, say, make_world):
    world = await make_world()
    server.answer(say.truth(DATA))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(world.pid, number)
    assert await world.fetch() == DATA
    assert (world.client.statistics().retries, world.fetchers.statistics().gets) == (0, 1)


async def test_closing_ends_processes_and_those_who_wait_for_them(server, say, make_world):
    world = await make_world(max_retries=0)
    server.answer(cut(say, 100_000), say.Then.STALL)
    pid = world.pid
    errors = []

    async def fetch() -> None:
        try:
            await world.fetch()
        except ObjectUnavailableError as exc:
            errors.append(exc.detail)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            await until(lambda: world.sink.received == 80_000)
            await trio.to_thread.run_sync(world.fetchers.close)
    assert [error.rpartition(" in ")[0] for error in errors] == ["a fetch process has ended; gave up after 1 try"]
    assert not Path(f"/proc/{pid}").exists()


def test_memory_goes_back_to_the_kernel_and_never_exceeds_the_limit():
    memory = SharedMemory.create(8 << 20)
    pool = BufferPool(8 << 20, memory.take, memory.give)

    def held_bytes() -> int:
        return os.fstat(memory.fd).st_blocks * 512

    buffers = [pool.take(1 << 20) for _ in range(8)]
    for buffer in buffers:
        buffer[:] = bytes(len(buffer))
    assert held_bytes() == 8 << 20
    with pytest.raises(MemoryError):
        pool.take(4096)
    for buffer in buffers[:4]:
        pool.give(buffer)
    odd = pool.take(12_288)
    assert held_bytes() <= (8 << 20) - 12_288, "room was made for it"
    pool.give(odd)
    pool.give_back_surplus()
    pool.give_back_surplus()
    assert held_bytes() == 4 << 20
    assert pool.held_bytes == 4 << 20


def test_of_a_buffer_that_goes_back_nothing_stays_behind_it():
    """Its last huge page is filled in as a whole. Mutation: what lies behind an odd buffer is held for ever."""
    memory = SharedMemory.create(8 << 20)
    buffer = memory.take((2 << 20) + 4096)
    offset = memory.offset(buffer)
    assert offset is not None
    memory.view(offset, 4 << 20)[:] = bytes(4 << 20)  # as the kernel does with huge pages
    memory.give(buffer)
    assert os.fstat(memory.fd).st_blocks == 0


def test_where_pages_are_large_no_buffer_takes_a_huge_one(monkeypatch):
    """It has 512 MiB on some arm64. Mutation: where shared memory has such, one block takes more than the limit."""

    def flags() -> str:
        memory = SharedMemory.create(8 << 20)
        inode = os.fstat(memory.fd).st_ino
        _, _, found = Path("/proc/self/smaps").read_text().rpartition(f" {inode} ")
        return found.partition("VmFlags:")[2].partition("\n")[0]

    if " hg" not in flags():
        pytest.skip("this kernel has no huge pages")
    monkeypatch.setattr(mmap, "PAGESIZE", 65536)
    assert " nh" in flags()


def test_memory_of_others_is_told_apart():
    memory = SharedMemory.create(1 << 20)
    assert memory.offset(memoryview(bytearray(10))) is None
    buffer = memory.take(8192)
    offset = memory.offset(buffer[4096:])
    assert offset is not None
    memory.view(offset, 3)[:] = b"abc"
    assert bytes(buffer[4096:4099]) == b"abc"
    with pytest.raises(ValueError, match="no range of the buffers"):
        memory.view(0, 8)


@pytest.mark.parametrize("count", [3, 5])
async def test_an_answer_whose_head_is_too_long_for_a_message_is_an_error(server, say, make_world, count):
    """Three such headers are longer than who waits for them takes, five than a socket does."""
    world = await make_world(max_retries=0)
    server.answer(say.part(DATA, 0, SIZE, **{f"X_Long_{index}": "x" * 65_500 for index in range(count)}))
    server.answer(say.truth(DATA))
    with trio.fail_after(20):
        with pytest.raises(ObjectProtocolError, match="headers"):
            await world.fetch()
        assert await world.fetch() == DATA


async def test_an_error_whose_headers_take_much_room_is_heard(server, say, make_world):
    world = await make_world(max_retries=0)
    server.answer(say.error(403, "AccessDenied", X_Cache="\xe9" * 30_000))
    with trio.fail_after(20):
        with pytest.raises(ObjectAccessError):
            await world.fetch()


def test_memory_that_cannot_be_mapped_takes_no_descriptor_of_others_along():
    with pytest.raises(OSError, match="allocate") as caught:
        SharedMemory.create(1 << 58)
    other = os.open(os.devnull, os.O_RDONLY)  # has the number that the memory had
    del caught
    gc.collect()
    try:
        os.fstat(other)
    finally:
        os.close(other)


def test_a_kernel_that_takes_no_pages_back_is_fetched_on_by_threads(monkeypatch, caplog):
    """As gVisor's. Mutation: it is found out when the first buffer is given back, and ends the worker."""

    class Keeping(mmap.mmap):
        def madvise(self, option: int, *where: int) -> None:
            if option == mmap.MADV_REMOVE:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            super().madvise(option, *where)

    config = S3Config(endpoint_url="http://127.0.0.1:1", fetch_processes=1)
    with monkeypatch.context() as sandbox:
        sandbox.setattr(mmap, "mmap", Keeping)
        assert open_fetchers(config, 8 << 20) is None
    assert "no memory to share with fetch processes (Function not implemented)" in caplog.text
    assert open_fetchers(config, 8 << 20) is not None


@pytest.mark.parametrize("limit_bytes", [1 << 60, 1 << 62])
def test_the_largest_limit_that_is_taken_leaves_the_work_to_threads(limit_bytes, caplog):
    """The mount would end in a traceback, for a value that the configuration took."""
    assert open_fetchers(S3Config(fetch_processes=1), limit_bytes) is None
    assert "going on with threads" in caplog.text


async def test_a_process_that_gets_no_thread_for_a_line_goes_on_with_those_it_has(server, say, make_world):
    """Mutation: it ends, with all its GETs, and so does each that takes its place, for as long as tasks are short."""
    world = await make_world()
    server.answer(say.truth(DATA))
    assert await world.fetch() == DATA
    pages = int(Path(f"/proc/{world.pid}/statm").read_text().split()[0])
    resource.prlimit(world.pid, resource.RLIMIT_AS, (pages * mmap.PAGESIZE + (2 << 20), resource.RLIM_INFINITY))
    first = world.fetchers.take(world.buffer, SIZE)
    assert first is not None
    assert await world.fetch() == DATA, "sent again, from a thread"
    assert world.fetchers.take(world.buffer, SIZE) is None, "it has no more lines"
    world.fetchers.give(first)
    server.answer(say.truth(DATA))
    gets = world.fetchers.statistics().gets
    assert await world.fetch() == DATA
    assert (world.fetchers.statistics().gets, world.fetchers.statistics().started) == (gets + 1, 1)
    assert world.fetchers.statistics().in_flight == (0,)


async def test_a_process_that_gets_no_threads_leaves_the_work_to_the_others(server, say, make_world, monkeypatch):
    """Mutation: as the one with the fewest lines it is asked each time, in vain, and the others stand idle for ever."""
    monkeypatch.setattr(processes, "FULL_S", 0.4)
    world = await make_world(fetch_processes=2)
    await until(lambda: world.fetchers.want(1) or world.fetchers.statistics().ready == 2)
    pages = int(Path(f"/proc/{world.pid}/statm").read_text().split()[0])
    resource.prlimit(world.pid, resource.RLIMIT_AS, (pages * mmap.PAGESIZE + (2 << 20), resource.RLIM_INFINITY))
    server.answer(say.truth(DATA))
    assert await world.fetch() == DATA
    assert (world.fetchers.statistics().gets, world.client.statistics().retries) == (2, 1), "sent again by the other"
    lines = [world.fetchers.take(world.buffer, SIZE) for _ in range(3)]
    assert world.fetchers.statistics().in_flight == (0, 3)
    resource.prlimit(world.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await trio.sleep(0.5)
    again = world.fetchers.take(world.buffer, SIZE)
    assert world.fetchers.statistics().in_flight == (1, 3), "threads were short for a moment only"
    for line in (again, *lines):
        world.fetchers.give(line)


async def test_a_process_that_gets_no_descriptor_for_a_line_goes_on_with_those_it_has(server, say, make_world):
    """Mutation: the line comes without its end, which ends the process with all its GETs, and each that follows it."""
    world = await make_world()
    server.answer(say.truth(DATA))
    assert await world.fetch() == DATA
    resource.prlimit(world.pid, resource.RLIMIT_NOFILE, (3, 3))
    first = world.fetchers.take(world.buffer, SIZE)
    assert first is not None
    server.answer(say.truth(DATA))
    assert await world.fetch() == DATA, "sent again, from a thread"
    assert world.fetchers.take(world.buffer, SIZE) is None, "it has no more lines"
    world.fetchers.give(first)
    assert (world.fetchers.statistics().ready, world.fetchers.statistics().started) == (1, 1)


async def test_without_descriptors_for_a_line_a_thread_does_the_work(make_world):
    world = await make_world()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert world.fetchers.take(world.buffer, SIZE) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_process_of_another_release_is_given_nothing_to_do(server, say, make_world, monkeypatch):
    """Mutation: a worker from before an upgrade lends its memory to a program that may take its words for others."""
    monkeypatch.setattr(pools, "RESTART_S", 0.0)
    world = await make_world()
    os.kill(world.pid, signal.SIGKILL)
    await until(lambda: world.fetchers.statistics().ready == 0)
    monkeypatch.setattr(pools, "__version__", "0.0.1", raising=False)
    await until(
        lambda: world.fetchers.want(1) or world.fetchers.statistics().degraded or world.fetchers.statistics().ready
    )
    assert "do not live" in world.fetchers.statistics().degraded
    server.answer(say.truth(DATA))
    assert await world.fetch() == DATA, "by a thread"
    assert world.fetchers.statistics().gets == 0
