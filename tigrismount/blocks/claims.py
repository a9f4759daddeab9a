"""Single-flight across processes: who shares a disk cache fetches each block once among them.

Before a part is fetched its blocks are claimed in the cache. Those that another process has cached meanwhile, or is
fetching, leave the part: a part is cut to its first blocks that are all alike. What is being fetched elsewhere is
waited for, without a flight slot, and then read from the disk; a holder that dies lets go at once, and one that takes
too long is not waited for (see ``cache.base``). Claims are held only by parts that fetch and blocks that are being
written, never by what waits, so no two processes can wait for each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tigrismount.cache.base import Claim

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.blocks.memory import BlockMemory
    from tigrismount.blocks.part import Block, Part
    from tigrismount.blocks.queue import FlightQueue


class Claims:
    """Claims of one process's flights.

    Args:
        queue: Whose slots a waiting part gives back.
        memory: Takes back the buffers of blocks that leave a part.
        pump: Called when something may start.
    """

    def __init__(self, queue: FlightQueue, memory: BlockMemory, pump: Callable[[], None]) -> None:
        self._queue = queue
        self._memory = memory
        self._pump = pump

    async def fetch_is_ours(self, part: Part) -> bool:
        """Claim what *part* is about to fetch, cutting it where needed; return False when the disk has it by now."""
        cached = part.state.cached
        if cached is None:
            return True
        claim, count = await cached.claim([block.index for block in part.blocks])
        self._cut(part, count)
        if claim is Claim.ELSEWHERE:
            claim = await self._wait(part)
        return claim is Claim.OURS

    async def _wait(self, part: Part) -> Claim:
        """Wait for another process's flight, out of the way of our own."""
        assert part.state.cached is not None
        part.waits_elsewhere = True
        self._queue.in_flight[None] -= 1
        self._pump()
        try:
            return await part.state.cached.wait_claim(part.blocks[0].index)
        finally:
            part.waits_elsewhere = False
            self._queue.in_flight[None] += 1

    def _cut(self, part: Part, count: int) -> None:
        """Leave *part* its first blocks; the others go back to the plan, and those who wait for them ask anew."""
        rest = part.blocks[count:]
        if not rest:
            return
        part.cut(count)
        state = part.state
        for block in reversed(rest):
            if block.index in state.planned:
                state.pending.append(block.index)
            else:
                state.later.append(block.index)
                state.later_tried.discard(block.index)
            for waiter in block.waiters:
                waiter.event.set()
            self._memory.forget_if_empty(block)
        self._queue.plan(state)
        self._pump()

    def settle(self, block: Block) -> None:
        """Let others fetch *block* unless we still do or soon will, or are writing what was fetched."""
        cached = block.state.cached
        if cached is not None and not (block.writing or block.parts):
            cached.unclaim(block.index)
