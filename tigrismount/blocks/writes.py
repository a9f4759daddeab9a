"""Whole blocks on their way to the disk cache. Trouble there costs speed and one line in the log, never a read.

A block that waits for the disk holds its memory. Where a read, or a plan of what is read next, finds none, and the
disk is behind, blocks that wait give theirs up and are not cached: so a disk slower than the network slows nothing down
for long. A disk that keeps up needs a moment for each block all the same; what came faster than that is worth waiting
for, as it would have to be fetched again. Where memory is not missed, a block waits for as long as it takes; what gave
up is remembered for a quiet moment (``leftovers``).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.blocks.part import Block

log = logging.getLogger(__name__)

PATIENCE_S = 0.5
"""A disk is behind when a block has waited for it so long. Blocks take tens of milliseconds on an NVMe, and a few
hundred where several daemons and loaders share two cores; a disk that is too slow costs this pause once."""


class DiskWrites:
    """Writes blocks to the disk cache and knows when all are written.

    Args:
        nursery: Gives the nursery that writes run in.
        on_done: Told a block that was written or refused; takes back the pin that kept its buffer.
        on_behind: Called when the disk turns out to be behind after ``give_way`` was patient.
        on_lost: Told a block that gave up before the disk had time for it.
        on_refused: Called when the disk takes a block neither now nor later.
    """

    def __init__(
        self,
        nursery: Callable[[], trio.Nursery],
        *,
        on_done: Callable[[Block], None],
        on_behind: Callable[[], None],
        on_lost: Callable[[Block], None],
        on_refused: Callable[[], None],
    ) -> None:
        self._nursery = nursery
        self._on_done = on_done
        self._on_behind = on_behind
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._blocks: dict[Block, tuple[trio.CancelScope, float]] = {}
        """Blocks on their way, oldest first, and since when."""
        self._patient = False
        """Whether somebody looks again once the oldest has waited too long."""
        self._idle = trio.Event()

    def keep(self, block: Block) -> None:
        """Write *block*, which is complete, unless the disk has it or there is none."""
        cached = block.state.cached
        if block.on_disk or cached is None or cached.has(block.index):
            block.settle()
            return
        block.pins += 1
        block.writing = True
        self._blocks[block] = trio.CancelScope(), trio.current_time()
        self._nursery().start_soon(self._write, block)

    def give_way(self, *, read_only: bool = False) -> None:
        """Give up a block that still waits for a disk that is behind, so that its memory can be used.

        Args:
            read_only: Leave those that were not read whole: their memory would not be free.
        """
        if not self._blocks:
            return
        _, oldest_s = next(iter(self._blocks.values()))
        left_s = oldest_s + PATIENCE_S - trio.current_time()
        if left_s > 0:
            if not self._patient:
                self._patient = True
                self._nursery().start_soon(self._look_again, left_s)
            return
        for block, (scope, _) in reversed(self._blocks.items()):
            read = block.delivered_bytes >= block.length_bytes
            if not scope.cancel_called and block.pins == 1 and (read or not read_only):
                scope.cancel()
                return

    @property
    def idle(self) -> bool:
        """Whether nothing waits for the disk."""
        return not self._blocks

    async def drain(self) -> None:
        """Wait until every block is on the disk, or the cache has refused it."""
        while self._blocks:
            await self._idle.wait()

    async def _look_again(self, after_s: float) -> None:
        await trio.sleep(after_s)
        self._patient = False
        self._on_behind()

    async def _write(self, block: Block) -> None:
        assert block.buffer is not None
        assert block.state.cached is not None
        scope, _ = self._blocks[block]
        try:
            with scope:
                block.on_disk = await block.state.cached.write_block(block.index, block.buffer, block.length_bytes)
        except CacheError as exc:
            log.warning("not cached: %s", exc)
        finally:
            block.writing = False
            block.settle()
            del self._blocks[block]
            if not self._blocks:
                self._idle.set()
                self._idle = trio.Event()
            if scope.cancelled_caught:
                self._on_lost(block)
            elif not block.on_disk:
                self._on_refused()
            self._on_done(block)
