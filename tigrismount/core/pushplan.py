"""What of one object version to put into the kernel's page cache, and what its READs mean from then on.

The kernel asks for no page that it was given, so whoever reads a pushed file goes unseen. Two things bring the view
back. Every so often the last page of a block is left out: a *tripwire*. The reader stops there, its READ of exactly
that page says that all the pushed bytes before it were read, and :meth:`PushPlan.passed` returns from where on. And
where pushed bytes end, the first READ behind them says the same.

What was pushed need not be fetched again, although a plan still wants it: :meth:`PushPlan.want` takes it out. That is
a guess, since the kernel may drop clean pages at any time. READs of pushed bytes that are no tripwires show it: a few
are those that were on their way while the push went on, many mean that the pages are gone. Then everything is
forgotten, and after the second time nothing is pushed until the file is opened anew, because the kernel has no room
for it or the reader does not look into the page cache at all (``O_DIRECT``).

Blocks are known by their index, in the block size that the store uses for this version.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.core.types import Extent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PAGE_BYTES = 4096
"""Size of a tripwire: the least that the kernel asks for. Some have larger pages (arm64: 16 or 64 KiB)."""
TRIPWIRES_PER_WINDOW = 4
"""Tripwires in the bytes wanted ahead: the reader's place is known to a quarter of the window."""
MAX_TRIPWIRE_BLOCKS = 8
"""Most blocks between two tripwires. A tripwire costs its reader about 0.2 ms, 64 MiB in the page cache 20 ms."""
LOST_BYTES = 32 << 20
"""READs of pushed bytes, with no tripwire between them, that mean the pages are gone. Kernel read-ahead of 4 MiB has
up to 16 MiB on their way when a push meets it."""
ENTERED = -1
"""Place in the order of a block that a reader is in: before all that is planned."""
MAX_LOSSES = 2
"""Losses after which pushing ends until the file is opened anew."""


@dataclass(frozen=True, slots=True)
class Push:
    """One block's bytes for the kernel."""

    index: int
    """The block."""
    start: int
    """First byte to push."""
    stop: int
    """One past the last byte to push."""
    tripwire: Extent | None
    """Bytes behind ``stop`` that are left out on purpose."""


