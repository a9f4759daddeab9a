"""How far ahead of its readers an object should be fetched, from nothing but the reads that arrive.

A *stream* is a place in the object that moves forward. Reads are put to streams by position, never by descriptor:
several threads read through one descriptor, several processes read one model, and the kernel's own read-ahead
delivers reads of one reader out of order and from several places at once. So a read up to ``REORDER_BYTES`` away from
a stream's head continues it, the nearest stream wins, and a read far from all of them starts a new one.

A new stream has no window. It *opens* once it has shown that it reads on rather than about: it has made more reads
than the kernel's read-ahead around one random page does, and has read most of the bytes it passed over. It stays
open while it reads a third of them. Random reads pass over much and read little: they open no window, and one that
jumps away from an open stream closes it until the holes are filled.

An open window starts at two blocks and doubles while its reader still has to wait (a reader that finds everything
in memory needs no more), but stays below what the stream has consumed, so that a reader that stops half way wastes
little. Windows of several streams share one budget and never overlap. A stream that nobody has read for a while, or
that saw two new streams start since, gives its window back and starts small when it is read again.

Blocks that a reader jumped over while they were planned stay planned for a while: out of order is not unwanted.

Source: kernel read-ahead as measured on FUSE (READs of ``min(read_ahead, 1 MiB)``, up to eight for one fault; up to
64 MiB out of order at 16 MiB of read-ahead).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING

from tigrismount.core.types import Extent

if TYPE_CHECKING:
    from collections.abc import Callable

REORDER_BYTES = 64 << 20
"""How far from a stream's head a read may be and still belong to it: the farthest that kernel read-ahead was seen to
deliver reads out of order."""
NEAR_BYTES = 2 << 20
"""How far from the head of the stream read last a read continues it without looking for a nearer stream."""
MAX_STREAMS = 16
"""Streams remembered per object: loaders read one file with 4 to 16 threads. The least recently read one goes."""
INITIAL_BLOCKS = 2
"""Window of a stream that has just opened: the next blocks arrive while this one is read."""
RAMP_BYTES = 64 << 20
"""Window that a stream may reach at once in a file of which nothing else is known."""
FORGOTTEN_BYTES = 64 << 20
"""Bytes read elsewhere after which a stream counts as left."""
FAR_SEEKS = 2
"""Streams started elsewhere after which a stream counts as left."""
OPENING_HOLES = 1 / 3
"""Bytes that a stream may have passed over without reading them and still open, per byte that it read."""
STAYING_HOLES = 2
"""The same for staying open; a rank that reads every other slice does."""
HOLES_BYTES = 16 << 20
"""Holes that never close a stream: what kernel read-ahead of 4 MiB makes of a stream that has just begun."""
STRIDE_BYTES = 8 << 20
"""Bytes that one of several streams is ahead in the order of the plan before it is the next one's turn: one GET."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPolicy:
    """What the windows of one object may do."""

    block_bytes: int
    """Granularity of plans; windows end on blocks."""
    max_window_bytes: int
    """Budget of all windows together."""
    proof_reads: int = 9
    """Reads a stream must have made to open: one more than a kernel read-ahead around one random page makes."""
    first_window_bytes: int = 0
    """Window of a stream that has made its proof, where two blocks are too little."""
    ramp_bytes: int = RAMP_BYTES
    """Window that every open stream may reach at once; beyond it the window follows what was consumed."""
    growth: float = 1
    """Window allowed per byte consumed."""
    credit_bytes: int = 0
    """Bytes that count as consumed besides: what was read of the same model's other files."""
    trusted_window_bytes: int = 0
    """First window of a stream that opens without proof, where two blocks are too little."""
    calm_window_bytes: int = 0
    """Window that a stream goes back to while its reader finds everything in memory; 0: it keeps what it has."""
    trust_start: bool = True
    """Whether a first read at the start of the object opens a window at once: most files are read from there."""
    boundary: Callable[[int], int] | None = None
    """From where a window would end to where it had better end, a little further on."""


