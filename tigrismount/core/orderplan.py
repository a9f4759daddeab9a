"""Where a reader is in a learned order, and what of the order is wanted next.

What was read lies behind a reader, wherever in the file; what was not lies ahead, in the order's sequence. So the
place of a reader is told by the blocks it has *not* read: a block is within *reach* when few unread blocks of the
order come before it. A read that begins in a block some tensor before has touched already, kernel read-ahead that
runs into the next tensors, four threads that take turns in another rhythm than last time: all of that happens within
reach, and moves nothing that matters. Reads of blocks that were read before say nothing.

Blocks read out of reach speak against the order, jumps in the file that it foresaw speak for it, and going on to the
next block of the file, which every order foresees, says nothing.

Windows are those of ``core.readahead``: its streams see the blocks in the sequence in which they are read now, which
has no holes, and say how many are wanted ahead. Blocks that a reader leaves out stay wanted while it is near, and are
given up when it has gone on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tigrismount.core.readahead import StreamTable

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from tigrismount.core.blockorder import BlockOrder
    from tigrismount.core.readahead import StreamPolicy

REACH_BLOCKS = 16
"""Unread blocks that a read may leave out and still follow the order: four threads, each four blocks ahead of what
they were last time, or kernel read-ahead of 16 MiB with the smallest blocks."""
FIRST_RANKS = 4
"""Blocks at the beginning of an order that show, when one is read, that it is being followed."""
MISLED_BLOCKS = 8
"""Blocks read out of reach, more than jumps that were foreseen, that disprove an order."""


class OrderPlan:
    """One reading of a file, seen through an order.

    Args:
        order: The order.
        policy: What its window may do.
        read: Blocks that were read before it was known.
        guessed: Whether it comes from this reading, which is somewhere in it and needs no more proof.
    """

    def __init__(
        self, order: BlockOrder, policy: StreamPolicy, read: Container[int] = (), *, guessed: bool = False
    ) -> None:
        self.order = order
        self.streams = StreamTable(order.size_bytes, policy)
        """The followed blocks in the sequence in which they are read now."""
        self._guessed = guessed
        self._ranks = {index: rank for rank, index in enumerate(order.blocks)}
        self._done = bytearray(index in read for index in order.blocks)
        """Per rank, whether it was read."""
        self._followed = 0
        """Blocks read within reach."""
        self._first = 0
        """Rank at which the reader began."""
        self._low = 0
        """Rank before which nothing is wanted."""
        self._high = 0
        """One past the highest rank that was read within reach."""
        self._anchored = False
        """Whether it is known where the reader began."""
        self._misled = 0
        """Blocks read out of reach, less foreseen jumps."""
        self._missed = False
        """Whether a reader had to wait since the last followed block."""
        self._last = -1
        """Block that was touched last."""
        self._pass()

    @property
    def disproved(self) -> bool:
        """Whether the reader goes another way."""
        return self._misled > MISLED_BLOCKS

    def observe(self, fresh: Iterable[int], *, missed: bool) -> bool:
        """Note a read.

        Args:
            fresh: Blocks that it is the first to touch.
            missed: Whether its reader has to wait.

        Returns:
            Whether :meth:`ahead` says something new.
        """
        self._missed |= missed
        changed = False
        for index in fresh:
            changed |= self._observe_block(index)
            self._last = index
        return changed

    def reaches(self, index: int) -> bool:
        """Tell whether a block was not read yet and is within reach."""
        rank = self._ranks.get(index, -1)
        return rank >= self._low and not self._done[rank] and self._done.count(0, self._low, rank) < self._reach_blocks

    def ahead(self) -> list[int]:
        """Return the blocks that are wanted now, in order."""
        wanted: list[int] = []
        rank = self._low
        for _ in range(self._window_blocks):
            rank = self._done.find(0, rank)
            if rank < 0:
                break
            wanted.append(self.order.blocks[rank])
            rank += 1
        return wanted

    @property
    def _window_blocks(self) -> int:
        return self.streams.window_bytes // self.order.block_bytes

    @property
    def _reach_blocks(self) -> int:
        return max(REACH_BLOCKS, self._window_blocks)

    def _observe_block(self, index: int) -> bool:
        trusted = index > 0 and not self._anchored and self._anchor(index)
        if not self.reaches(index):
            rank = self._ranks.get(index)
            if rank is not None:
                self._done[rank] = 1
            if rank is None or not self._first <= rank < self._low:  # else it was left out for long
                self._misled += 1
            return False
        if index != self._last + 1:
            self._misled = max(self._misled - 1, -MISLED_BLOCKS)  # who followed it for long may still go another way
        return self._follow(self._ranks[index], trusted=trusted)

    def _anchor(self, index: int) -> bool:
        """Take the reader to begin at a block, the first after the header's; return whether that needs no proof."""
        rank = self._ranks.get(index)
        if rank is None:
            return False
        self._anchored = True
        if not self.reaches(index):  # what comes before may be in the page cache, or was read before a guess
            self._first = self._low = self._high = rank
            return self._guessed
        return self._guessed or self._done.count(0, self._low, rank) < FIRST_RANKS

    def _follow(self, rank: int, *, trusted: bool) -> bool:
        start = self._followed * self.order.block_bytes
        self._followed += 1
        self._done[rank] = 1
        self._high = max(self._high, rank + 1)
        self._pass()
        missed, self._missed = self._missed, False
        return self.streams.observe(start, start + self.order.block_bytes, missed=missed, trusted=trusted)

    def _pass(self) -> None:
        """Move on to the first block that was neither read nor left out for long."""
        self._low = max(self._low, self._high - 2 * self._reach_blocks)
        unread = self._done.find(0, self._low)
        self._low = unread if unread >= 0 else len(self._done)
