"""Which part starts next: demand before read-ahead before prefetch, within the flights allowed. Pure; no waiting.

Parts that somebody asked for sit in heaps, one for the network and one for each drive: a slow store must not hold up
blocks that are on an NVMe drive, nor a drive that hangs those of another. Plans sit with their object versions; those
of one priority are served in turn, so that two models loading at once share the flights. Demand may exceed the limit
by an eighth, so that it never waits for a slot behind prefetch.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, defaultdict
from itertools import count
from typing import TYPE_CHECKING

from tigrismount.blocks.options import with_demand
from tigrismount.core.types import Priority

if TYPE_CHECKING:
    from tigrismount.blocks.part import ObjectState, Part


class FlightQueue:
    """Parts that wait for a flight, and how many flights are out.

    Args:
        concurrency: Most GETs in flight; demand may add :func:`~tigrismount.blocks.options.with_demand`.
        disk_concurrency: Most reads in flight from each drive, likewise.
    """

    def __init__(self, concurrency: int, disk_concurrency: int) -> None:
        self.network_limit = concurrency
        """Most GETs in flight now."""
        self.in_flight: Counter[str | None] = Counter()
        """Flights that are out, by drive; those over the network under None."""
        self._disk_limit = disk_concurrency
        self._drives: dict[str, None] = {}
        self.lanes: dict[Priority, OrderedDict[int, ObjectState]] = {lane: OrderedDict() for lane in Priority}
        """Versions with a pending plan, by the priority of what they want next, in the order of their turns."""
        self._heaps: defaultdict[str | None, list[tuple[int, int, Part]]] = defaultdict(list)
        self._order = count()
        self._flying: dict[Part, None] = {}
        """Parts in flight, in the order of their starts."""

    @property
    def sources(self) -> list[str | None]:
        """Where parts can come from, in the order in which they are looked at: drives are nearer than the network."""
        return [*self._drives, None]

    def know(self, drive: str) -> None:
        """Learn of a drive that versions are on."""
        self._drives[drive] = None

    def push(self, part: Part) -> None:
        """Queue *part* behind those of its priority; pushing it again with a better priority moves it up."""
        heapq.heappush(self._heaps[part.drive], (int(part.priority), next(self._order), part))

    def peek(self, source: str | None) -> Part | None:
        """Return the part that is next for a drive or the network, None when nothing is queued."""
        heap = self._heaps[source]
        while heap and not _waits(heap[0]):
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def peek_ready(self, source: str | None) -> Part | None:
        """Return the first part whose memory is there, None when there is none.

        Looks at all that is queued: for when memory is short and the first part must wait for it. What has its memory
        must not stand behind that, since it may be what holds the memory.
        """
        ready = (entry for entry in self._heaps[source] if _waits(entry) and entry[2].has_memory)
        return min(ready, default=(0, 0, None))[2]

    def slot(self, priority: Priority, source: str | None) -> bool:
        """Tell whether one more flight of this priority may start."""
        limit = self._limit(source)
        return self.in_flight[source] < (with_demand(limit) if priority is Priority.DEMAND else limit)

    def start(self, part: Part) -> None:
        """Count *part* as in flight."""
        part.started = True
        self._flying[part] = None
        self.in_flight[part.drive] += 1

    def move(self, part: Part, drive: str | None) -> None:
        """Let *part*, which is in flight, go on from elsewhere."""
        self.in_flight[part.drive] -= 1
        part.drive = drive
        self.in_flight[drive] += 1

    def land(self, part: Part) -> None:
        """Count *part* as landed."""
        del self._flying[part]
        self.in_flight[part.drive] -= 1

    def beyond(self) -> list[Part]:
        """Return GETs to give up for a reader's: nobody waits for them, and the store takes fewer now than are out.

        It has asked for fewer since they started. So they queue for their turn in the client, and a reader's GET would
        stand behind them. Those that have brought nothing yet lose nothing; the last to start are the last in line.
        """
        flying = [part for part in self._flying if not (part.from_disk or part.waits_elsewhere)]
        given_up = sum(part.scope.cancel_called for part in flying)
        out = self.in_flight[None] - given_up
        if out <= with_demand(self.network_limit):
            return []
        useless = [part for part in flying if part.idle and not (part.done or part.scope.cancel_called)]
        return useless[self.network_limit - out :]

    def plan(self, state: ObjectState) -> None:
        """Give *state* a turn, in the lane of what it wants next, as long as it wants something.

        Not before it is known what the disk holds of it: it could start nothing, and be looked at again and again.
        """
        wanted = state.lane if state.opened.is_set() else None
        for lane, planners in self.lanes.items():
            if lane is not wanted:
                planners.pop(id(state), None)
        if wanted is not None:
            self.lanes[wanted].setdefault(id(state), state)

    def turn_over(self, state: ObjectState) -> None:
        """Put *state* at the end of the turns, or out of them when it wants nothing."""
        self.plan(state)
        if state.lane is not None and state.opened.is_set():
            self.lanes[state.lane].move_to_end(id(state))

    def planners(self) -> list[ObjectState]:
        """Return the versions with a pending plan, the most urgent first."""
        return [state for planners in self.lanes.values() for state in planners.values()]

    def full(self) -> bool:
        """Tell whether no plan could start a flight, wherever its bytes are."""
        return all(self.in_flight[source] >= self._limit(source) for source in self.sources)

    def _limit(self, source: str | None) -> int:
        return self.network_limit if source is None else self._disk_limit

    def queued(self) -> int:
        """Return how many parts wait for a flight."""
        return sum(1 for heap in self._heaps.values() for entry in heap if _waits(entry))


def _waits(entry: tuple[int, int, Part]) -> bool:
    """Tell whether an entry stands for a part that waits; one that was moved up has another entry."""
    priority, _, part = entry
    return not (part.started or part.dropped) and priority == part.priority
