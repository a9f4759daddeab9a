"""Which blocks have memory, and which give it up for others.

A block keeps its buffer until another block needs it. Demand takes the least recently used buffer, and one that a
plan wants when there is no other; plans only take buffers that no current plan wants, and leave a share of the budget
to demand. Beyond ``spent_bytes``, blocks that were read whole and are on the disk give theirs up before fresh memory
is touched.

Memory that nobody uses goes back to the system, whatever is open: a mount between two loads costs what its process
costs. What the disk has is let go first, as it can be had again for little.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

import trio

from tigrismount.blocks.buffers import BufferPool, page_ceil

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tigrismount.blocks.options import BlocksConfig
    from tigrismount.blocks.part import Block, ObjectState
    from tigrismount.objects.fetchers.memory import SharedMemory

log = logging.getLogger(__name__)

_RECYCLE_LOOKS = 64
"""Spent blocks looked at for a warm buffer. Without a disk cache none will do, and small files can be many."""


TURN_S = 15.0
"""How often :meth:`BlockMemory.grow_old` is called. Buffers that were free for that long are not kept for reuse."""
DISK_TURNS = 4
"""Turns after which a block gives up its memory that the disk has, a minute: no loader pauses so long between two
reads of a block, and reading it back takes milliseconds."""
MEMORY_TURNS = 20
"""The same where only the store has it, five minutes."""
_AGE_LOOKS = 4096
"""Blocks looked at in a turn: a millisecond or two. Small files can be many."""


class BlockMemory:
    """Gives blocks their buffers, under one hard budget.

    Args:
        config: Limits.
        on_evicted: Told the version of a block that was thrown out, when that was its last one or had parts queued.
        shared: Where buffers come from that fetch processes see; None for memory of our own.
    """

    def __init__(
        self, config: BlocksConfig, on_evicted: Callable[[ObjectState], None], shared: SharedMemory | None = None
    ) -> None:
        half_bytes = config.memory_limit_bytes // 2
        self.pool = (
            BufferPool(config.memory_limit_bytes)
            if shared is None
            else BufferPool(config.memory_limit_bytes, shared.take, _in_a_later_turn(shared.give))
        )
        self.evicted_blocks = 0
        """Blocks whose memory was taken for others."""
        self._on_evicted = on_evicted
        self._demand_reserve_bytes = min(max(2 * config.block_bytes, config.memory_limit_bytes // 16), half_bytes)
        self._spent_limit_bytes = config.spent_bytes
        self._turn = 0
        self._recent: OrderedDict[Block, int] = OrderedDict()
        """Blocks with a buffer and the turn they were used in, least recently used first."""
        self._spent: OrderedDict[Block, None] = OrderedDict()
        """Blocks that were read whole, oldest first."""
        self._spent_bytes = 0
        self._lost_bytes = 0
        """Buffers that belong to no block, because a read that hangs may still write into them."""
        self._refused = False
        """Whether the kernel has refused memory within the budget, which is logged once."""

    def touch(self, block: Block) -> None:
        """Note that *block*, which has a buffer, is used now."""
        self._recent[block] = self._turn
        self._recent.move_to_end(block)

    def delivered(self, block: Block, size_bytes: int) -> None:
        """Note that bytes of *block* went to a reader; a block that was read whole is *spent*."""
        self.touch(block)
        block.delivered_bytes += size_bytes
        if block.delivered_bytes >= block.length_bytes and block not in self._spent:
            self._spent[block] = None
            self._spent_bytes += block.length_bytes

    def allocate(self, block: Block, *, demand: bool) -> bool:
        """Give *block* a buffer, unless it has one; return whether there was memory for it.

        Args:
            block: Block of a known version.
            demand: Whether somebody waits for it.
        """
        reserve_bytes = 0 if demand else self._demand_reserve_bytes
        while block.buffer is None:
            if self.pool.can_take(block.length_bytes, reserve_bytes) and self._take(block):
                break
            victim = self._victim(demand=demand)
            if victim is None:
                return False
            self._evict(victim)
        return True

    def exchange(self, block: Block) -> bool:
        """Give *block* another buffer in place of the one it has, which comes back with ``give_back``.

        Returns:
            Whether there was memory for it; else it keeps the one it has.
        """
        old = block.buffer
        assert old is not None
        del self._recent[block]
        block.buffer = None
        if not self.allocate(block, demand=True):
            block.buffer = old
            self._recent[block] = self._turn
            return False
        self._lost_bytes += len(old)
        return True

    def give_back(self, buffer: memoryview) -> None:
        """Take back the memory that a block had before ``exchange``: nobody writes into it any more."""
        self._lost_bytes -= len(buffer)
        self.pool.give(buffer)

    def allocate_spare(self, block: Block) -> bool:
        """Give *block* a buffer that nobody would miss; return whether there was one.

        That is free memory while half of the budget is free, and what was read, or can be read back from the disk.
        """
        while block.buffer is None:
            if self.pool.can_take(block.length_bytes, self.pool.limit_bytes // 2) and self._take(block):
                break
            victim = self._spare_victim()
            if victim is None:
                return False
            self._evict(victim)
        return True

    def _take(self, block: Block) -> bool:
        """Give *block* a buffer within the budget; return False where the kernel has none."""
        if self._spent_bytes > self._spent_limit_bytes and not self.pool.has_free(block.length_bytes):
            self._recycle()
        try:
            block.buffer = self.pool.take(block.length_bytes)
        except OSError as exc:
            if not self._refused:
                log.warning("the kernel has no memory for a block, going on with what there is: %s", exc)
            self._refused = True
            return False
        self._recent[block] = self._turn
        return True

    def grow_old(self) -> None:
        """Give back to the system what nobody has used for long; to be called every ``TURN_S`` seconds."""
        self._turn += 1
        for block, used in list(islice(self._recent.items(), _AGE_LOOKS)):
            turns = self._turn - used
            if turns <= DISK_TURNS:
                break
            is_idle = turns > MEMORY_TURNS and block.index not in block.state.planned
            if block.evictable and (block.on_disk or is_idle):
                self._let_go(block)
        self.pool.give_back_surplus()

    def forget(self, block: Block) -> None:
        """Make *block* absent and keep its buffer for reuse."""
        if block.buffer is not None:
            del self._recent[block]
            self.pool.give(block.buffer)
        if block in self._spent:
            del self._spent[block]
            self._spent_bytes -= block.length_bytes
        block.clear()

    def forget_if_empty(self, block: Block) -> None:
        """Forget a block that was touched but holds nothing and that nobody waits for."""
        if not (block.pins or block.parts or block.waiters or block.have.total or block.complete):
            self.forget(block)

    def check_invariants(self, blocks: Collection[Block]) -> None:
        """Raise AssertionError where the books do not agree with *blocks*, which are all there are; for tests."""
        with_buffer = {block for block in blocks if block.buffer is not None}
        assert with_buffer == set(self._recent), "a buffer belongs to one block of a known version"
        in_blocks_bytes = sum(page_ceil(block.length_bytes) for block in with_buffer)
        assert self.pool.used_bytes == in_blocks_bytes + self._lost_bytes
        assert self.pool.held_bytes <= self.pool.limit_bytes
        assert set(self._spent) <= with_buffer
        assert self._spent_bytes == sum(block.length_bytes for block in self._spent)

    def _recycle(self) -> None:
        """Give up the oldest spent block that the disk has, so that its warm buffer is used instead of fresh memory."""
        for block in islice(self._spent, _RECYCLE_LOOKS):
            if block.evictable and block.on_disk:
                self._evict(block)
                return

    def _victim(self, *, demand: bool) -> Block | None:
        """Return the block to evict: the least recently used one that no plan wants; for demand any, if need be."""
        planned: Block | None = None
        for block in self._recent:
            if not block.evictable:
                continue
            if block.index not in block.state.planned:
                return block
            planned = block  # the last one of them is the furthest ahead, or nearly
        return planned if demand else None

    def _spare_victim(self) -> Block | None:
        for block in islice(self._recent, _RECYCLE_LOOKS):
            if block.evictable and (block.on_disk or block in self._spent) and block.index not in block.state.planned:
                return block
        return None

    def _evict(self, block: Block) -> None:
        self.evicted_blocks += 1
        self._let_go(block)

    def _let_go(self, block: Block) -> None:
        had_parts = bool(block.parts)
        block.drop_queued()
        self.forget(block)
        block.state.planned.pop(block.index, None)
        if had_parts or not block.state.blocks:
            self._on_evicted(block.state)


def _in_a_later_turn(unmap: Callable[[memoryview], None]) -> Callable[[memoryview], None]:
    """Return what takes pages away once whoever was given a view of them in this turn of the loop has used it.

    A reader may use a view until its next ``await``, and before it does, its own plan may evict the block. A mapping
    of our own lives as long as a view of it, shared memory does not: its readers would see zeros.
    """

    def unmap_later(buffer: memoryview) -> None:
        trio.lowlevel.current_trio_token().run_sync_soon(unmap, buffer)

    return unmap_later
