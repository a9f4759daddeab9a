"""Proves versions in the background: reads back and verifies what the next read of the cache would have to.

A file can be left to the kernel once nothing of it needs a look any more (``fuse.passthrough``). Its readers prove what
they read; what they did not read from the disk, or had from memory while it was fetched, is read here when nobody else
wants anything, one block at a time. A block that fails is dropped, as when a reader meets it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from tigrismount.cache.base import block_memory
from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.cache.base import BlockCache, CachedObject
    from tigrismount.core.types import ObjectId

log = logging.getLogger(__name__)

_MOST_WAITING = 1000
"""Versions that may wait; beyond it the oldest is left out, and stays as it is until it is read again."""
_QUIET_LOOK_S = 0.25
"""How often it is looked whether the store is quiet."""


class Prover:
    """Proves versions of one cache.

    Args:
        cache: Where they are.
        quiet: Tells whether nobody is fetching or reading at the moment.
    """

    def __init__(self, cache: BlockCache, *, quiet: Callable[[], bool]) -> None:
        self._cache = cache
        self._quiet = quiet
        self._waiting: OrderedDict[ObjectId, None] = OrderedDict()
        self._woken = trio.Event()

    def note(self, obj: ObjectId) -> None:
        """Prove *obj* some time, if it is wholly cached then. Never waits."""
        self._waiting[obj] = None
        if len(self._waiting) > _MOST_WAITING:
            self._waiting.popitem(last=False)
        self._woken.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Prove what is noted, until cancelled."""
        task_status.started()
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            while self._waiting:
                obj, _ = self._waiting.popitem(last=False)
                await self._prove(obj)

    async def _prove(self, obj: ObjectId) -> None:
        """Prove a version, which is not open while others go first: they may need its room on the disk."""
        more = True
        while more:
            await self._let_others_go_first()
            cached = await self._cache.open_object(obj)
            try:
                more = await self._prove_blocks(cached)
            except CacheError as exc:
                log.info("not proven: %s", exc)
                return
            finally:
                cached.close()

    async def _prove_blocks(self, cached: CachedObject) -> bool:
        """Prove blocks while nobody else wants anything; return whether to come back for the rest."""
        unproven = cached.unproven()
        if not unproven:
            return False
        with block_memory(cached.block_bytes) as buffer:
            for index in unproven:
                await cached.read_block(index, buffer, check=True)
                await trio.lowlevel.checkpoint()
                if not self._quiet():
                    return index != unproven[-1]
        return False

    async def _let_others_go_first(self) -> None:
        await trio.lowlevel.checkpoint()
        # A look now and then: reads must not pay for telling us that they ended.
        while not self._quiet():  # noqa: ASYNC110
            await trio.sleep(_QUIET_LOOK_S)
