"""Blocks that the disk was too busy to take while a model came in, brought into the disk cache when all is quiet.

A read does not wait for the disk: where memory is short and the disk is behind, blocks that wait for it give their
memory up (``writes``). They would be missing at the next load. What of them is still in memory is offered to the disk
again, which costs nothing; what has left it is fetched once more, at the lowest priority and a few blocks at a time.

That second fetch is a favour, so it has bounds. Nobody is reading from the store or the disk, nothing waits for either,
and memory is not short; no more than a share of a version is fetched twice, since a disk that lost more than that is
not busy but slow; each block is tried a few times at most, soon after it was lost, and a disk that refuses one (it is
full, or fails) is left alone altogether.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tigrismount.blocks.part import Block
    from tigrismount.core.types import ObjectId

LOOK_S = 0.5
"""How often it is looked whether all is quiet; twice in a row counts, as readers pause between two tensors."""
BLOCKS_AT_ONCE = 4
"""Blocks offered or fetched at a time: 32 MiB a second of what nobody waits for, and a reader who comes meanwhile
finds four GETs before its own at most."""
PATIENCE_S = 300.0
"""How long a mount that is never quiet is given: then the next load fetches what is missing."""
REFETCH_SHARE = 4
"""A version is fetched a second time for a quarter of its bytes at most."""
TRIES = 3
"""How often a block is offered: readers who come meanwhile may take its memory again."""


class Leftovers:
    """Remembers what the disk was too busy for, and offers it again.

    Args:
        is_quiet: Tells whether nobody wants anything of the store, the disk or the memory.
        offer: Brings blocks of a version into the disk cache, as ``BlockStore`` does; told how many bytes it may fetch
            for that, it returns how many it will, and which blocks are there already.
        withdraw: Takes back what was to be fetched and has not begun.
    """

    def __init__(
        self,
        is_quiet: Callable[[], bool],
        offer: Callable[[ObjectId, Sequence[int], int], Awaitable[tuple[int, set[int]]]],
        withdraw: Callable[[], None],
    ) -> None:
        self._is_quiet = is_quiet
        self._offer = offer
        self._withdraw = withdraw
        self._lost: dict[ObjectId, dict[int, int]] = {}
        """Blocks by version, and how often each was offered."""
        self._block_bytes: dict[ObjectId, int] = {}
        self._refetched: dict[ObjectId, int] = {}
        """Bytes asked for a second time, by version."""
        self._since_s = 0.0
        """Since when something waits for all to be quiet."""
        self._woken = trio.Event()

    @property
    def bytes(self) -> int:
        """Bytes that are still to be brought in, the last block of a version counted as a whole one."""
        return sum(len(blocks) * self._block_bytes[obj] for obj, blocks in self._lost.items())

    def note(self, block: Block) -> None:
        """Take note that *block* gave its memory up while it waited for the disk. Never waits."""
        obj = block.state.obj
        self._lost.setdefault(obj, {}).setdefault(block.index, 0)
        self._block_bytes[obj] = block.state.block_bytes
        self._since_s = trio.current_time()
        self._woken.set()

    def forget(self) -> None:
        """Leave it all to the next load."""
        if self._lost:
            self._lost.clear()
            self._withdraw()

    async def run(self) -> None:
        """Bring in what is noted, until cancelled."""
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            while self._lost:
                if not await self._wait_until_quiet():
                    self.forget()
                    break
                await self._offer_some()
                self._since_s = trio.current_time()
            self._refetched.clear()
            self._block_bytes.clear()

    async def _wait_until_quiet(self) -> bool:
        """Wait until all has been quiet for a moment; return False where that does not come in time."""
        looks = 0
        while self._lost:
            if trio.current_time() > self._since_s + PATIENCE_S:
                return False
            looks = looks + 1 if self._is_quiet() else 0
            if looks >= 2:
                return True
            await trio.sleep(LOOK_S)
        return False

    async def _offer_some(self) -> None:
        obj, blocks = next(iter(self._lost.items()))
        wanted = [index for index, tries in blocks.items() if tries < TRIES][:BLOCKS_AT_ONCE]
        if not wanted:
            del self._lost[obj]
            return
        spent_bytes = self._refetched.get(obj, 0)
        most_bytes = max(0, obj.size_bytes // REFETCH_SHARE - spent_bytes)
        fetched_bytes, done = await self._offer(obj, wanted, most_bytes)
        self._refetched[obj] = spent_bytes + fetched_bytes
        left = self._lost.get(obj, {})  # another one, or none, where the disk refused something meanwhile
        for index in wanted:
            if index in done:
                left.pop(index, None)
            elif index in left:
                left[index] += 1
        if not left:
            self._lost.pop(obj, None)
