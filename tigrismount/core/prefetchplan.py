"""What to fetch ahead in a file whose layout is known: the same streams, and what the format says about them.

Knowing the tensors changes four things against plain read-ahead (``core.readahead``):

- Reading the *header* says nothing: every loader opens every shard to look at it. The first read of *data* does,
  where data begins or at the start of a tensor: the file is being loaded from there on.
- Less proof and a steeper ramp, because what comes next is known: offset order, to the end of the file. The window
  stays below a share of what was read, more of it while the reader has to wait than while it finds everything.
- A window that would end shortly before a tensor does ends with the tensor.
- The *comb*: a loader that makes lazy tensors touches the first page of each, in offset order, before it reads any
  of them. Skipping from one tensor's start to the very next one's is not random access, it announces that all of it
  will be read; so the file is planned from where the comb began, and the teeth themselves move no stream.

What the reader skipped before its place is not fetched.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tigrismount.core.layout import Layout
    from tigrismount.core.readahead import Stream, StreamTable
    from tigrismount.core.types import Extent

PROOF_READS = 5
"""Reads that open a window: one more than four READs of 1 MiB, the kernel read-ahead around one page at 4 MiB."""
RAMP_BYTES = 128 << 20
"""Window that may be reached at once: 16 GETs of 8 MiB, which at 80 MB/s each is more than 1 GB/s. While the reader
has to wait for it about half of it is in flight, and is cut should the reader stop."""
CALM_WINDOW_BYTES = 64 << 20
"""Window of a reader that finds everything in memory. It is what one pays for who stops half way in a 1 GiB file."""
GROWTH = 1 / 4
"""Window per byte consumed beyond that; half of it for a reader that does not have to wait."""
COMB_TEETH = 3
"""Skips from tensor start to tensor start in a row that make a comb; one or two happen by chance."""
MAX_DOUBLINGS = 16
"""Teeth that still widen the window: far more than any budget allows."""
MAX_LATE_BYTES = 1 << 20
"""Bytes read behind a tooth that may belong to the one before, delivered out of order: one READ."""
MAX_TOOTH_BYTES = 16 << 20
"""What one touched page may make the kernel read; a longer run is somebody reading data."""


class LoadPlan:
    """What comes next in one tensor file.

    Args:
        layout: Where its tensors lie.
        streams: The file's streams so far; from now on they are fed through this plan.
    """

    def __init__(self, layout: Layout, streams: StreamTable) -> None:
        self._layout = layout
        self._streams = streams
        streams.policy = replace(
            streams.policy,
            proof_reads=PROOF_READS,
            first_window_bytes=CALM_WINDOW_BYTES,
            calm_window_bytes=CALM_WINDOW_BYTES,
            ramp_bytes=RAMP_BYTES,
            growth=GROWTH,
            boundary=layout.end_of_tensor,
            trust_start=False,
        )
        self._data_from = max(layout.data_start, streams.policy.block_bytes)
        """Where a read is of data and not of the header's surroundings; the first block comes whole anyway."""
        self._data_seen = False
        self._tooth_start = 0
        self._tooth_stop = streams.reached(layout.data_start)
        self._comb_start = 0
        """Where the data begins that the comb announces."""
        self._teeth = 0
        self._before_tooth = 0
        """Where the run ended that the last tooth left."""
        self._resumed_bytes = 0
        """Bytes that were read on from there since."""
        self._loading: Stream | None = None

    @property
    def combing(self) -> bool:
        """Whether the last reads were a comb."""
        return self._teeth >= COMB_TEETH

    def observe(self, start: int, stop: int, *, missed: bool) -> bool:
        """Note a read of bytes ``[start, stop)``; see ``StreamTable.observe``."""
        if start > self._tooth_stop:
            self._skip(start, stop)
            if self._teeth >= COMB_TEETH:
                return self._comb()
        elif start >= self._tooth_start:
            self._tooth_stop = max(self._tooth_stop, stop)
            if self._teeth >= COMB_TEETH and self._tooth_stop - self._tooth_start <= MAX_TOOTH_BYTES:
                return False
        elif self._teeth and start <= self._before_tooth < stop:
            self._resume(start, stop)
        trusted = not self._data_seen and start >= self._data_from and self._begins(start, stop)
        if trusted:
            self._data_seen = True
        return self._streams.observe(start, stop, missed=missed, trusted=trusted)

    def ahead(self) -> list[Extent]:
        """Return what is wanted now, most urgent first; see ``StreamTable.ahead``."""
        return self._streams.ahead()

    def _begins(self, start: int, stop: int) -> bool:
        """Tell whether a loader could begin here: where data begins, or with a tensor. 64 random reads do neither."""
        if start < self._data_from + self._streams.policy.block_bytes:
            return True
        tensor = self._layout.first_from(start)
        return tensor is not None and tensor.start < stop

    def _skip(self, start: int, stop: int) -> None:
        """A read ahead of the last run: a tooth when it covers the next tensor's first byte, else the comb ends."""
        expected = self._layout.first_from(self._tooth_stop)
        if expected is None or not start <= expected.start < stop:
            self._teeth = 0
        else:
            if self._teeth == 0:
                self._comb_start = self._tooth_stop
                self._loading = None
            self._teeth += 1
        self._before_tooth, self._resumed_bytes = self._tooth_stop, 0
        self._tooth_start, self._tooth_stop = start, stop

    def _resume(self, start: int, stop: int) -> None:
        """A read goes on from before the last tooth: that was the end of a tensor that is being copied, no comb."""
        self._resumed_bytes += stop - self._before_tooth
        self._before_tooth = stop
        if self._resumed_bytes > MAX_LATE_BYTES:
            self._teeth = 0
            self._tooth_start, self._tooth_stop = start, stop

    def _comb(self) -> bool:
        """Plan from where the comb began, twice as far with each tooth."""
        policy = self._streams.policy
        window_bytes = min(policy.block_bytes << min(self._teeth, MAX_DOUBLINGS), policy.max_window_bytes)
        window_bytes = max(window_bytes, self._streams.window_bytes)
        if self._loading is None:
            self._loading = self._streams.grant(self._comb_start, window_bytes)
            return True
        return self._streams.widen(self._loading, window_bytes)
