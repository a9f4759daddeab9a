"""One FUSE connection: INIT replayed to the library, then the kernel's descriptor in its place, or a lane before it.

The process that mounted has read the kernel's INIT request already and keeps it, so that any worker can be put behind
a live mount. We give pyfuse3 one end of a socket pair, send it that INIT, take its reply, and only then either replace
the socket by the kernel's descriptor, or keep it and stand between the two (``lane``). A first start and a take-over
are the same code; which of the two it is, the answer to INIT says, for the life of the connection.

pyfuse3 keeps one session per process in module globals: one ``Session`` per process, too.
"""

from __future__ import annotations

import itertools
import logging
import os
import select
import socket
from functools import partial
from typing import TYPE_CHECKING

import pyfuse3
import trio

from tigrismount.fuse import wire
from tigrismount.fuse.lane import Lane
from tigrismount.fuse.relay import Relay, enlarge

if TYPE_CHECKING:
    from tigrismount.fuse.adapter import Adapter
    from tigrismount.fuse.kernel import Kernel
    from tigrismount.fuse.options import FuseConfig
    from tigrismount.fuse.passthrough import Passthrough

log = logging.getLogger(__name__)

_REPLY_BYTES = 64 << 10
_SOON_S = 0.1
"""How long requests may take that are in service when a successor waits: enough for what is in memory or on the NVMe,
a fraction of the pause that a reader may see."""
_LAST_ANSWERS_S = 1.0
"""How long requests may take that are in service when the mount ends. They had the time that a busy mount is given
before; what still waits then, waits for a store that is away."""
_EAGER_TURNS = 1000
"""Turns of the loop in which a drain asks at each whether somebody waits for a new request: under load one comes at
once, and whoever waits must be caught first."""
_DRAIN_TURN_S = 0.005
_INIT_TIMEOUT_S = 10.0
"""libfuse answers INIT without any I/O; longer means something is badly wrong."""


_LANE_ROOM_BYTES = 4 << 20
"""Answers that the library's socket must take, a thousand look-ups, for a lane that nobody needs: with less, look-ups
that wait for a store that is away would keep others from being answered."""


class Session:
    """The library's side of one connection.

    Args:
        operations: The handlers.
        kernel: Gets the descriptor.
    """

    def __init__(self, operations: Adapter, kernel: Kernel) -> None:
        self._operations = operations
        self._kernel = kernel
        self._lane: Lane | None = None
        self._request_bytes = wire.MAX_REQUEST_BYTES
        library, self._ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._room_bytes = enlarge(library)
        self._fd = library.detach()
        os.set_inheritable(self._fd, False)
        self._serving = trio.CancelScope()
        self._served = trio.Event()
        pyfuse3.init(operations, f"/dev/fd/{self._fd}", set())

    async def replay_init(self, init: bytes) -> bytes:
        """Return the library's reply to the kernel's INIT request *init*.

        Raises:
            trio.TooSlowError: The library did not answer.
        """
        reply = b""
        with trio.fail_after(_INIT_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pyfuse3.main)
                self._ours.send(init)
                await trio.lowlevel.wait_readable(self._ours)
                reply = self._ours.recv(_REPLY_BYTES)
                nursery.cancel_scope.cancel()
        self._request_bytes = wire.request_bytes(reply)
        return reply

    def attach(self, fuse_fd: int, *, resend: bool, lane: bool = False, through: Passthrough | None = None) -> None:
        """Begin to speak to the kernel; no task may be waiting for requests.

        Args:
            fuse_fd: The connection, owned from now on.
            resend: Ask the kernel to send requests again that a former worker took with it.
            lane: Whether READs are answered past the library, where its socket has room enough for everything else;
                with *through* they are in any case.
            through: Decides which files are opened onto files of the cache; None where INIT was answered without.
        """
        if through is None and not (lane and self._room_bytes >= _LANE_ROOM_BYTES):
            os.set_blocking(fuse_fd, True)  # a lane before this worker left it otherwise; the library ends at EAGAIN
            os.dup2(fuse_fd, self._fd, inheritable=False)
            os.close(fuse_fd)
            self._ours.close()
            self._kernel.attach(self._fd)
        else:
            os.set_blocking(fuse_fd, False)
            self._kernel.attach(fuse_fd, counts_sent=through is not None)
            relay = Relay(self._ours, self._room_bytes, self._kernel)
            self._lane = Lane(self._operations, self._kernel, relay, through, self._request_bytes)
        if resend:
            self._kernel.resend()

    async def serve(self, config: FuseConfig) -> None:
        """Answer requests until the mount is gone, :meth:`stop` is called or :meth:`release` gives them up."""
        try:
            with self._serving:
                async with trio.open_nursery() as nursery:
                    library = partial(pyfuse3.main, min_tasks=config.min_tasks, max_tasks=config.max_tasks)
                    if self._lane is None:
                        await library()
                    else:
                        nursery.start_soon(library)
                        await self._lane.run()
                        nursery.cancel_scope.cancel()
        finally:
            self._served.set()

    async def release(self, *, cancel: bool) -> bool:
        """Take no new requests, and return once none is in service; tell whether some may have been left unanswered.

        Once libfuse has been told to stop it drops a request that it reads at that moment. So where the kernel is
        not going to be asked to send requests again, it is not told: its readers are only kept from waiting for more.

        Args:
            cancel: Give up what is not answered soon: whoever serves next has the kernel send it again.
        """
        if cancel:
            self._end()
            with trio.move_on_after(_SOON_S):
                await self._served.wait()
            self._serving.cancel()
            await self._served.wait()
            return True
        if self._lane is not None:
            self._lane.stop()
            await self._served.wait()
            return False
        pauses_s = itertools.chain(itertools.repeat(0.0, _EAGER_TURNS), itertools.repeat(_DRAIN_TURN_S))
        while not self._served.is_set():
            trio.lowlevel.notify_closing(self._fd)  # those that wait for a request end; others come to wait later
            await trio.sleep(next(pauses_s))
        return False

    def stop(self) -> None:
        """Take no new requests; :meth:`serve` returns once those in service are answered, or given up as too slow.

        Where the kernel has ended the connection they are given up at once: nobody can be answered any more. Call in
        the trio thread.
        """
        self._end()
        self._serving.deadline = trio.current_time() + (_LAST_ANSWERS_S if self._is_connected() else 0.0)

    def _end(self) -> None:
        if self._lane is None:
            pyfuse3.terminate()
        else:
            self._lane.stop()

    def _is_connected(self) -> bool:
        if self._kernel.fd < 0:  # not attached yet
            return True
        poll = select.poll()
        poll.register(self._kernel.fd, 0)
        return not poll.poll(0)

    def close(self) -> None:
        """Release the library's memory; the mount itself belongs to the holder."""
        pyfuse3.close(unmount=False)
