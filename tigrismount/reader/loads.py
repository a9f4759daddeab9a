"""Load reports of one mount: folds what the read path noted, and keeps a report of each load that has ended.

Reports lie in the cache's record table ``loads``, so that they outlive the mount and can be read without one; those
the cache would not take are shown as long as the mount lives. The newest come first in the order of their keys.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from tigrismount.core.loadtracker import LoadTracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.cache.base import RecordStore
    from tigrismount.core.loadlog import LoadLog
    from tigrismount.core.loadreport import Load
    from tigrismount.objects.client import ObjectStatistics

TABLE = "loads"
"""Name of the record table."""
MOST_SHOWN = 50
"""Reports that are given out at once; a screen holds fewer, and the reply of a mount must stay small."""
FOLD_S = 0.25
"""How often events are folded while a load is in progress: a millisecond of work each time."""
IDLE_S = 1.0
"""How often a mount that nobody reads looks for events."""

_KEY = struct.Struct(">QII")
_NEVER_MS = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class FinishedLoads:
    """What the loads that have ended in this worker came to, together."""

    count: int = 0
    """How many."""
    seconds: float = 0.0
    """What they took."""
    waited_seconds: float = 0.0
    """How much of that somebody waited for bytes."""
    bytes_needed: int = 0
    """What was read."""
    bytes_fetched: int = 0
    """What was fetched from the store for it."""


class LoadRecorder:
    """Keeps the reports of one mount.

    Args:
        log: What the read path notes.
        records: Where reports are kept.
        counters: Gives the counters of the store's client.
        identity: What every report says beside its load: source and mountpoint.
        wall_clock: Returns seconds since 1970. Looked at when a load begins: a machine sets its clock after a mount
            began at boot, and the log's clock stands still while it is suspended.
    """

    def __init__(
        self,
        log: LoadLog,
        records: RecordStore,
        *,
        counters: Callable[[], ObjectStatistics],
        identity: dict[str, str],
        wall_clock: Callable[[], float],
    ) -> None:
        self._log = log
        self._records = records
        self._counters = counters
        self._identity = identity
        self._wall_clock = wall_clock
        self._tracker = LoadTracker()
        self._before: dict[Load, ObjectStatistics] = {}
        """The counters as they were when a load was first seen."""
        self._epochs_s: dict[Load, float] = {}
        """Seconds since 1970 at the zero of the log's clock, as of then."""
        self._unkept: deque[dict[str, Any]] = deque(maxlen=MOST_SHOWN)
        self._finished = FinishedLoads()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fold events and keep the reports of loads that end, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(FOLD_S if self._tracker.active else IDLE_S)
            self._fold()
            await self._keep(self._tracker.finish(self._log.clock()))

    async def finish(self) -> None:
        """Keep the reports of loads that are still in progress, because the mount ends."""
        self._fold()
        await self._keep(self._tracker.finish_all())

    def in_progress(self) -> list[dict[str, Any]]:
        """Return what ``status`` shows of each load in progress, oldest first."""
        self._fold()
        return [load.summary(self._epoch_s(load)) for load in self._tracker.active]

    def finished(self) -> FinishedLoads:
        """Return what the loads that have ended came to."""
        return self._finished

    async def reports(self, limit: int = MOST_SHOWN, *, timelines: bool = True) -> list[dict[str, Any]]:
        """Return the newest reports of all that share the cache, and of loads in progress here; newest last.

        Args:
            limit: Most reports.
            timelines: Whether to give the timelines, which are most of a report.
        """
        limit = min(limit, MOST_SHOWN)
        # In a thread: reads go on meanwhile.
        kept = await trio.to_thread.run_sync(unpack_reports, await self._records.items(TABLE, limit=limit) or [])
        self._fold()
        here = [*self._unkept, *(self._report(load) for load in self._tracker.active)]
        newest = sorted([*kept, *here], key=lambda report: report["started"])[-limit:]
        return newest if timelines else [{k: v for k, v in r.items() if k != "timeline"} for r in newest]

    def _fold(self) -> None:
        self._tracker.fold(self._log.take())
        for load in self._tracker.active:
            if load not in self._before:
                self._before[load] = self._counters()
                self._epochs_s[load] = self._epoch_now_s()

    def _epoch_s(self, load: Load) -> float:
        """Return what was so when the load was first seen; what is so now for one that somebody else has kept."""
        known = self._epochs_s.get(load)
        return self._epoch_now_s() if known is None else known

    def _epoch_now_s(self) -> float:
        return self._wall_clock() - self._log.clock()

    async def _keep(self, loads: list[Load]) -> None:
        for load in loads:
            report = {**self._report(load), "state": "done"}
            self._finished = _with(self._finished, report)
            key = _KEY.pack(_NEVER_MS - int(report["started"] * 1000), os.getpid(), self._finished.count)
            if not await self._records.put(TABLE, key, pack_report(report)):
                self._unkept.append(report)
        for load in self._before.keys() - set(self._tracker.active):
            del self._before[load], self._epochs_s[load]

    def _report(self, load: Load) -> dict[str, Any]:
        before, now = self._before.get(load), self._counters()
        report = load.report(self._epoch_s(load))
        # Of the whole mount: retries are not told apart by object, and two loads at once are rare.
        report["gets"]["retries"] = now.retries - before.retries if before else 0
        report["gets"]["slow_downs"] = now.slow_downs - before.slow_downs if before else 0
        return {**self._identity, **report}


def _with(finished: FinishedLoads, report: dict[str, Any]) -> FinishedLoads:
    return FinishedLoads(
        finished.count + 1,
        finished.seconds + report["seconds"],
        finished.waited_seconds + report["waits"]["seconds"],
        finished.bytes_needed + report["bytes_needed"],
        finished.bytes_fetched + report["bytes_fetched"],
    )


def pack_report(report: dict[str, Any]) -> bytes:
    """Return a report as a record."""
    return zlib.compress(json.dumps(report, separators=(",", ":")).encode())


def unpack_reports(records: list[tuple[bytes, bytes]]) -> list[dict[str, Any]]:
    """Return the reports in records of the table ``loads``, newest last; what is none is left out."""
    reports = []
    for _, value in reversed(records):
        try:
            report = json.loads(zlib.decompress(value))
        except (zlib.error, ValueError, RecursionError):
            continue
        if isinstance(report, dict) and isinstance(report.get("started"), int | float):
            reports.append(report)
    return reports