class Stream:
    """One place that moves through the object.

    Args:
        start: First byte of its first read.
        seeks: How many streams had been started before it.
    """

    __slots__ = (
        "begin",
        "calm_from",
        "consumed_bytes",
        "dense_bytes",
        "dense_from",
        "head",
        "missed",
        "reads",
        "seeks",
        "seen_bytes",
        "update_at",
        "window_bytes",
    )

    def __init__(self, start: int, seeks: int) -> None:
        self.begin = start
        """Lowest byte read."""
        self.head = start
        """One past the highest byte read."""
        self.consumed_bytes = 0
        """Bytes read, counted again when read again."""
        self.reads = 0
        self.dense_from = start
        """Where the stretch begins that density is judged by."""
        self.dense_bytes = 0
        """Bytes read in that stretch."""
        self.window_bytes = 0
        """Bytes wanted ahead of the head; 0 while the stream is not open."""
        self.missed = False
        """Whether a reader had to wait since the window was last looked at."""
        self.calm_from = start
        """Head position when it last had to."""
        self.update_at = 0
        """Head position from which the window is looked at again."""
        self.seen_bytes = 0
        """Bytes read from the whole object up to this stream's last read."""
        self.seeks = seeks
        """Streams started in the whole object up to this stream's last read."""

    @property
    def dense(self) -> bool:
        """Whether it reads on, rather than here and there."""
        holes_bytes = self.head - self.dense_from - self.dense_bytes
        if self.window_bytes:
            return holes_bytes <= max(HOLES_BYTES, STAYING_HOLES * self.dense_bytes)
        return holes_bytes <= OPENING_HOLES * self.dense_bytes

    def forget_old(self) -> None:
        """Let what is far behind the head count for less."""
        if self.head - self.dense_from > REORDER_BYTES:
            self.dense_from = (self.dense_from + self.head) // 2
            self.dense_bytes = min(self.dense_bytes, REORDER_BYTES) // 2


