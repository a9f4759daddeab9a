"""Reads of blocks from the disk cache, none of which keeps a reader waiting for a disk that hangs.

A read runs in a thread that cannot be stopped, into the block's buffer. One that takes too long is left to itself, with
that buffer: the block gets another one and is fetched from the store. Until the read has come back its drive is not
asked for anything, so no more reads and buffers hang than were begun at once; what comes back late is thrown away.
Other drives go on.

The buffer can be exchanged because nobody looks into it: bytes of a block are there for others when a read or fetch
says so. Where a fetch has brought some of the block already, or there is no memory, the disk is waited for after all.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import trio

from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.blocks.memory import BlockMemory
    from tigrismount.blocks.part import Block

log = logging.getLogger(__name__)

PATIENCE_S = 2.0
"""Longest wait for a block: an NVMe needs milliseconds, a busy disk of a cloud a few hundred."""


class DiskReads:
    """Reads blocks back.

    Args:
        memory: Gives the other buffer.
        nursery: Gives the nursery that reads run in.
    """

    def __init__(self, memory: BlockMemory, nursery: Callable[[], trio.Nursery]) -> None:
        self._memory = memory
        self._nursery = nursery
        self._hanging: Counter[str] = Counter()
        """Reads left to themselves that have not come back, by drive."""

    async def read(self, block: Block) -> None:
        """Read all of *block* into its buffer.

        Raises:
            CacheError: It cannot be read, or not in time.
        """
        one = _Read(block)
        if self._hanging[one.drive]:
            await trio.lowlevel.checkpoint()
            raise CacheError("an earlier read hangs")
        self._nursery().start_soon(self._run, one)
        try:
            with trio.move_on_after(PATIENCE_S):
                await one.done.wait()
            if not one.done.is_set() and not self._leave(one, block):
                await one.done.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await one.done.wait()  # the thread writes into the block's memory
            raise
        if one.left:
            raise CacheError(f"the disk has not answered for {PATIENCE_S:g} s")
        if one.error is not None:
            raise one.error

    def _leave(self, one: _Read, block: Block) -> bool:
        """Leave a read to itself, with its buffer, if *block* can have another one."""
        if block.have.total or len(block.parts) > 1 or not self._memory.exchange(block):
            return False
        one.left = True
        self._hanging[one.drive] += 1
        if self._hanging[one.drive] == 1:
            log.warning("the cache's disk has not answered for %g s; fetching what %s has", PATIENCE_S, one.drive)
        return True

    async def _run(self, one: _Read) -> None:
        try:
            await one.read()
        finally:
            one.done.set()
            if one.left:
                self._hanging[one.drive] -= 1
                self._memory.give_back(one.buffer)


class _Read:
    """One read and the memory it goes to, which may be the block's no more when it ends."""

    def __init__(self, block: Block) -> None:
        assert block.state.cached is not None
        assert block.buffer is not None
        self._cached, self._index = block.state.cached, block.index
        self.drive = self._cached.drive
        self.buffer = block.buffer
        self.done = trio.Event()
        self.error: CacheError | None = None
        self.left = False
        """Whether nobody waits for it any more."""

    async def read(self) -> None:
        try:
            await self._cached.read_block(self._index, self.buffer)
        except CacheError as error:
            self.error = error
