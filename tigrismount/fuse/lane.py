"""The fast lane: requests are read from the kernel here, and only some of them go on to the library.

The library can neither answer OPEN with a backing file nor say a word of its own at INIT. It has a socket instead of
the kernel's descriptor all the same, for INIT (``session``); here it keeps it. So this loop reads every request and

- answers READ itself, from the same ``Adapter``: the bytes go to the kernel in one call that lets go of the
  interpreter's lock, and never through the socket;
- answers OPEN and RELEASE of files that are open onto a file of the disk cache, where there are any (``passthrough``);
- takes INTERRUPT for a word to whoever waits for an OPEN, since the kernel lets nobody die before it is answered, and
  drops any other: nothing that it could stop would notice;
- hands everything else to the library and its answers to the kernel (``relay``).

What is in service is known here, so giving up the connection is simple: read no more, and wait for what is there. The
order of requests is kept where it matters: the library gets what it gets in the order in which it came.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Protocol

import pyfuse3
import trio

from tigrismount.fuse import wire
from tigrismount.fuse.adapter import is_for_writing

if TYPE_CHECKING:
    from tigrismount.blocks.base import Buffer
    from tigrismount.fuse.kernel import Kernel
    from tigrismount.fuse.passthrough import Passthrough
    from tigrismount.fuse.relay import Relay

log = logging.getLogger(__name__)

_BATCH = 16
"""Requests taken before others of this process have their turn."""
_OVER = frozenset({errno.ENODEV, errno.ECONNABORTED})
"""What reading says once the connection has ended."""
_GONE = frozenset({errno.ENOENT, errno.EINTR})
"""What it says when a request was taken back while it was being read."""


class Reads(Protocol):
    """Answers READs: ``fuse.adapter.Adapter``."""

    def read_now(self, fh: int, off: int, size: int) -> Buffer | None:
        """Return what ``read`` would, where that takes no wait; else None."""

    async def read(self, fh: int, off: int, size: int) -> Buffer:
        """Return exactly the bytes there are.

        Raises:
            FUSEError: They cannot be had.
        """

    def end_reads(self, fh: int) -> None:
        """Note that nobody has a file open any more whose OPEN was not answered there; never fails."""


class Lane:
    """Serves one connection.

    Args:
        reads: Answers READs.
        kernel: The connection, attached; its descriptor must not block.
        relay: The library.
        through: Decides which files are opened onto files of the cache; None where none is.
        request_bytes: Room that the kernel wants for a request, see ``wire.request_bytes``.
    """

    def __init__(
        self,
        reads: Reads,
        kernel: Kernel,
        relay: Relay,
        through: Passthrough | None,
        request_bytes: int = wire.MAX_REQUEST_BYTES,
    ) -> None:
        self._request_bytes = request_bytes
        self._reads = reads
        self._kernel = kernel
        self._relay = relay
        self._through = through
        self._taking = trio.CancelScope()
        self._in_service = 0
        self._done = trio.Event()
        self._choosing: dict[int, list[bytearray]] = {}
        """OPENs that wait until it is known how their node is to be opened."""

    async def run(self) -> None:
        """Serve until the connection ends or :meth:`stop`, and then what is in service to its end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._relay.run)
            with self._taking:
                await self._take(nursery)
            if self._through is not None:
                self._through.hurry()
            await self._settled()
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Take no more requests."""
        self._taking.cancel()

    async def _take(self, nursery: trio.Nursery) -> None:
        message = memoryview(bytearray(self._request_bytes))
        while True:
            await trio.lowlevel.wait_readable(self._kernel.fd)
            for _ in range(_BATCH):
                try:
                    length = os.readv(self._kernel.fd, [message])
                except BlockingIOError:
                    break
                except OSError as exc:
                    if exc.errno in _OVER:
                        return
                    if exc.errno not in _GONE:
                        raise
                    continue
                self._dispatch(nursery, message[:length])

    async def _settled(self) -> None:
        while self._in_service or self._choosing:
            self._done = trio.Event()
            await self._done.wait()
        while not self._relay.is_idle:
            await self._relay.changed()
            await trio.lowlevel.checkpoint()

    def _dispatch(self, nursery: trio.Nursery, message: memoryview) -> None:
        request = wire.parse_request(message)
        if request.opcode == wire.READ:
            self._read(nursery, request, message)
        elif request.opcode == wire.OPEN and self._through is not None:
            self._open(nursery, self._through, request, message)
        elif request.opcode == wire.RELEASE and self._through is not None:
            self._release(self._through, request, message)
        elif request.opcode != wire.INTERRUPT:
            self._relay.hand(message)
        elif self._through is not None:
            self._interrupt(self._through, wire.parse_interrupt(message))

    # ------------------------------------------------------------------ reading

    def _read(self, nursery: trio.Nursery, request: wire.Request, message: memoryview) -> None:
        asked = wire.parse_read(message)
        found = self._reads.read_now(*asked)
        if found is None:
            self._in_service += 1
            nursery.start_soon(self._read_later, request.unique, asked)
        else:
            self._answer_read(request.unique, asked.fh, found)

    def _answer_read(self, unique: int, node_id: int, data: Buffer) -> None:
        if self._kernel.answer(wire.answer(unique, len(data)), data):
            self._kernel.note_sent(node_id, len(data))

    async def _read_later(self, unique: int, asked: wire.ReadRequest) -> None:
        try:
            self._answer_read(unique, asked.fh, await self._reads.read(*asked))
        except pyfuse3.FUSEError as exc:
            self._kernel.answer(wire.answer(unique, error=exc.errno))
        finally:
            self._in_service -= 1
            self._done.set()

    # ------------------------------------------------------------------ opening

    def _open(self, nursery: trio.Nursery, through: Passthrough, request: wire.Request, message: memoryview) -> None:
        node_id = request.node_id
        if is_for_writing(wire.parse_open_flags(message)):
            self._relay.hand(message)  # is refused; onto a file of the cache it would change what is cached
            return
        if node_id in self._choosing:
            self._choosing[node_id].append(bytearray(message))
            return
        is_through = through.choice(node_id)
        if is_through is None:
            self._choosing[node_id] = [bytearray(message)]
            nursery.start_soon(self._choose, through, node_id)
        else:
            self._answer_open(through, request, message, is_through=is_through)

    def _interrupt(self, through: Passthrough, unique: int) -> None:
        """Keep nobody waiting for a proof who was sent a signal: it may be one to die of."""
        for node_id, waiting in self._choosing.items():
            if any(wire.parse_request(memoryview(message)).unique == unique for message in waiting):
                through.give_up(node_id)

    async def _choose(self, through: Passthrough, node_id: int) -> None:
        try:
            is_through = await through.find(node_id)
        finally:
            waiting = self._choosing.pop(node_id)
            self._done.set()
        for message in waiting:
            with memoryview(message) as view:
                self._answer_open(through, wire.parse_request(view), view, is_through=is_through)

    def _answer_open(
        self, through: Passthrough, request: wire.Request, message: memoryview, *, is_through: bool
    ) -> None:
        if not is_through:
            counted = through.count_cached(request.node_id)
            self._relay.hand(
                message, lambda opened: through.uncount(request.node_id) if counted and not opened else None
            )
            return
        backing_id = through.count_through(request.node_id)
        if not self._kernel.answer(wire.answer_open(request.unique, request.node_id, backing_id)):
            through.uncount(request.node_id)

    def _release(self, through: Passthrough, request: wire.Request, message: memoryview) -> None:
        if through.is_through(request.node_id):
            self._kernel.answer(wire.answer(request.unique))
            through.uncount(request.node_id)
            if not through.is_through(request.node_id):
                # READs may have come all the same: posix_fadvise(2) has the kernel read ahead past the backing file.
                self._reads.end_reads(request.node_id)
        else:
            self._relay.hand(message, lambda _: through.uncount(request.node_id))
