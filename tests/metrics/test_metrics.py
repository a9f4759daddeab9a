"""Metrics follow Prometheus's own rules, and nobody who asks for them can hold up the daemon."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from socketserver import TCPServer

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from tigrismount.blocks.statistics import BlocksStatistics
from tigrismount.cache.base import CacheStatistics
from tigrismount.core.histogram import Histogram
from tigrismount.fuse import errnos
from tigrismount.fuse.passthrough import PassthroughStatistics
from tigrismount.fuse.pusher import PusherStatistics
from tigrismount.integrity.verifier import VerifierStatistics
from tigrismount.metrics.exposition import Exposition, Figures
from tigrismount.metrics.server import MetricsServer, _Server
from tigrismount.metrics.table import ERRNOS, METRICS, PARTS, TIMINGS
from tigrismount.objects.client import ObjectStatistics
from tigrismount.objects.fetchers.pool import FetcherStatistics
from tigrismount.reader.loads import FinishedLoads
from tigrismount.telemetry import MountFacts, Takeovers, mount_status
from tigrismount.vfs.entries import VfsStatistics

SERIES_MAX = 200
"""Most series of one mount: what a Prometheus takes from thousands of hosts without a thought."""
UNITS = ("seconds", "bytes")
"""Base units; milliseconds and megabytes are none."""


class Config:
    """What ``mount_status`` needs of a configuration."""

    mountpoint, source, disk_caches = "/models", 's3://b/"odd\\name\n"', ()

    class s3:  # noqa: N801
        snapshot_version = None

    class blocks:  # noqa: N801
        concurrency = 32

    @staticmethod
    def report():
        return {}


def figures(**changes) -> Figures:
    vfs = dict.fromkeys(VfsStatistics.__dataclass_fields__, 3)
    facts = MountFacts(
        takeovers=Takeovers(2, "it crashed"),
        degraded={"cache": "disk full", "store": changes.get("store", "")},
        supervisor_pid=1,
        uptime_s=12.5,
        credentials="the test",
        notes=[],
        objects=changes.get("objects", ObjectStatistics()),
        fetchers=FetcherStatistics(configured=2, ready=1, started=3, gets=9, in_flight=(4,), pids=(17,)),
        cache=CacheStatistics(bytes_cached=7),
        blocks=BlocksStatistics(bytes_hit=5, reads_hit=1),
        pusher=PusherStatistics(),
        vfs=VfsStatistics(**vfs),
        checksums=VerifierStatistics(),
        loads=(),
        finished_loads=FinishedLoads(2, 30.0, 4.5, 100, 120),
        passthrough=PassthroughStatistics(),
        kernel_reads=(0, 0),
    )
    status = mount_status(Config, facts)
    timing = Histogram()
    timing.observe(0.02)
    return Figures(status, dict.fromkeys(TIMINGS, timing.snapshot()), {"EIO": 4})


def families(text: bytes):
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


@pytest.fixture
def shown():
    return families(Exposition(lambda: figures()).text())


def ours(shown):
    return {name: family for name, family in shown.items() if name.startswith("tigrismount_")}


def test_every_metric_is_there_with_help(shown):
    names = {f"tigrismount_{metric.name}" for metric in METRICS} | {f"tigrismount_{t.name}" for t in TIMINGS.values()}
    assert set(ours(shown)) == names | {"tigrismount_info", "tigrismount_fuse_errors"}
    assert all(family.documentation.endswith(".") for family in ours(shown).values())


def test_names_and_units_follow_the_rules(shown):
    histograms = {f"tigrismount_{t.name}" for t in TIMINGS.values()}
    for name, family in ours(shown).items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name), name
        assert not re.search(r"_(total|count|sum|bucket|ms|milliseconds|kb|mb|mib|kib|gb)$", name), name
        if family.type == "counter":
            assert all(sample.name == f"{name}_total" for sample in family.samples), name
        if "byte" in name.removesuffix("first_byte_seconds") or "second" in name:
            assert name.endswith(UNITS), name
        assert family.type in ({"histogram"} if name in histograms else {"counter", "gauge"})


def test_the_number_of_series_is_bounded(shown):
    assert sum(len(family.samples) for family in ours(shown).values()) < SERIES_MAX
    labels = {label for family in ours(shown).values() for sample in family.samples for label in sample.labels}
    assert labels == {
        *{metric.label for metric in METRICS if metric.label},
        *("errno", "le", "mountpoint", "source", "snapshot", "version"),
    }


def test_figures_are_those_of_the_status(shown):
    def value(name, **labels):
        family = ours(shown)[f"tigrismount_{name}"]
        (found,) = [sample.value for sample in family.samples if sample.labels == labels]
        return found

    assert value("bytes", source="ram") == 5
    assert value("cache_bytes") == 7
    assert value("takeovers") == 2
    assert value("uptime_seconds") == 12.5
    assert value("fuse_errors", errno="EIO") == 4
    assert value("fuse_errors", errno="ESTALE") == 0, "there from the start, so that the first one has a rate"
    assert {part: value("degraded", part=part) for part in PARTS} == {part: float(part == "cache") for part in PARTS}
    (info,) = ours(shown)["tigrismount_info"].samples
    assert info.labels["source"] == Config.source, "whatever a name holds, it is escaped"
    assert value("store_get_seconds", le="0.025") == 1


def test_a_mountpoint_that_is_no_utf8_is_shown_with_escapes():
    """Python's text of such a path cannot be encoded: every scrape of such a mount failed."""
    plain = figures()
    shown = families(Exposition(lambda: replace(plain, status={**plain.status, "mountpoint": "/m\udcff"})).text())
    assert shown["tigrismount_info"].samples[0].labels["mountpoint"] == "/m\\udcff"


