"""One range on its way from the store into a sink, across as many GETs as it takes.

The *position* is what makes a broken body resumable: it moves with every byte handed over, and the next GET starts
there. It is written by the thread that reads the body and read by the trio task only once that thread is done.

A thread that hangs in a read cannot be stopped, but it can be told. ``abandon`` does: from then on the sink is not
called again, and a view that is being filled at that moment is waited for (``settled``) after its connection was shut
down under it. So when a fetch has ended, in whatever way, nobody writes to the sink's memory any more. Bytes that
come in after ``abandon`` are never reported: a TLS socket that is shut down hands out what it cannot decrypt.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tigrismount.errors import ObjectUnavailableError
from tigrismount.objects.failures import translated

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.core.types import ObjectId
    from tigrismount.objects.client import FetchSink
    from tigrismount.objects.ranges import Body
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
        self.sent_s: float | None = None
        """When the present GET was sent, by the monotonic clock; None before. Written by its thread."""
        self.answered_s: float | None = None
        """When its answer began; None before."""
        self.answered_at = start
        """First byte that it brings."""
        self._sink = sink
        self._lock = threading.Lock()
        """Held around each call of the sink, so that none comes after ``abandon``."""
        self._abandoned = False
        self._reading: Body | None = None
        """The body that fills a view now."""
        self._settled = threading.Event()

    @property
    def complete(self) -> bool:
        """Whether every byte was handed over."""
        return self.position == self.stop

    def line_up(self) -> None:
        """Note that a GET for what is left waits for its turn; the one before has ended."""
        self.answered_s = self.sent_s = None

    def send(self, now_s: float) -> None:
        """Note that a GET for what is left is sent now."""
        self.answered_s, self.sent_s = None, now_s

    def answer(self, now_s: float) -> None:
        """Note that its answer began now."""
        self.answered_at, self.answered_s = self.position, now_s

    def next_memory(self) -> memoryview:
        """Return where the next bytes will go, before a GET for them is sent; empty where they are not wanted."""
        with self._lock:
            return memoryview(b"") if self._abandoned else self._sink.next_view()

    def successor(self) -> Transfer:
        """Return a transfer of what is left; only once this one was abandoned and has settled."""
        return Transfer(self.obj, self.position, self.stop, self._sink)

    def abandon(self) -> bool:
        """Call the sink no more, and cut short a read that is filling a view.

        Returns:
            Whether there is such a read; then ``settled`` tells its end.
        """
        with self._lock:
            self._abandoned = True
            if self._reading is None:
                return False
            self._reading.interrupt()
            return True

    @property
    def has_settled(self) -> bool:
        """Whether the read that ``abandon`` cut short has ended."""
        return self._settled.is_set()

    def settled(self) -> None:
        """Return once the read that ``abandon`` cut short has ended. Blocks: call it in a thread."""
        self._settled.wait()

    def receive(self, body: Body, target: Target, on_bytes: Callable[[int], None]) -> None:
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
            view = self._take_view(body, limit_bytes)
            if not view:
                return
            count = 0
            try:
                with translated(target):
                    count = body.readinto(view)
            finally:
                self._give_back(count)
            on_bytes(count)
            if not count:
                raise self._ended_early()

    def _take_view(self, body: Body, limit_bytes: int) -> memoryview:
        with self._lock:
            if self._abandoned:
                return memoryview(b"")
            view = self._sink.next_view()[: min(limit_bytes, self.stop - self.position)]
            self._reading = body if view else None
            return view

    def _give_back(self, count: int) -> None:
        """End the use of a view; also after a failed read, so that the sink knows."""
        with self._lock:
            self._reading = None
            if self._abandoned:
                self._settled.set()
                return
            self.position += count
            self._sink.wrote(count)

    def _ended_early(self) -> ObjectUnavailableError:
        detail = f"the body ended {self.stop - self.position} bytes early"
        return ObjectUnavailableError(detail, bucket=self.obj.bucket, key=self.obj.key)
