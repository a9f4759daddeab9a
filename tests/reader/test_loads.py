from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from tigrismount.cache.memory import MemoryRecords
from tigrismount.cache.none import NoRecords
from tigrismount.core import loadlog
from tigrismount.core.loadlog import LoadLog
from tigrismount.core.loadtracker import QUIET_S
from tigrismount.core.types import ObjectId
from tigrismount.objects.client import ObjectStatistics
from tigrismount.reader.loads import TABLE, FinishedLoads, LoadRecorder, unpack_reports

MIB = 1 << 20
OBJ = ObjectId("models", "llama/model.safetensors", "etag", 64 * MIB)


@pytest.fixture
def log():
    return LoadLog(trio.current_time)


@pytest.fixture
def counters():
    return {"retries": 0, "slow_downs": 0}


@pytest.fixture
def recorder(log, counters):
    def make(records, wall_clock=lambda: 1e9 + trio.current_time()):
        return LoadRecorder(
            log,
            records,
            counters=lambda: ObjectStatistics(**counters),
            identity={"source": "s3://models", "mountpoint": "/models"},
            wall_clock=wall_clock,
        )

    return make


@asynccontextmanager
async def running(recorder):
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: recorder.run(task_status=task_status))
        yield
        nursery.cancel_scope.cancel()


def read(log, start, stop):
    now_s = log.clock()
    log.note((loadlog.HIT, OBJ, start, stop, now_s, now_s, loadlog.RAM, ""))


async def test_a_load_in_progress_is_seen_at_once(autojump_clock, log, recorder):
    here = recorder(MemoryRecords())
    read(log, 0, 4 * MIB)

    (load,) = here.in_progress()
    assert (load["model"], load["state"]) == ("s3://models/llama", "loading")
    assert (load["bytes_needed"], load["bytes_total"]) == (4 * MIB, 64 * MIB)
    (report,) = await here.reports()
    assert report["state"] == "loading"
    assert report["mountpoint"] == "/models"


async def test_a_load_that_ended_is_kept_and_in_progress_no_more(autojump_clock, log, recorder):
    records = MemoryRecords()
    here = recorder(records)
    async with running(here):
        read(log, 0, 4 * MIB)
        await trio.sleep(QUIET_S + 2)
        assert here.in_progress() == []

    (report,) = unpack_reports(await records.items(TABLE))
    assert (report["state"], report["bytes_needed"]) == ("done", 4 * MIB)
    assert await recorder(records).reports() == [report], "another mount of the same cache knows it too"


async def test_reports_come_newest_last_and_the_newest_survive_a_limit(autojump_clock, log, recorder):
    here = recorder(MemoryRecords())
    async with running(here):
        for number in range(1, 4):
            read(log, 0, number * MIB)
            await trio.sleep(QUIET_S + 2)

        assert [report["bytes_needed"] for report in await here.reports()] == [MIB, 2 * MIB, 3 * MIB]
        assert [report["bytes_needed"] for report in await here.reports(1)] == [3 * MIB]


async def test_a_load_began_when_the_clock_said_so_then(autojump_clock, log, recorder):
    """A mount begins at boot, and the clock is set after it: all its loads would be of 1970, behind any other."""
    wall_s = [100.0]
    here = recorder(MemoryRecords(), lambda: wall_s[0] + trio.current_time())
    async with running(here):
        wall_s[0] = 1.7e9
        at_s = wall_s[0] + trio.current_time()
        read(log, 0, 4 * MIB)
        (load,) = here.in_progress()
        assert load["started"] == pytest.approx(at_s, abs=0.01)
        wall_s[0] += 3600
        assert here.in_progress()[0]["started"] == load["started"], "it is known by that"
        await trio.sleep(QUIET_S + 2)
    (report,) = await here.reports()
    assert report["started"] == load["started"]


async def test_reports_can_be_had_without_their_timelines(autojump_clock, log, recorder):
    here = recorder(MemoryRecords())
    read(log, 0, MIB)

    assert "timeline" in (await here.reports())[0]
    assert "timeline" not in (await here.reports(timelines=False))[0]


async def test_without_a_cache_reports_live_as_long_as_the_mount(autojump_clock, log, recorder):
    here = recorder(NoRecords())
    async with running(here):
        read(log, 0, MIB)
        await trio.sleep(QUIET_S + 2)

        (report,) = await here.reports()
        assert report["state"] == "done"


async def test_a_load_is_kept_when_the_mount_ends_before_it(autojump_clock, log, recorder):
    records = MemoryRecords()
    here = recorder(records)
    read(log, 0, MIB)
    await here.finish()

    assert [report["state"] for report in unpack_reports(await records.items(TABLE))] == ["done"]


async def test_the_loads_that_ended_are_summed_up(log, recorder):
    here = recorder(MemoryRecords())
    read(log, 0, MIB)
    assert here.finished() == FinishedLoads(), "one that goes on is none of them"
    await here.finish()
    read(log, 0, 3 * MIB)
    await here.finish()

    finished = here.finished()
    assert (finished.count, finished.bytes_needed, finished.bytes_fetched) == (2, 4 * MIB, 0)
    assert finished.seconds >= finished.waited_seconds == 0.0


async def test_retries_are_those_while_it_loaded(autojump_clock, log, recorder, counters):
    counters.update(retries=5, slow_downs=2)
    here = recorder(MemoryRecords())
    read(log, 0, MIB)
    here.in_progress()
    counters.update(retries=8, slow_downs=3)

    (report,) = await here.reports()
    assert (report["gets"]["retries"], report["gets"]["slow_downs"]) == (3, 1)


async def test_records_that_are_no_reports_are_left_out(autojump_clock, log, recorder):
    records = MemoryRecords()
    await records.put(TABLE, b"\0junk", b"not compressed")
    here = recorder(records)
    read(log, 0, MIB)
    await here.finish()

    assert len(await here.reports()) == 1