def test_retries_are_told_apart():
    stats = ObjectStatistics(retries=5, slow_downs=2)
    family = families(Exposition(lambda: figures(objects=stats)).text())["tigrismount_store_retries"]
    assert {sample.labels["cause"]: sample.value for sample in family.samples} == {"slow_down": 2, "failure": 3}


def get(port, path, method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as reply:
        with reply:
            return reply.code, reply.read()


@pytest.fixture
async def serve(nursery):
    async def start(make=figures, port=0, reports=None):
        server = MetricsServer("127.0.0.1", port, make, reports)
        nursery.start_soon(server.run)
        while not server.port and not server.degraded:
            await trio.lowlevel.checkpoint()
        return server

    yield start
    nursery.cancel_scope.cancel()


async def test_metrics_and_health_are_served(serve):
    server = await serve()
    status, text = await trio.to_thread.run_sync(get, server.port, "/metrics")
    assert status == 200
    assert "tigrismount_reads" in families(text)
    assert "process_cpu_seconds" in families(text)
    for path in ("/healthz", "/readyz"):
        assert await trio.to_thread.run_sync(get, server.port, path) == (200, b"ok\n")
    assert await trio.to_thread.run_sync(get, server.port, "/healthz", "HEAD") == (200, b"")
    assert (await trio.to_thread.run_sync(get, server.port, "/secret"))[0] == 404


async def test_a_mount_without_its_store_is_alive_and_not_ready(serve):
    server = await serve(lambda: figures(store="nobody answers"))
    assert await trio.to_thread.run_sync(get, server.port, "/readyz") == (503, b"store: nobody answers\n")
    assert (await trio.to_thread.run_sync(get, server.port, "/healthz"))[0] == 200


async def test_a_loop_that_does_not_answer_is_told_and_the_last_figures_are_shown(serve, monkeypatch):
    server = await serve()
    monkeypatch.setattr("tigrismount.metrics.server.ANSWER_S", 0.05)
    # While this call runs, so does nothing else in the loop.
    assert get(server.port, "/healthz")[0] == 503
    assert get(server.port, "/metrics")[0] == 200


async def test_who_speaks_for_ever_keeps_no_others_waiting(serve, monkeypatch):
    """One byte every few seconds held the only connection for days, and probes had the mount started again."""
    monkeypatch.setattr("tigrismount.metrics.server._Handler.timeout", 0.3)
    server = await serve()
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    await stream.send_all(b"GET /metrics HTTP/1.1\r\nX: ")

    async def speak():
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"x")
                await trio.sleep(0.02)

    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        assert await trio.to_thread.run_sync(get, server.port, "/healthz") == (200, b"ok\n")
        nursery.cancel_scope.cancel()


async def test_a_taken_address_is_no_end_of_the_mount(serve):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = await serve(port=port)
        assert server.port == 0
        assert f"cannot listen on 127.0.0.1 port {port}" in server.degraded
    with trio.fail_after(30):
        while not server.port:
            await trio.lowlevel.checkpoint()
    assert server.degraded == ""


