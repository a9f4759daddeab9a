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
    from collections.abc import Awaitable, Callable

    from tigrismount.blocks.base import Buffer
    from tigrismount.blocks.diskreads import DiskReads
    from tigrismount.blocks.part import ObjectState
    from tigrismount.blocks.statistics import BlocksCounters
    from tigrismount.core.loadlog import LoadLog

PIECES_PER_BLOCK = 64
"""A read may be a piece up to this part of a block: 128 KiB of 8 MiB, the kernel's usual read-ahead around a page."""
ENOUGH = 16
"""Pieces of one block from which on it is read whole: by then they cost as much. Where another block would lose its
memory only those count that are among the last 64 of their version; where memory is free, all."""


class Pieces:
    """Reads pieces for all versions.

    Args:
        reads: Reads of the disk cache.
        counters: Counted up here.
        log: Told of reads.
        has_room: Tells whether so many bytes of memory are free, so that no other block goes for one more.
    """

    def __init__(
        self, reads: DiskReads, counters: BlocksCounters, log: LoadLog, has_room: Callable[[int], bool]
    ) -> None:
        self._reads = reads
        self._has_room = has_room
        self._counters = counters
        self._log = log

    async def read(self, state: ObjectState, start: int, stop: int, whole: Callable[[], Awaitable[Buffer]]) -> Buffer:
        """Return bytes ``[start, stop)`` of the object: as such a piece, or where they are none by *whole*.

        A piece that takes too long and *whole* race for the reader: the store may be away while the disk is only slow.

        Raises:
            ObjectError: As *whole* does.
        """
        index = self._block_of(state, start, stop)
        if index is None:
            return await whole()
        since_s = self._log.clock()
        try:
            found = await self._read_noted(state, index, start, stop)
        except CacheError as error:
            data: Buffer | None = None
            with self._reads.late_piece(error) as late:
                data = await whole()
            if data is not None:
                return data
            found = late() or b""
            assert found, "nothing else ends the race"
            self._note(loadlog.WAIT, state, start, stop, since_s)  # the one before has given up
        self._note(loadlog.ANSWER, state, start, stop, since_s)
        self._note(loadlog.DISK, state, start, stop, since_s)
        self._counters.from_disk(stop - start)
        self._counters.miss(stop - start, joined=False)
        return found

    async def _read_noted(self, state: ObjectState, index: int, start: int, stop: int) -> bytes:
        assert state.cached is not None
        state.pieces.append((index, stop))
        block_start, since_s = index * state.block_bytes, self._log.clock()
        self._note(loadlog.WAIT, state, start, stop, since_s)
        try:
            return await self._reads.read_piece(state.cached, index, start - block_start, stop - block_start)
        except BaseException:
            self._note(loadlog.GAVE_UP, state, start, stop, since_s)
            raise

    def _note(self, kind: int, state: ObjectState, start: int, stop: int, since_s: float) -> None:
        until_s = since_s if kind == loadlog.WAIT else self._log.clock()
        self._log.note((kind, state.obj, start, stop, since_s, until_s, loadlog.NVME, loadlog.DISK_CAUSE))

    def _block_of(self, state: ObjectState, start: int, stop: int) -> int | None:
        """Return the block that a read is a piece of, None where it is none."""
        index = start // state.block_bytes
        block_stop = min((index + 1) * state.block_bytes, state.obj.size_bytes)
        length_bytes = block_stop - index * state.block_bytes
        if stop > block_stop or (stop - start) * PIECES_PER_BLOCK > length_bytes or state.cached is None:
            return None
        if index in state.blocks or index in state.planned or not state.cached.proven(index):
            return None
        return None if self._goes_on(state, index, start, length_bytes) else index

    def _goes_on(self, state: ObjectState, index: int, start: int, length_bytes: int) -> bool:
        """Tell whether a block has become worth its reading, and count one more small read of it where it has not."""
        count = state.piece_counts.pop(index, 0)
        if any(start == last_stop for _, last_stop in state.pieces):
            return True
        if count >= ENOUGH and self._has_room(length_bytes):
            return True
        if sum(index == other for other, _ in state.pieces) >= ENOUGH:
            return True
        state.piece_counts[index] = count + 1
        return False