class StreamTable:
    """The streams of one object version.

    Args:
        size_bytes: Size of the object.
        policy: What windows may do; may be replaced as more is learned about the object.
    """

    def __init__(self, size_bytes: int, policy: StreamPolicy) -> None:
        self.policy = policy
        self._size_bytes = size_bytes
        self._streams: list[Stream] = []
        self._current: Stream | None = None
        self._seen_bytes = 0
        self._seeks = 0
        self._windows: list[tuple[int, int]] = []
        self._skipped: dict[int, Stream] = {}
        """Blocks that a stream jumped over while they were planned, in order."""

    def observe(self, start: int, stop: int, *, missed: bool, trusted: bool = False) -> bool:
        """Note a read of bytes ``[start, stop)``.

        Args:
            start: First byte.
            stop: One past the last byte, at most the object's size.
            missed: Whether its reader has to wait.
            trusted: Whether something else than the reads says that this stream goes on; it then opens at once.

        Returns:
            Whether :meth:`ahead` says something new.
        """
        stream = self._current
        if stream is None or not -NEAR_BYTES <= start - stream.head <= NEAR_BYTES:
            stream = self._current = self._nearest(start) or self._begin(start)
            trusted = trusted or (start == 0 and self.policy.trust_start and self._seen_bytes == 0)
        size_bytes = stop - start
        self._seen_bytes += size_bytes
        stream.seen_bytes = self._seen_bytes
        stream.seeks = self._seeks
        stream.reads += 1
        stream.consumed_bytes += size_bytes
        stream.dense_bytes += size_bytes
        if missed:
            stream.missed = True
        if start < stream.dense_from:
            stream.dense_from = start
            stream.begin = min(stream.begin, start)
        if self._skipped:
            self._touch(start, stop)
        if stop > stream.head:
            self._advance(stream, start, stop)
        if stream.head < stream.update_at and not trusted:
            return False
        return self._update(stream, trusted=trusted)

    def grant(self, position: int, window_bytes: int) -> Stream:
        """Start a stream at *position* with a window, because its reader is expected there.

        It takes the place of the streams near it and of all further on, which it will run into.

        Args:
            position: Where the reader will begin.
            window_bytes: Its window, cut to the budget.

        Returns:
            The stream, for :meth:`widen`.
        """
        for replaced in [s for s in self._streams if s.head >= position - REORDER_BYTES]:
            self._remove(replaced)
        self._current = None
        stream = self._begin(position)
        stream.seen_bytes, stream.seeks = self._seen_bytes, self._seeks
        self.widen(stream, window_bytes)
        return stream

    def widen(self, stream: Stream, window_bytes: int) -> bool:
        """Give *stream* at least that window, cut to the budget; return whether :meth:`ahead` says something new."""
        stream.window_bytes = max(stream.window_bytes, min(window_bytes, self.policy.max_window_bytes))
        return self._replan()

    def ahead(self) -> list[Extent]:
        """Return what is wanted now, most urgent first: jumped-over blocks, then the windows, in turns."""
        return [*self._jumped_over(), *_in_turns(self._windows, max(self.policy.block_bytes, STRIDE_BYTES))]

    def reached(self, position: int) -> int:
        """Return how far the stream near *position* has read, *position* itself when no stream is there."""
        stream = self._nearest(position)
        return max(position, stream.head) if stream is not None else position

    @property
    def overflow_bytes(self) -> int:
        """How far the windows would reach behind the end of the object."""
        return max((s.head + s.window_bytes - self._size_bytes for s in self._streams if s.window_bytes), default=0)

    @property
    def window_bytes(self) -> int:
        """The largest open window."""
        return max((stream.window_bytes for stream in self._streams), default=0)

    def near(self, position: int) -> bool:
        """Tell whether a read at *position* would go on from where a stream is."""
        return any(-NEAR_BYTES <= position - stream.head <= NEAR_BYTES for stream in self._streams)

    def check_invariants(self) -> None:
        """Raise AssertionError unless windows are block by block, inside the object, apart and within the budget."""
        block = self.policy.block_bytes
        assert len(self._streams) <= MAX_STREAMS
        assert self._current is None or self._current in self._streams
        for start, stop in self._windows:
            assert 0 <= start < stop <= self._size_bytes
            assert start % block == 0
            assert stop % block == 0 or stop == self._size_bytes
        for (_, stop), (start, _) in pairwise(sorted(self._windows)):
            assert stop <= start
        for stream in self._streams:
            assert stream.begin <= stream.head <= self._size_bytes
            assert stream.window_bytes <= self.policy.max_window_bytes

    # ------------------------------------------------------------------ streams

    def _nearest(self, start: int) -> Stream | None:
        best, best_distance = None, REORDER_BYTES + 1
        for stream in self._streams:
            distance = abs(start - stream.head)
            if distance < best_distance:
                best, best_distance = stream, distance
        return best

    def _begin(self, start: int) -> Stream:
        if len(self._streams) == MAX_STREAMS:
            self._remove(min(self._streams, key=lambda s: s.seen_bytes))
        if self._streams:
            self._seeks += 1
        stream = Stream(start, self._seeks)
        self._streams.append(stream)
        return stream

    def _remove(self, stream: Stream) -> None:
        self._streams.remove(stream)
        stream.window_bytes = 0  # gives up what it jumped over

    def _advance(self, stream: Stream, start: int, stop: int) -> None:
        """Move the head, and remember the planned blocks it jumps over."""
        if start > stream.head and stream.window_bytes:
            block = self.policy.block_bytes
            for window_start, window_stop in self._windows:
                skipped_stop = min(start, window_stop) // block
                for index in range(-(-max(stream.head, window_start) // block), skipped_stop):
                    self._skipped[index] = stream
        stream.head = stop

    def _touch(self, start: int, stop: int) -> None:
        """A read of a jumped-over block fetches it; it is no longer the plan's business."""
        block = self.policy.block_bytes
        for index in range(start // block, -(-stop // block)):
            self._skipped.pop(index, None)

    # ------------------------------------------------------------------ windows

    def _update(self, stream: Stream, *, trusted: bool) -> bool:
        """Open, widen or close the window of *stream*; return whether the plan changed."""
        stream.forget_old()
        proven = stream.dense and (stream.window_bytes > 0 or stream.reads >= self.policy.proof_reads)
        stream.window_bytes = self._grown(stream, trusted=trusted) if proven or trusted else 0
        stream.missed = False
        stream.update_at = stream.head + self.policy.block_bytes // 4 if stream.window_bytes else 0
        return self._replan()

    def _grown(self, stream: Stream, *, trusted: bool) -> int:
        policy = self.policy
        least_bytes = INITIAL_BLOCKS * policy.block_bytes
        if trusted:
            least_bytes = max(least_bytes, policy.trusted_window_bytes)
        elif stream.reads >= policy.proof_reads:
            least_bytes = max(least_bytes, policy.first_window_bytes)
        window_bytes = max(stream.window_bytes, min(least_bytes, policy.max_window_bytes))
        if stream.missed:
            stream.calm_from = stream.head
        if window_bytes > stream.window_bytes:
            return window_bytes
        if not stream.missed:
            return self._calmed(stream)
        consumed_bytes = min(stream.consumed_bytes, stream.head - stream.begin) + policy.credit_bytes
        allowed_bytes = int(max(policy.ramp_bytes, policy.growth * consumed_bytes))
        allowed_bytes -= allowed_bytes % policy.block_bytes
        return max(window_bytes, min(2 * window_bytes, allowed_bytes, policy.max_window_bytes))

    def _calmed(self, stream: Stream) -> int:
        """Return the window of a stream whose reader has not had to wait: smaller once it got through all of it.

        What is in memory ahead of a reader that stops here was fetched for nothing.
        """
        policy, window_bytes = self.policy, stream.window_bytes
        consumed_bytes = min(stream.consumed_bytes, stream.head - stream.begin) + policy.credit_bytes
        calm_bytes = max(policy.calm_window_bytes, int(policy.growth * consumed_bytes) // 2)
        if not policy.calm_window_bytes or window_bytes <= calm_bytes or stream.head < stream.calm_from + window_bytes:
            return window_bytes
        return max(calm_bytes, window_bytes - policy.block_bytes)

    def _replan(self) -> bool:
        """Work out all windows; return whether they changed."""
        streams = sorted(self._close_left(), key=lambda s: s.head)
        share_bytes = self.policy.max_window_bytes // max(1, len(streams))
        windows = []
        for stream, ahead in zip_longest(streams, streams[1:]):
            if ahead is not None and stream.begin < ahead.begin <= stream.head:
                self._absorb(stream, ahead)
                continue
            window = self._window(stream, ahead, share_bytes)
            if window[0] < window[1]:
                windows.append((stream.seen_bytes, window))
        windows.sort(reverse=True)
        before, self._windows = self._windows, [window for _, window in windows]
        return before != self._windows

    def _close_left(self) -> list[Stream]:
        """Close the streams that nobody reads any more; return those that stay open."""
        streams = [s for s in self._streams if s.window_bytes]
        seeks = max(FAR_SEEKS, len(streams))  # each of several readers may move on without the others' stopping
        for stream in streams:
            if self._seeks - stream.seeks >= seeks or self._seen_bytes - stream.seen_bytes > FORGOTTEN_BYTES:
                stream.window_bytes = stream.update_at = 0
        return [s for s in streams if s.window_bytes]

    def _absorb(self, stream: Stream, ahead: Stream) -> None:
        """Join *stream* to the one whose beginning it has reached: from there on all was read already."""
        self._remove(stream)
        ahead.begin = stream.begin
        ahead.consumed_bytes += stream.consumed_bytes
        if self._current is stream:
            self._current = ahead

    def _window(self, stream: Stream, ahead: Stream | None, share_bytes: int) -> tuple[int, int]:
        """Return the bytes wanted ahead of *stream*: from the block behind the one being read to the window's end.

        The block being read is left to its reader, whose request starts at the page it needs. The blocks that a
        stream further ahead has read, or begun with, are that stream's.
        """
        block = self.policy.block_bytes
        window_bytes = min(stream.window_bytes, share_bytes)
        stop = stream.head + window_bytes
        if self.policy.boundary is not None:
            boundary = self.policy.boundary(stop)
            if boundary - stop <= min(window_bytes // 4, self.policy.max_window_bytes - window_bytes):
                stop = boundary
        stop = min(-(-stop // block) * block, self._size_bytes)
        if ahead is not None:
            stop = min(stop, (ahead.begin if ahead.begin >= stream.head else ahead.head) // block * block)
        return -(-stream.head // block) * block, stop

    def _jumped_over(self) -> list[Extent]:
        """Return what open streams have jumped over not long ago; the rest is given up."""
        block = self.policy.block_bytes
        self._skipped = {
            index: stream
            for index, stream in self._skipped.items()
            if stream.window_bytes and index * block >= stream.head - REORDER_BYTES
        }
        return [Extent(index * block, (index + 1) * block) for index in self._skipped]


def _in_turns(windows: list[tuple[int, int]], stride_bytes: int) -> list[Extent]:
    """Return the windows cut into strides, the first of each, then the second of each, and so on."""
    if len(windows) == 1:
        return [Extent(*windows[0])]
    longest_bytes = max((stop - start for start, stop in windows), default=0)
    return [
        Extent(start + offset, min(start + offset + stride_bytes, stop))
        for offset in range(0, longest_bytes, stride_bytes)
        for start, stop in windows
        if start + offset < stop
    ]
