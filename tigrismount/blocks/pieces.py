"""Small reads of blocks that are on the disk and need no check: what is asked for is read, and not the block.

A page at random of a file far larger than memory would otherwise cost a block of disk, of copying and of the memory
that other blocks need, again each time. What speaks for the whole block is a reader who goes on in it: one that reads
in order, or comes back to it often. And a plan that wants it anyway.

Source: docs/adr/0031-pieces-of-blocks.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tigrismount.core import loadlog
from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from tigrismount.blocks.diskreads import DiskReads
    from tigrismount.blocks.part import ObjectState
    from tigrismount.blocks.statistics import BlocksCounters
    from tigrismount.core.loadlog import LoadLog

PIECES_PER_BLOCK = 64
"""A read may be a piece up to this part of a block: 128 KiB of 8 MiB, the kernel's usual read-ahead around a page."""
ENOUGH = 16
"""Pieces of one block, of the last 64 of its version, from which on it is read whole: by then they cost as much."""


class Pieces:
    """Reads pieces for all versions.

    Args:
        reads: Reads of the disk cache.
        counters: Counted up here.
        log: Told of reads.
    """

    def __init__(self, reads: DiskReads, counters: BlocksCounters, log: LoadLog) -> None:
        self._reads = reads
        self._counters = counters
        self._log = log

    async def read(self, state: ObjectState, start: int, stop: int) -> bytes | None:
        """Return bytes ``[start, stop)`` of the object if they are such a piece.

        Returns:
            None where they are not, or the disk did not give them: then the block is what to ask for.
        """
        index = self._block_of(state, start, stop)
        if index is None:
            return None
        assert state.cached is not None
        state.pieces.append((index, stop))
        block_start = index * state.block_bytes
        note, since_s = self._log.note, self._log.clock()
        note((loadlog.WAIT, state.obj, start, stop, since_s, since_s, "", ""))
        kind = loadlog.GAVE_UP
        try:
            found = await self._reads.read_piece(state.cached, index, start - block_start, stop - block_start)
            kind = loadlog.ANSWER
        except CacheError:
            return None
        finally:
            note((kind, state.obj, start, stop, since_s, self._log.clock(), loadlog.NVME, loadlog.DISK_CAUSE))
        note((loadlog.DISK, state.obj, start, stop, since_s, self._log.clock(), "", ""))
        self._counters.from_disk(stop - start)
        self._counters.miss(stop - start, joined=False)
        return found

    def _block_of(self, state: ObjectState, start: int, stop: int) -> int | None:
        """Return the block that a read is a piece of, None where it is none."""
        if (stop - start) * PIECES_PER_BLOCK > state.block_bytes or state.cached is None:
            return None
        index = start // state.block_bytes
        if stop > (index + 1) * state.block_bytes or index in state.blocks or index in state.planned:
            return None
        if any(start == last_stop for _, last_stop in state.pieces):
            return None
        if sum(index == other for other, _ in state.pieces) >= ENOUGH or not state.cached.proven(index):
            return None
        return index