async def test_a_system_without_a_thread_to_serve_from_is_no_end_of_the_mount(serve, monkeypatch, autojump_clock):
    """Mutation: no worker of a mount with --metrics-addr takes over while its limit of tasks is reached."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    server = await serve()
    assert "raise the limit of tasks" in server.degraded
    monkeypatch.undo()
    await trio.sleep(10)
    assert server.port
    assert server.degraded == ""


async def test_who_asks_while_the_mount_ends_does_not_end_it_harder(monkeypatch):
    """Mutation: trio takes what the nursery says to latecomers for a mistake of its own, and ends all at once."""

    async def reports():
        await trio.lowlevel.checkpoint()
        return [{"model": "m"}]

    server = MetricsServer("127.0.0.1", 0, figures, reports)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        await trio.testing.wait_all_tasks_blocked()
        assert await trio.to_thread.run_sync(server._newest_reports) == [{"model": "m"}]
        nursery.cancel_scope.cancel()
    assert await trio.to_thread.run_sync(server._newest_reports) == [{"model": "m"}]


async def test_figures_that_cannot_be_had_end_nothing(serve, caplog):
    made = []

    def make():
        if made:
            raise RuntimeError("dictionary changed size during iteration")
        made.append(figures())
        return made[0]

    server = await serve(make)
    assert (await trio.to_thread.run_sync(get, server.port, "/metrics"))[0] == 200
    assert "the figures cannot be had" in caplog.text


def test_every_errno_that_an_error_means_is_there_from_the_start():
    assert {errno.errorcode[number] for number in errnos.ERRNOS.values()} == set(ERRNOS)


async def test_the_page_for_people_is_served_with_a_policy_and_the_last_loads(serve):
    async def reports():
        await trio.lowlevel.checkpoint()
        return [{"model": "s3://b/<llama>", "started": 1.0}]

    server = await serve(reports=reports)

    def look():
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{server.port}/", timeout=20) as reply:
            return reply.headers, reply.read().decode()

    headers, text = await trio.to_thread.run_sync(look)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Content-Security-Policy"].startswith("default-src 'none';")
    assert "s3://b/&lt;llama&gt;" in text


async def test_reports_that_cannot_be_had_cost_neither_the_page_nor_the_mount(serve, caplog):
    async def reports():
        await trio.lowlevel.checkpoint()
        raise RuntimeError("the cache is odd")

    server = await serve(reports=reports)
    status, text = await trio.to_thread.run_sync(get, server.port, "/")
    assert status == 200
    assert b"none yet" in text
    assert "the load reports cannot be had" in caplog.text
    assert (await trio.to_thread.run_sync(get, server.port, "/healthz"))[0] == 200


async def test_a_page_that_is_asked_for_while_the_mount_ends_does_not_end_it_in_an_error():
    """What is raised in a callback of another thread ends the loop: no load would be reported, no cache closed."""
    ending, ended, asked = trio.CancelScope(), threading.Event(), []

    class Late:
        @property
        def status(self):
            ended.wait(20)  # in the server's thread, between figures and reports
            return figures().status

    def make():
        asked.append(True)
        if len(asked) == 2:  # the first time is before anybody asks
            ending.cancel()
        return Late()

    async def reports():
        await trio.lowlevel.checkpoint()
        return []

    server = MetricsServer("127.0.0.1", 0, make, reports)

    async def run():
        with ending:
            await server.run()

    async def ask():
        status, _ = await trio.to_thread.run_sync(get, server.port, "/")
        assert status == 200

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        while not server.port:
            await trio.lowlevel.checkpoint()
        nursery.start_soon(ask)
        while not ending.cancel_called:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()  # it waits for its thread, and takes no more tasks
        ended.set()


def test_a_scrape_that_cannot_be_taken_keeps_no_core_busy(monkeypatch):
    """As where no descriptor is left. Mutation: it is tried ten thousand times a second."""
    tries, stopped = [], threading.Event()

    def get_request(server):
        tries.append(server)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(TCPServer, "get_request", get_request)
    server = _Server(("127.0.0.1", 0), None)
    thread = threading.Thread(target=server.serve_until, args=[stopped])
    thread.start()
    with socket.create_connection(server.server_address):
        time.sleep(0.5)
        stopped.set()
        thread.join()
    assert 1 <= len(tries) <= 20


def test_promtool_has_nothing_to_say():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian has it in prometheus)")
    text = Exposition(lambda: figures()).text()
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
