"""Tells loads apart: from the stream of events to one :class:`~tigrismount.core.loadreport.Load` each.

A *load* is what happens in one directory between a first read and ``QUIET_S`` seconds without any. A pipeline's
components lie in directories below its index (``model_index.json``): once that was read, they are part of its load.
What was fetched ahead of the first read belongs to the load that follows, so such events wait a while for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tigrismount.core import loadlog
from tigrismount.core.loadreport import Load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tigrismount.core.loadlog import Event
    from tigrismount.core.types import ObjectId

QUIET_S = 10.0
"""Seconds without a read that end a load: longer than a process computes between two tensors, shorter than the pause
between two loads that a person would tell apart."""
LEAST_BYTES = 1 << 20
"""Loads of less leave no report: somebody looked at a README or at headers."""
MAX_AHEAD = 1000
"""Events ahead of a first read that are kept for it, per directory."""

_READS = frozenset({loadlog.HIT, loadlog.WAIT, loadlog.THROUGH})
"""Events that begin a load."""


class LoadTracker:
    """Tells loads apart.

    Args:
        quiet_s: Seconds without a read that end a load.
    """

    def __init__(self, quiet_s: float = QUIET_S) -> None:
        self._quiet_s = quiet_s
        self._active: dict[tuple[str, str], Load] = {}
        self._ahead: dict[tuple[str, str], list[Event]] = {}

    @property
    def active(self) -> list[Load]:
        """Loads in progress, oldest first."""
        return list(self._active.values())

    def fold(self, events: Iterable[Event]) -> None:
        """Take events in the order they were noted."""
        for event, count in _runs(events):
            self._take(event, count)

    def finish(self, now_s: float) -> list[Load]:
        """Return the loads that have gone quiet, oldest first, and forget them; those with too little to report too."""
        for model, events in list(self._ahead.items()):
            if now_s - events[-1][5] > self._quiet_s:
                del self._ahead[model]
        quiet = [load for load in self.active if not load.waiting and now_s - load.last_s > self._quiet_s]
        return self._end(quiet)

    def finish_all(self) -> list[Load]:
        """Return every load as it is: the mount ends."""
        return self._end(self.active)

    def _end(self, loads: list[Load]) -> list[Load]:
        for load in loads:
            del self._active[load.model]
        return [load for load in loads if load.needed_bytes >= LEAST_BYTES]

    def _take(self, event: Event, count: int = 1) -> None:
        kind, obj = event[0], event[1]
        load = self._load_of(obj, event)
        if load is None:
            return
        if kind in (loadlog.HIT, loadlog.ANSWER):
            load.read(event, count)
        elif kind == loadlog.GET:
            load.fetched(event)
        elif kind == loadlog.DISK:
            load.from_disk(event)
        elif kind == loadlog.PUSH:
            load.pushed(event)
        elif kind == loadlog.LAYOUT:
            load.learned(obj, event[2])
        elif kind == loadlog.THROUGH:
            load.opened_through(event)
        if kind == loadlog.WAIT:
            load.waiting += 1
        elif kind in (loadlog.ANSWER, loadlog.GAVE_UP):
            load.waiting = max(0, load.waiting - 1)
        if kind in (loadlog.ANSWER, loadlog.GAVE_UP, loadlog.CLOSED):
            load.last_s = max(load.last_s, event[5])

    def _load_of(self, obj: ObjectId, event: Event) -> Load | None:
        """Return the load that an event belongs to; a read begins one, other events wait for one."""
        model = (obj.bucket, obj.key.rpartition("/")[0])
        load = self._active.get(model) or self._pipeline_of(model)
        if load is not None:
            if model in self._ahead and event[0] in _READS:
                self._replay(model)
            return load
        if event[0] in _READS:
            load = self._active[model] = Load(model, event[4])
            self._replay(model)
            return load
        ahead = self._ahead.setdefault(model, [])
        if len(ahead) < MAX_AHEAD:
            ahead.append(event)
        return None

    def _pipeline_of(self, model: tuple[str, str]) -> Load | None:
        bucket, directory = model
        while directory:
            directory = directory.rpartition("/")[0]
            load = self._active.get((bucket, directory))
            if load is not None and load.is_pipeline:
                return load
        return None

    def _replay(self, model: tuple[str, str]) -> None:
        for event in self._ahead.pop(model, ()):
            self._take(event)


def _runs(events: Iterable[Event]) -> Iterator[tuple[Event, int]]:
    """Join hits that continue each other, which nearly all do; yields each with the number of reads it stands for."""
    run: Event | None = None
    count = 1
    for event in events:
        if run is not None:
            if event[0] == loadlog.HIT and event[1] is run[1] and event[2] == run[3]:
                run = (loadlog.HIT, run[1], run[2], event[3], run[4], event[5], run[6], run[7])
                count += 1
                continue
            yield run, count
            run, count = None, 1
        if event[0] == loadlog.HIT:
            run = event
        else:
            yield event, 1
    if run is not None:
        yield run, count
