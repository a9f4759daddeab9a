"""Blocks and the parts that fill them: plain state, no waiting, no I/O.

A *block* is the unit of cache, checksum and single-flight. A *part* is one range GET (or one read from the disk
cache) over one or more consecutive blocks. While a part is in flight its *watermark* moves as bytes arrive: a
reader's bytes are there long before the block is complete.

Threads: ``Part.next_view`` and ``Part.wrote`` run in the fetching thread; everything else in the trio thread. The two
meet in two integers, ``done``, which the thread writes, and ``wake_at``, which the trio thread writes; access to an
attribute is atomic under the GIL, and the waiter re-checks the watermark after it has said what it waits for, so no
wake-up is lost.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING

import trio

from tigrismount.core.intervals import Intervals
from tigrismount.core.types import Priority

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.cache.base import CachedObject
    from tigrismount.core.types import ObjectId
    from tigrismount.errors import ObjectError

REMEMBERED_PIECES = 64
"""Small reads of a version that say where its readers are, see ``pieces``."""
NEVER = sys.maxsize
"""A watermark nobody waits for."""
QUIET_VIEW_BYTES = 1 << 20
"""Bytes per read call while nobody waits: large enough to cost little, small enough to follow a new waiter soon."""


class ObjectState:
    """What the store knows of one object version.

    Args:
        obj: The version.
        block_bytes: Block size until the cache says otherwise.
    """

    __slots__ = (
        "block_bytes",
        "blocks",
        "cached",
        "later",
        "later_tried",
        "obj",
        "opened",
        "opening",
        "pending",
        "piece_counts",
        "pieces",
        "planned",
        "priority",
        "refetching",
        "users",
    )

    def __init__(self, obj: ObjectId, block_bytes: int) -> None:
        self.obj = obj
        self.block_bytes = block_bytes
        self.blocks: dict[int, Block] = {}
        self.cached: CachedObject | None = None
        self.opened = trio.Event()
        """Set once the disk cache was asked what it holds."""
        self.opening = False
        self.planned: dict[int, None] = {}
        """Block indexes of the current plan, in order: what prefetch must not throw out."""
        self.pending: list[int] = []
        """Planned blocks not asked for yet, *last first*."""
        self.later: list[int] = []
        """The same for what only the disk cache wants: fetched when nothing else is, and not protected in memory. What
        was planned or tried since is passed over, see :meth:`wants_later`."""
        self.later_tried: set[int] = set()
        """Blocks that came, or were fetched for the disk cache, once; what it refused then is not fetched for it
        again."""
        self.refetching: set[int] = set()
        """Those in ``later`` that were fetched before, and that the disk had no time for then."""
        self.pieces: deque[tuple[int, int]] = deque(maxlen=REMEMBERED_PIECES)
        """The last small reads that were read from the disk by themselves: their blocks, and where they ended."""
        self.piece_counts: dict[int, int] = {}
        """How many such reads blocks have had since they were read whole."""
        self.priority = Priority.PREFETCH
        self.users = 0
        """Open files and reads in progress; at 0 the version may leave memory."""

    @property
    def lane(self) -> Priority | None:
        """Priority of what its plan wants next, None when it wants nothing."""
        if self.pending:
            return self.priority
        return Priority.LATER if self.later else None

    def wants_later(self, index: int) -> bool:
        """Tell whether a block that stands in ``later`` is still to be fetched for the disk cache."""
        return index not in self.planned and (index not in self.later_tried or index in self.refetching)

    def block(self, index: int) -> Block:
        """Return block *index*, absent at first."""
        block = self.blocks.get(index)
        if block is None:
            start = index * self.block_bytes
            block = self.blocks[index] = Block(self, index, start, min(start + self.block_bytes, self.obj.size_bytes))
        return block

    def check_invariants(self) -> None:
        """Raise AssertionError where fields contradict each other; for tests."""
        assert self.users >= 0
        assert len(set(self.pending)) == len(self.pending)
        for index, block in self.blocks.items():
            assert (block.state, block.index) == (self, index)
            assert block.stop - block.start == min(self.block_bytes, self.obj.size_bytes - block.start)


class Block:
    """One block of one version: absent, in flight or resident.

    Args:
        state: The version it belongs to.
        index: Its number.
        start: First byte in the object.
        stop: One past its last byte in the object.
    """

    __slots__ = (
        "buffer",
        "complete",
        "delivered_bytes",
        "have",
        "index",
        "on_disk",
        "parts",
        "pins",
        "settled",
        "start",
        "state",
        "stop",
        "waiters",
        "writing",
    )

    def __init__(self, state: ObjectState, index: int, start: int, stop: int) -> None:
        self.state = state
        self.index = index
        self.start = start
        self.stop = stop
        self.buffer: memoryview | None = None
        self.have = Intervals()
        self.complete = False
        self.on_disk = False
        """Whether the disk cache took it; it can be had again without the store."""
        self.delivered_bytes = 0
        """Bytes of it that went to readers since it came into memory."""
        self.parts: list[Part] = []
        """Parts that will fill some of it, queued or in flight."""
        self.waiters: list[Waiter] = []
        self.pins = 0
        """Readers and writers that need the buffer to stay."""
        self.writing = False
        """On its way to the disk cache."""
        self.settled: trio.Event | None = None
        """Set for who waits until it is complete and the disk cache has taken or refused it."""

    def settle(self) -> None:
        """Tell who waits that it is complete, and not on its way to the disk cache."""
        if self.settled is not None:
            self.settled.set()
            self.settled = None

    @property
    def length_bytes(self) -> int:
        """Bytes of the block; less than the block size at the end of the object."""
        return self.stop - self.start

    def covers(self, start: int, stop: int) -> bool:
        """Tell whether bytes ``[start, stop)`` of the object are in the buffer now."""
        if self.complete:
            return True
        for part in self.parts:
            self.fold(part)
        return self.have.covers(start, stop)

    def fold(self, part: Part) -> None:
        """Note what *part* has brought so far."""
        done = part.start + part.done
        self.have.add(max(part.start, self.start), min(done, self.stop))

    def view(self, start: int, stop: int) -> memoryview:
        """Return the memory of bytes ``[start, stop)`` of the object."""
        assert self.buffer is not None
        return self.buffer[start - self.start : stop - self.start]

    def claimed(self) -> Intervals:
        """Return what is there or on its way."""
        claimed = Intervals(self.have)
        for part in self.parts:
            claimed.add(max(part.start, self.start), min(part.stop, self.stop))
        return claimed

    @property
    def evictable(self) -> bool:
        """Whether its buffer may be taken away; parts that only wait in the queue do not hold it."""
        return self.buffer is not None and not self.pins and not any(part.started for part in self.parts)

    def clear(self) -> None:
        """Become absent; the caller has taken the buffer back."""
        self.delivered_bytes = 0
        self.buffer = None
        self.complete = self.on_disk = False
        self.have = Intervals()
        if self.state.blocks.get(self.index) is self and not (self.pins or self.parts or self.waiters):
            del self.state.blocks[self.index]

    def drop_queued(self) -> None:
        """Take back its parts that have not started."""
        for part in [part for part in self.parts if not part.started]:
            part.drop()

    def check_invariants(self) -> None:
        """Raise AssertionError where fields contradict each other; for tests."""
        assert self.pins >= 0
        assert self.pins or not self.waiters, "who waits for a block holds it"
        assert self.buffer is not None or not (self.complete or self.have.total)
        assert not self.complete or self.have.covers(self.start, self.stop)
        assert self.complete or self.pins or self.parts or self.have.total, "an empty block is forgotten"
        claimed = Intervals(self.have)
        for part in self.parts:
            assert self in part.blocks
            assert part.started or len(part.blocks) == 1, "what waits in the queue fills one block"
            assert self.buffer is not None or not part.started, "what flies has its memory"
            start = max(self.start, part.start + part.done)
            stop = min(self.stop, part.stop)
            assert start >= stop or claimed.gaps(start, stop) == [(start, stop)], "no byte is claimed twice"
            claimed.add(start, stop)


class Waiter:
    """A read that waits for bytes ``[start, stop)`` of the object.

    Args:
        start: First byte.
        stop: One past the last byte; both within one block.
    """

    __slots__ = ("error", "event", "start", "stop")

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self.event = trio.Event()
        self.error: ObjectError | None = None


class Part:
    """One range GET or disk read over consecutive blocks; the sink of its own fetch.

    Args:
        block: The block it fills some of.
        start: First byte in the object, inside the block.
        stop: One past the last byte, inside the block or at its end.
        priority: Place in the queue.
        drive: Where the disk cache has it; then it is exactly one whole block. None where it comes from the store.
        notify: Called from the fetching thread when the watermark reaches ``wake_at``.
        planned: Whether a plan alone asked for it.
    """

    __slots__ = (
        "asked",
        "blocks",
        "done",
        "drive",
        "dropped",
        "notify",
        "planned",
        "priority",
        "refetch",
        "scope",
        "start",
        "started",
        "stop",
        "waits_elsewhere",
        "wake_at",
    )

    def __init__(
        self,
        block: Block,
        start: int,
        stop: int,
        *,
        priority: Priority,
        drive: str | None,
        notify: Callable[[Part], None],
        planned: bool = False,
    ) -> None:
        self.blocks = [block]
        """The blocks it runs through, in order."""
        self.start = start
        self.stop = stop
        self.priority = priority
        self.drive = drive
        self.notify = notify
        self.planned = planned
        self.refetch = False
        """Whether its bytes were fetched before, see ``leftovers``."""
        self.scope = trio.CancelScope()
        """Cancelled when nobody wants it any more."""
        self.started = False
        self.asked = False
        """Whether its GET is on its way, so that its range is what it is."""
        self.dropped = False
        """Taken back before it started; the queue skips it."""
        self.waits_elsewhere = False
        """Whether another process fetches it, so that it holds no slot."""
        self.done = 0
        """Watermark: bytes that have arrived, from ``start``."""
        self.wake_at = NEVER
        """Watermark that somebody waits for."""
        block.parts.append(self)

    def __lt__(self, other: Part) -> bool:
        return self.priority < other.priority

    @property
    def state(self) -> ObjectState:
        """The version it belongs to."""
        return self.blocks[0].state

    @property
    def from_disk(self) -> bool:
        """Whether it comes from the disk cache."""
        return self.drive is not None

    @property
    def has_memory(self) -> bool:
        """Whether all its blocks have their buffers."""
        return all(block.buffer is not None for block in self.blocks)

    def add_block(self, block: Block) -> None:
        """Let it run on through *block*, which follows the last one; before its fetch begins."""
        self.blocks.append(block)
        self.stop = block.stop
        block.parts.append(self)

    def cut(self, count: int) -> None:
        """Keep the first *count* blocks only; before its fetch begins."""
        for block in self.blocks[count:]:
            block.parts.remove(self)
        del self.blocks[count:]
        self.stop = min(self.stop, self.blocks[-1].stop)

    def leave(self, start: int) -> int | None:
        """Leave the bytes from *start* on to another part, if it has not asked for them yet.

        Returns:
            Where they end; None where they stay with this one.
        """
        if self.asked or self.from_disk or self.waits_elsewhere or len(self.blocks) > 1:
            return None
        stop, self.stop = self.stop, start
        self.wake_at = min(self.wake_at, start - self.start)
        return stop

    def take_block(self) -> bool:
        """Take on all of its block, what is there of it included: the disk gives a block as a whole, or spoils it.

        Others that have not asked for theirs yet end with nothing; those who wait for them wait for this one.

        Returns:
            Whether it could: not while another part of the block is being fetched.
        """
        block = self.blocks[0]
        others = [part for part in block.parts if part is not self]
        if any(part.asked for part in others):
            return False
        for part in others:
            if part.started:
                part.stop = part.start
                part.scope.cancel()
            else:
                part.drop()
        block.have = Intervals()
        self.start, self.stop, self.wake_at = block.start, block.stop, NEVER
        for waiter in block.waiters:
            self.expect(waiter.stop)
        return True

    def drop(self) -> None:
        """Take it back; it has not started."""
        self.dropped = True
        for block in self.blocks:
            block.parts.remove(self)
            if not block.parts and block.state.cached is not None:
                block.state.cached.unclaim(block.index)  # of an earlier part of the block

    @property
    def idle(self) -> bool:
        """Whether only a plan ever wanted it: nobody waits for, holds, or has read of any of its blocks."""
        return self.planned and not any(b.pins or b.waiters or b.delivered_bytes for b in self.blocks)

    def next_view(self) -> memoryview:
        """Return memory for the next bytes; see ``objects.client.FetchSink``. Fetching thread."""
        position = self.start + self.done
        if position >= self.stop:
            return memoryview(b"")
        block = self.blocks[position // self.state.block_bytes - self.blocks[0].index]
        stop = min(self.stop, block.stop, position + QUIET_VIEW_BYTES)
        if self.done < self.wake_at:
            stop = min(stop, self.start + self.wake_at)
        return block.view(position, stop)

    def wrote(self, count: int) -> None:
        """Move the watermark; see ``objects.client.FetchSink``. Fetching thread."""
        self.done += count
        if self.done >= self.wake_at:
            self.notify(self)

    def expect(self, stop: int) -> None:
        """Ask to be told when byte *stop* - 1 of the object has arrived."""
        self.wake_at = min(self.wake_at, min(stop, self.stop) - self.start)
