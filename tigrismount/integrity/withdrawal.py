"""Takes back what the kernel holds of a version that is refused: pages of it would be served for as long as they stay.

The order keeps the promise that nothing of a refused version is read from then on:

1. it is refused, so that no READ is answered with its bytes and no push begins;
2. pushes under way end;
3. the kernel drops its pages. It waits for those whose READ is under way, which is why that happens in a thread: the
   event loop goes on and answers that READ, with an error;
4. its blocks leave memory. Then nothing is left of it but what the disk cache has: whoever evicts that, and fetches it
   again, gets other bytes, and a reader gets no others.

A process that has the file mapped gets a SIGBUS when it touches it again, which is what an I/O error is to it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from tigrismount import threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from tigrismount.core.types import ObjectId
    from tigrismount.integrity.verdicts import Verdicts

_HELD_LOOK_S = 0.25
"""How often it is looked whether blocks are still held: by reads that have begun, and they end."""
_AT_ONCE = 4
"""Versions taken back at once; one whose READ waits for a store that is away must not keep the others."""


class Withdrawal:
    """Withdraws what is refused, from the moment on when the kernel can be talked to.

    Args:
        verdicts: Which versions are refused.
        nodes_of: Returns the ids under which the kernel may know versions, as far as it may.
        pushes_ended: Returns when no push of a version is under way.
        forget_pages: Makes the kernel drop the pages of a node; blocks, and so is called in threads.
        forget_blocks: Drops a version from memory; tells whether nothing of it is left there.
    """

    def __init__(
        self,
        verdicts: Verdicts,
        nodes_of: Callable[[Collection[ObjectId]], Mapping[ObjectId, int]],
        pushes_ended: Callable[[ObjectId], Awaitable[None]],
        forget_pages: Callable[[int], None],
        forget_blocks: Callable[[ObjectId], bool],
    ) -> None:
        self._verdicts = verdicts
        self._nodes_of = nodes_of
        self._pushes_ended = pushes_ended
        self._forget_pages = forget_pages
        self._forget_blocks = forget_blocks
        self._threads = trio.CapacityLimiter(_AT_ONCE)
        self._busy = 0

    @property
    def is_busy(self) -> bool:
        """Whether a thread is in the kernel."""
        return self._busy > 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Withdraw what is refused already, and what is from now on, until cancelled."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                refused = frozenset(await self._verdicts.newly_refused())
                nodes = self._nodes_of(refused)
                for obj in refused:
                    nursery.start_soon(self._withdraw, obj, nodes.get(obj))

    async def _withdraw(self, obj: ObjectId, node_id: int | None) -> None:
        await self._pushes_ended(obj)
        if node_id is not None:
            await self._take_back_pages(node_id)
        while obj in self._verdicts.refused and not self._forget_blocks(obj):  # noqa: ASYNC110 -- of all reads
            await trio.sleep(_HELD_LOOK_S)

    async def _take_back_pages(self, node_id: int) -> None:
        forget = partial(self._forget_pages, node_id)
        while True:
            self._busy += 1
            try:
                # Who cancels does not wait for the thread, which stays busy then: the library must not be taken down.
                await threads.run_sync(forget, abandon_on_cancel=True, limiter=self._threads)
            except threads.NoThreadError:  # and as long as that is so, nothing may be taken for withdrawn
                self._busy -= 1
                await trio.sleep(_HELD_LOOK_S)
            else:
                self._busy -= 1
                return
