"""Which part starts next: demand before read-ahead before prefetch, within the flights allowed. Pure; no waiting.

Parts that somebody asked for sit in two heaps, one for the network and one for the disk: a slow store must not hold
up blocks that are on the NVMe drive. Plans sit with their object versions; those of one priority are served in turn,
so that two models loading at once share the flights. Demand may exceed the limit by an eighth, so that it never waits
for a slot behind prefetch.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
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
        disk_concurrency: Most disk reads in flight, likewise.
    """

    def __init__(self, concurrency: int, disk_concurrency: int) -> None:
        self.limits = {False: concurrency, True: disk_concurrency}
        self.in_flight = {False: 0, True: 0}
        self.lanes: dict[Priority, OrderedDict[int, ObjectState]] = {lane: OrderedDict() for lane in Priority}
        """Versions with a pending plan, by the priority of what they want next, in the order of their turns."""
        self._heaps: dict[bool, list[tuple[int, int, Part]]] = {False: [], True: []}
        self._order = count()

    def push(self, part: Part) -> None:
        """Queue *part* behind those of its priority; pushing it again with a better priority moves it up."""
        heapq.heappush(self._heaps[part.from_disk], (int(part.priority), next(self._order), part))

    def peek(self, *, from_disk: bool) -> Part | None:
        """Return the part that is next for the network or the disk, None when nothing is queued."""
        heap = self._heaps[from_disk]
        while heap and not _waits(heap[0]):
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def peek_ready(self, *, from_disk: bool) -> Part | None:
        """Return the first part whose memory is there, None when there is none.

        Looks at all that is queued: for when memory is short and the first part must wait for it. What has its memory
        must not stand behind that, since it may be what holds the memory.
        """
        ready = (entry for entry in self._heaps[from_disk] if _waits(entry) and entry[2].has_memory)
        return min(ready, default=(0, 0, None))[2]

    def slot(self, priority: Priority, *, from_disk: bool) -> bool:
        """Tell whether one more flight of this priority may start."""
        limit = self.limits[from_disk]
        return self.in_flight[from_disk] < (with_demand(limit) if priority is Priority.DEMAND else limit)

    def start(self, part: Part) -> None:
        """Count *part* as in flight."""
        part.started = True
        self.in_flight[part.from_disk] += 1

    def land(self, part: Part) -> None:
        """Count *part* as landed."""
        self.in_flight[part.from_disk] -= 1

    def plan(self, state: ObjectState) -> None:
        """Give *state* a turn, in the lane of what it wants next, as long as it wants something."""
        wanted = state.lane
        for lane, planners in self.lanes.items():
            if lane is not wanted:
                planners.pop(id(state), None)
        if wanted is not None:
            self.lanes[wanted].setdefault(id(state), state)

    def turn_over(self, state: ObjectState) -> None:
        """Put *state* at the end of the turns, or out of them when it wants nothing."""
        self.plan(state)
        if state.lane is not None:
            self.lanes[state.lane].move_to_end(id(state))

    def planners(self) -> list[ObjectState]:
        """Return the versions with a pending plan, the most urgent first."""
        return [state for planners in self.lanes.values() for state in planners.values()]

    def full(self) -> bool:
        """Tell whether no plan could start a flight, wherever its bytes are."""
        return all(self.in_flight[from_disk] >= limit for from_disk, limit in self.limits.items())

    def queued(self) -> int:
        """Return how many parts wait for a flight."""
        return sum(1 for heap in self._heaps.values() for entry in heap if _waits(entry))


def _waits(entry: tuple[int, int, Part]) -> bool:
    """Tell whether an entry stands for a part that waits; one that was moved up has another entry."""
    priority, _, part = entry
    return not (part.started or part.dropped) and priority == part.priority
