"""Reads of blocks from the disk cache, none of which keeps a reader waiting for a disk that hangs or lags.

A read runs in a thread that cannot be stopped, into the block's buffer. One that takes too long is left to itself, with
that buffer: the block gets another one and is fetched from the store. How long is too long ``core.drivepace`` knows.
Until the read has come back its drive is not asked for anything, so no more reads and buffers hang than were begun at
once. Other drives go on. If it comes back before the fetch has ended, which it may while the store is away, its bytes
are taken and the fetch ends; if later, they are thrown away.

The buffer can be exchanged because nobody looks into it: bytes of a block are there for others when a read or fetch
says so. Where a fetch has brought some of the block already, or there is no memory, the disk is waited for after all.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from tigrismount.core.drivepace import PATIENCE_S, DrivePace
from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tigrismount.blocks.memory import BlockMemory
    from tigrismount.blocks.part import Block
    from tigrismount.cache.base import CachedObject

log = logging.getLogger(__name__)

PIECES_AT_ONCE = 8
"""Pieces read from one drive at once. The cache's threads are shared: blocks must find one free, or they would wait
behind pieces until the drive counts as one that hangs."""


class LateError(CacheError):
    """The disk does not answer in time."""


class LeftError(LateError):
    """A read was left to itself.

    Args:
        one: It.
        message: Why.
    """

    def __init__(self, one: _Read, message: str) -> None:
        super().__init__(message)
        self.one = one


class LeftPieceError(CacheError):
    """A read of a piece was left to itself.

    Args:
        one: It.
        message: Why.
    """

    def __init__(self, one: _PieceRead, message: str) -> None:
        super().__init__(message)
        self.one = one


class DiskReads:
    """Reads blocks back.

    Args:
        memory: Gives the other buffer.
        nursery: Gives the nursery that reads run in.
        on_closing: Called when it ends, before who waits for a piece goes on: nothing new starts in it.
    """

    def __init__(
        self, memory: BlockMemory, nursery: Callable[[], trio.Nursery], on_closing: Callable[[], None]
    ) -> None:
        self._on_closing = on_closing
        self._memory = memory
        self._nursery = nursery
        self.pace = DrivePace()
        """How long drives and the store took lately."""
        self._hanging: Counter[str] = Counter()
        """Reads left to themselves that have not come back, by drive."""
        self._piece_slots: defaultdict[str, trio.CapacityLimiter] = defaultdict(
            lambda: trio.CapacityLimiter(PIECES_AT_ONCE)
        )

    async def read(self, block: Block) -> None:
        """Read all of *block* into its buffer.

        Raises:
            LeftError: It takes too long; :meth:`late` still gives its bytes.
            LateError: An earlier one hangs.
            CacheError: It cannot be read.
        """
        one = _Read(block)
        if self._hanging[one.drive]:
            await trio.lowlevel.checkpoint()
            raise LateError("an earlier read hangs")
        patience_s = self.pace.patience_s(one.drive)
        self._nursery().start_soon(self._run, one)
        try:
            with trio.move_on_after(patience_s):
                await one.done.wait()
            if not one.done.is_set() and not self._leave(one, block, patience_s):
                await one.done.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await one.done.wait()  # the thread writes into the block's memory
            raise
        if one.left:
            raise LeftError(one, f"the disk has not answered for {patience_s:g} s")
        if one.error is not None:
            raise one.error

    async def read_piece(self, cached: CachedObject, index: int, start: int, stop: int) -> bytes:
        """Return bytes ``[start, stop)`` of block *index*, counted from its first one; see ``CachedObject.read_piece``.

        Raises:
            LeftPieceError: It takes too long; :meth:`late_piece` still gives the bytes.
            CacheError: They cannot be read, or the store is the better place to ask.
        """
        one = _PieceRead(cached, index, start, stop)
        await self._begin_piece(one)
        with trio.move_on_after(PATIENCE_S):
            await one.done.wait()
        if one.found is not None:
            return one.found
        if one.error is not None:
            raise one.error
        one.left = True
        self._hanging[one.drive] += 1
        if self._hanging[one.drive] == 1:
            log.warning("the cache's disk has not answered for %g s; fetching what %s has", PATIENCE_S, one.drive)
        raise LeftPieceError(one, f"the disk has not answered for {PATIENCE_S:g} s")

    async def _begin_piece(self, one: _PieceRead) -> None:
        """Start a read of a piece once its drive has a slot for it."""
        if self._hanging[one.drive] or not self.pace.patience_s(one.drive):
            await trio.lowlevel.checkpoint()
            raise CacheError("an earlier read hangs, or the drive is slower than the store")
        slots = self._piece_slots[one.drive]
        with trio.move_on_after(PATIENCE_S) as patience:
            await slots.acquire_on_behalf_of(one)
        if patience.cancelled_caught:
            raise CacheError("the drive is busy")
        if self._hanging[one.drive] or not self.pace.patience_s(one.drive):  # since it waited for its slot
            slots.release_on_behalf_of(one)
            raise CacheError("an earlier read hangs, or the drive is slower than the store")
        self._nursery().start_soon(self._run_piece, one)

    async def _run_piece(self, one: _PieceRead) -> None:
        began_s = trio.current_time()
        try:
            one.found = await one.cached.read_piece(one.index, one.start, one.stop)
            self.pace.note_piece(one.drive, trio.current_time() - began_s)
        except CacheError as error:
            one.error = error
        except trio.Cancelled:
            one.error = CacheError("the mount ends")
            self._on_closing()
            raise
        finally:
            one.done.set()
            self._hanging[one.drive] -= one.left
            self._piece_slots[one.drive].release_on_behalf_of(one)
            if one.race is not None and one.found is not None:
                one.race.cancel()

    @contextmanager
    def late_piece(self, error: CacheError) -> Iterator[Callable[[], bytes | None]]:
        """Go on with what gives the bytes instead until it ends or the piece that was left comes back.

        Args:
            error: What :meth:`read_piece` raised.

        Yields:
            Gives the piece's bytes if they have come; the body was cancelled then, unless it had ended.
        """
        if not isinstance(error, LeftPieceError):
            yield lambda: None
            return
        one = error.one
        with trio.CancelScope() as one.race:
            try:
                yield lambda: one.found
            finally:
                one.race = None

    @contextmanager
    def late(self, error: CacheError, block: Block) -> Iterator[Callable[[], bool]]:
        """Go on with a fetch of *block* until it ends or the read that was left comes back.

        Args:
            error: What :meth:`read` raised.
            block: What is fetched.

        Yields:
            Tells whether the read has come back; the block holds its bytes then, and the fetch was cancelled.
        """
        if not isinstance(error, LeftError):
            yield lambda: False
            return
        one, came = error.one, False

        def take() -> None:
            nonlocal came
            assert block.buffer is not None
            came = True
            block.buffer[: block.length_bytes] = one.buffer[: block.length_bytes]
            race.cancel()

        with trio.CancelScope() as race:
            one.take = take
            try:
                yield lambda: came
            finally:
                one.take = None

    def _leave(self, one: _Read, block: Block, patience_s: float) -> bool:
        """Leave a read to itself, with its buffer, if *block* can have another one."""
        if block.have.total or len(block.parts) > 1 or not self._memory.exchange(block):
            return False
        one.left = True
        self._hanging[one.drive] += 1
        if self._hanging[one.drive] == 1 and patience_s:
            log.warning("the cache's disk has not answered for %g s; fetching what %s has", patience_s, one.drive)
        return True

    async def _run(self, one: _Read) -> None:
        began_s = trio.current_time()
        try:
            await one.read()
            if one.error is None:
                self.pace.note_read(one.drive, trio.current_time() - began_s)
                if one.take is not None:
                    one.take()
        finally:
            one.done.set()
            if one.left:
                self._hanging[one.drive] -= 1
                self._memory.give_back(one.buffer)


class _PieceRead:
    """One read of a piece, which has its memory to itself."""

    def __init__(self, cached: CachedObject, index: int, start: int, stop: int) -> None:
        self.cached = cached
        self.drive = cached.drive
        self.index = index
        self.start = start
        self.stop = stop
        self.done = trio.Event()
        self.found: bytes | None = None
        self.error: CacheError | None = None
        self.left = False
        """Whether it took too long for who waited."""
        self.race: trio.CancelScope | None = None
        """Cancelled with its bytes there, while somebody still has a use for them."""


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
        self.take: Callable[[], None] | None = None
        """Called with its bytes there, while somebody still has a use for them."""

    async def read(self) -> None:
        try:
            await self._cached.read_block(self._index, self.buffer)
        except CacheError as error:
            self.error = error