class PushPlan:
    """Pushes of one object version.

    Args:
        size_bytes: Size of the object.
        block_bytes: Block size of this version.
        page_bytes: What the kernel keeps files in.
    """

    def __init__(self, size_bytes: int, block_bytes: int, page_bytes: int = PAGE_BYTES) -> None:
        self.block_bytes = block_bytes
        self.page_bytes = page_bytes
        """What the kernel keeps files in."""
        self.losses = 0
        """Times that pushed pages turned out to be gone, since the file was opened."""
        self._size_bytes = size_bytes
        self._wanted: dict[int, int] = {}
        """Planned blocks that are not in the kernel, and their place in the order."""
        self._ready: set[int] = set()
        """Those of them that are complete in memory."""
        self._pushed: dict[int, int] = {}
        """Blocks in the kernel as far as we know, and from which byte on."""
        self._unpassed: set[int] = set()
        """Those of them that no reader was seen to have passed."""
        self._tripwires: dict[int, int] = {}
        """Where the tripwire is, by block."""
        self._flying: dict[int, Push] = {}
        """Blocks that are being pushed."""
        self._held: dict[int, bytes] = {}
        """What is at a tripwire that nobody has reached, by position; its block may leave memory meanwhile."""
        self._tripwire_blocks = 1
        self._run = (0, 0)
        """Bytes of the last READs that went on one from the other."""
        self._waiting: list[tuple[int, int]] = []
        """READs that are not answered before what is behind them is pushed."""
        self._late_bytes = 0
        self._stale: set[int] = set()
        """Blocks pushed before the file was closed, as long as it is not known whether the kernel has kept them."""

    @property
    def given_up(self) -> bool:
        """Whether nothing is pushed any more until the file is opened anew."""
        return self.losses >= MAX_LOSSES

    def want(self, extents: Iterable[Extent], is_ready: Callable[[int], bool]) -> list[Extent]:
        """Replace what is wanted next.

        Args:
            extents: What the reader is expected to want, in order.
            is_ready: Tells whether a block is complete in memory.

        Returns:
            What of it has to be fetched, because the kernel does not have it.
        """
        if self.given_up:
            return list(extents)
        known = self._wanted
        self._wanted = {index: ENTERED for index, place in known.items() if place == ENTERED}
        left: list[Extent] = []
        blocks = 0
        for extent in extents:
            for index, start, stop in self._pieces(extent):
                blocks += 1
                if index in self._pushed:
                    continue
                self._wanted.setdefault(index, len(self._wanted))
                if left and left[-1].stop == start:
                    start = left.pop().start
                left.append(Extent(start, stop))
        ready = {index for index in self._wanted if index in self._ready or (index not in known and is_ready(index))}
        self._ready = ready
        longest = min(max(1, blocks // TRIPWIRES_PER_WINDOW), MAX_TRIPWIRE_BLOCKS)
        self._tripwire_blocks = 1 << (longest.bit_length() - 1)  # powers of two fall on each other as windows grow
        return left

    def withdraw(self) -> None:
        """Nobody has the file open: want nothing; what the kernel keeps until it is opened again, only READs show."""
        self._wanted, self._ready = {}, set()
        self._stale = set(self._pushed)
        self._late_bytes = self.losses = 0

    def arrived(self, index: int) -> bool:
        """Note that a block is complete in memory; return whether it is wanted."""
        if index in self._wanted and not self.given_up:
            self._ready.add(index)
            return True
        return False

    def next(self) -> Push | None:
        """Return the most urgent push, which then counts as done; None when there is nothing to push now."""
        if not self._ready:
            return None
        index = min(self._ready, key=self._wanted.__getitem__)
        self._ready.remove(index)
        del self._wanted[index]
        push = self._push(index)
        self._pushed[index] = push.start
        self._stale.discard(index)
        self._flying[index] = push
        self._unpassed.add(index)
        self._tripwires.pop(index, None)
        if push.tripwire is not None:
            self._tripwires[index] = push.tripwire.start
        return push

    def hold(self, push: Push, data: bytes) -> None:
        """Keep the bytes of the tripwire of *push*."""
        if push.tripwire is not None and self._tripwires.get(push.index) == push.tripwire.start:
            self._held[push.tripwire.start] = data

    def held(self, start: int, stop: int) -> bytes | None:
        """Return bytes ``[start, stop)`` when they are those of a tripwire nobody has reached, else None."""
        data = self._held.get(start)
        return data if data is not None and len(data) == stop - start else None

    def done(self, push: Push) -> None:
        """Note that the kernel has taken a push."""
        self._flying.pop(push.index, None)

    def failed(self, push: Push) -> None:
        """Take back a push that the kernel did not take."""
        self._flying.pop(push.index, None)
        self._pushed.pop(push.index, None)
        self._stale.discard(push.index)
        self._unpassed.discard(push.index)
        if push.tripwire is not None:
            self._tripwires.pop(push.index, None)
            self._held.pop(push.tripwire.start, None)

    def is_coming(self, position: int) -> bool:
        """Tell whether the bytes from *position* on are about to be pushed: the block there, or the one behind it."""
        index = position // self.block_bytes
        if index in self._wanted or index in self._flying:
            return True
        return index + 1 in self._ready or index + 1 in self._flying

    def is_stopped_by(self, start: int, stop: int) -> bool:
        """Tell whether a push that is under way will come to wait for a READ of bytes ``[start, stop)``."""
        return any(start < push.stop and push.start < stop for push in self._flying.values())

    @contextmanager
    def waiting(self, start: int, stop: int) -> Iterator[None]:
        """Keep pushes out of bytes ``[start, stop)``, whose READ waits for them."""
        self._waiting.append((start, stop))
        try:
            yield
        finally:
            self._waiting.remove((start, stop))

    def pieces(self, push: Push) -> list[tuple[int, int]]:
        """Return what to hand to the kernel for *push*: all of it but the READs that wait for it."""
        position, found = push.start, []
        for start, stop in [*sorted(self._waiting), (push.stop, push.stop)]:
            if position < min(start, push.stop):
                found.append((position, min(start, push.stop)))
            position = max(position, -(-stop // self.page_bytes) * self.page_bytes)
        return found

    def reader_in(self, start: int, stop: int) -> int:
        """Return up to where bytes ``[start, stop)`` were READ from *start* on, *start* if not at all. Any thread."""
        run_start, run_stop = self._run
        return run_stop if run_start <= start < run_stop < stop else start

    def passed(self, start: int, stop: int) -> int:
        """Note a READ of bytes ``[start, stop)``; return from where on its reader has read, at most *start*."""
        run_start, run_stop = self._run
        self._run = (run_start if run_start <= start <= run_stop else start, stop)
        index = start // self.block_bytes
        self._follow(start, stop)
        tripwire = self._tripwires.get(index, -1)
        if tripwire == start:
            self._held.pop(start, None)
            self._late_bytes = 0
            if index in self._stale:  # what lies before it is still there
                self._stale.clear()
            return self._claim(index, start)
        if index in self._pushed:
            since = self._claim(index, start) if start < tripwire < stop else start  # read-ahead ran over it
            self._late(index, stop - start)
            return since
        if start % self.block_bytes == 0 and index - 1 in self._pushed:
            return self._claim(index - 1, start)
        return start

    def check_invariants(self) -> None:
        """Raise AssertionError where fields contradict each other; for tests."""
        assert self._ready <= set(self._wanted)
        assert not set(self._wanted) & set(self._pushed)
        assert self._unpassed <= set(self._pushed)
        assert self._stale <= set(self._pushed)
        assert set(self._tripwires) <= set(self._pushed)
        assert set(self._held) <= set(self._tripwires.values())

    def _follow(self, start: int, stop: int) -> None:
        """Want the rest of the blocks that a reader is in, when it is on its way into what is wanted or pushed.

        Plans leave those blocks to their reader, who would get them page by page. Whoever copies a tensor out of a
        mapping may touch its last page first, far ahead of what it reads next (``memcpy`` does).
        """
        for position in (start, stop):
            index = position // self.block_bytes
            if index in self._pushed or position >= self._size_bytes:
                continue
            if index in self._wanted or index + 1 in self._wanted or index + 1 in self._pushed:
                self._wanted[index] = ENTERED

    def _pieces(self, extent: Extent) -> Iterable[tuple[int, int, int]]:
        start, stop = extent.start, min(extent.stop, self._size_bytes)
        while start < stop:
            index = start // self.block_bytes
            piece_stop = min(stop, (index + 1) * self.block_bytes)
            yield index, start, piece_stop
            start = piece_stop

    def _push(self, index: int) -> Push:
        start = index * self.block_bytes
        stop = min(start + self.block_bytes, self._size_bytes)
        # What the reader's own READs bring is left to them: a push would wait for each.
        start = self.reader_in(start, stop) // self.page_bytes * self.page_bytes
        if stop < self._size_bytes and (index + 1) % self._tripwire_blocks:
            return Push(index, start, stop, None)
        tripwire = Extent((stop - 1) // self.page_bytes * self.page_bytes, stop)  # at the end of the object, always
        return Push(index, min(start, tripwire.start), tripwire.start, tripwire)

    def _claim(self, last: int, start: int) -> int:
        """Return from where on the bytes before *start*, up to the end of block *last*, were pushed and then read.

        It goes back to the tripwire before, which either was reached by the same reader or belongs to another's way.
        """
        index = last
        while index in self._unpassed and (index == last or index not in self._tripwires):
            self._unpassed.remove(index)
            start = min(start, self._pushed[index])
            if self._pushed[index] > index * self.block_bytes:
                break
            index -= 1
        return start

    def _late(self, index: int, size_bytes: int) -> None:
        """Note a READ of bytes of block *index*, which was pushed."""
        self._late_bytes += size_bytes
        is_stale = index in self._stale
        if is_stale or self._late_bytes > LOST_BYTES:
            self.losses += not is_stale
            self._late_bytes = 0
            for lost in (self._pushed, self._unpassed, self._tripwires, self._held, self._stale):
                lost.clear()
            if self.given_up:
                self._wanted, self._ready = {}, set()
