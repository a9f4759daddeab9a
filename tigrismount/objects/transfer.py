"""One range on its way from the store into a sink, across as many GETs as it takes.

The *position* is what makes a broken body resumable: it moves with every byte handed over, and the next GET starts
there. It is written by the thread that reads the body and read by the trio task only once that thread is done.

A thread that hangs in a read cannot be stopped, only left behind. Two things keep that harmless. After
``abandon`` no further view is asked for. And every view that was asked for is answered by exactly one ``wrote``, also
when the read failed (with 0), so that the sink knows when its memory is no longer being written to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tigrismount.errors import ObjectUnavailableError
from tigrismount.objects.failures import translated

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.core.types import ObjectId
    from tigrismount.objects.body import BodyReader
    from tigrismount.objects.client import FetchSink
    from tigrismount.objects.responses import Target

READ_BYTES = 1 << 20
"""Most bytes per read: bytes of a read that fails half way are lost to us, and a read must end for others to hear."""

RESUMED_READ_BYTES = 64 << 10
"""The same after a break, so that a connection that never lives long still gets somewhere."""


class Transfer:
    """Bytes ``[start, stop)`` of one object version, wanted in *sink*.

    Args:
        obj: The version.
        start: First byte.
        stop: One past the last byte.
        sink: Where they go.
    """

    def __init__(self, obj: ObjectId, start: int, stop: int, sink: FetchSink) -> None:
        self.obj = obj
        self.start = start
        self.stop = stop
        self.position = start
        self._sink = sink
        self._abandoned = False

    @property
    def complete(self) -> bool:
        """Whether every byte was handed over."""
        return self.position == self.stop

    def abandon(self) -> None:
        """Ask the sink for nothing more; a thread that still reads ends at its next step."""
        self._abandoned = True

    def receive(self, body: BodyReader, target: Target, on_bytes: Callable[[int], None]) -> None:
        """Hand the body over, from the present position on, until it is complete or no longer wanted.

        Args:
            body: Body whose first byte is the one at the position.
            target: What the request is about, for messages.
            on_bytes: Told the size of each read.

        Raises:
            ObjectUnavailableError: The body broke, stalled or ended early.
        """
        limit_bytes = READ_BYTES if self.position == self.start else RESUMED_READ_BYTES
        while not self.complete:
            view = self._next_view(limit_bytes)
            if not view:
                return
            count = 0
            try:
                with translated(target):
                    count = body.readinto(view)
            finally:
                self._sink.wrote(count)
            self.position += count
            on_bytes(count)
            if not count:
                raise self._ended_early()

    def _next_view(self, limit_bytes: int) -> memoryview:
        if self._abandoned:
            return memoryview(b"")
        return self._sink.next_view()[: min(limit_bytes, self.stop - self.position)]

    def _ended_early(self) -> ObjectUnavailableError:
        detail = f"the body ended {self.stop - self.position} bytes early"
        return ObjectUnavailableError(detail, bucket=self.obj.bucket, key=self.obj.key)
