"""Runs a GET, and gives it up when it lags far behind the others, so that its rest is asked for again.

``core.pace`` decides; here is what it takes: a task beside the GET that looks at it from time to time (and judges
nobody while this machine itself is slow), and the rule that nobody writes to the sink any more before another GET may.
A GET that waits for its first byte cannot be stopped; its thread is left behind, holds its place in the lane until the
answer or the timeout comes, and hands nothing over.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from tigrismount import threads
from tigrismount.core.pace import Pace, Watch
from tigrismount.errors import ObjectError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tigrismount.objects.transfer import Transfer

_NO_ROOM_S = 0.1
"""When to look again where no other GET could go: this one may come through by itself."""
_PUNCTUAL_S = 0.01
"""A look that comes later than this says that this machine is what is slow, and judges nobody."""
_LOOK_S = 0.01
"""How often to see whether a read has ended where no thread can wait for it; it was cut short."""
_SETTLE = 4.0
"""After such a look, the next comes in this many times what it was late."""


class Stragglers:
    """Watches the GETs of one client.

    Args:
        has_room: Tells whether another GET could be sent at once; without that giving one up gains nothing.
        on_given_up: Told of each GET that was given up.
    """

    def __init__(self, has_room: Callable[[], bool], on_given_up: Callable[[], None]) -> None:
        self._pace = Pace()
        self._has_room = has_room
        self._on_given_up = on_given_up

    async def run(self, transfer: Transfer, get: Callable[[], Awaitable[None]]) -> bool:
        """Run one GET to its end, or until it is given up.

        Args:
            transfer: What it brings; afterwards abandoned and settled if the GET was given up.
            get: Sends it. Cancelled when it lags.

        Returns:
            Whether nothing is left to ask for: it ended by itself, or its last byte came while it was given up.

        Raises:
            ObjectError: What *get* raised.
        """
        error: ObjectError | None = None
        ended = False
        transfer.line_up()  # else it is judged by the times of the try before
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_behind, transfer, nursery.cancel_scope)
            try:
                await get()
                ended = True
            except ObjectError as exc:
                error = exc
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error
        if ended:
            self._note(transfer)
            return True
        self._on_given_up()
        await settle(transfer)
        return transfer.complete

    async def _cancel_when_behind(self, transfer: Transfer, scope: trio.CancelScope) -> None:
        watch = Watch(self._pace, transfer.stop - transfer.position)
        while True:
            answered_s = transfer.answered_s
            received_bytes = transfer.position - transfer.answered_at if answered_s is not None else 0
            wait_s = watch.look(time.monotonic(), transfer.sent_s, answered_s, received_bytes)
            if wait_s <= 0.0:
                if self._has_room() and self._pace.give_up():
                    scope.cancel()
                    return
                wait_s = _NO_ROOM_S
            while (late_s := await _sleep(wait_s)) > _PUNCTUAL_S:
                wait_s = _SETTLE * late_s

    def _note(self, transfer: Transfer) -> None:
        if transfer.complete and transfer.sent_s is not None and transfer.answered_s is not None:
            first_byte_s = transfer.answered_s - transfer.sent_s
            body_s = time.monotonic() - transfer.answered_s
            self._pace.ended(first_byte_s, body_s, transfer.stop - transfer.answered_at)


async def _sleep(seconds: float) -> float:
    """Return how much later than asked for this task went on."""
    due_s = trio.current_time() + seconds
    await trio.sleep(seconds)
    return trio.current_time() - due_s


async def settle(transfer: Transfer) -> None:
    """Take the transfer from its sink; once this returns, nobody writes to the sink's memory on its behalf."""
    if transfer.abandon():
        with trio.CancelScope(shield=True):
            try:
                await threads.run_sync(transfer.settled)
            except threads.NoThreadError:
                while not transfer.has_settled:  # noqa: ASYNC110 - what ends is a thread
                    await trio.sleep(_LOOK_S)
