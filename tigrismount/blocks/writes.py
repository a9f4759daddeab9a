"""Whole blocks on their way to the disk cache. Trouble there costs speed and one line in the log, never a read."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from tigrismount.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.blocks.part import Block

log = logging.getLogger(__name__)


class DiskWrites:
    """Writes blocks to the disk cache and knows when all are written.

    Args:
        nursery: Gives the nursery that writes run in.
        on_done: Told a block that was written or refused; takes back the pin that kept its buffer.
    """

    def __init__(self, nursery: Callable[[], trio.Nursery], on_done: Callable[[Block], None]) -> None:
        self._nursery = nursery
        self._on_done = on_done
        self._writing = 0
        self._idle = trio.Event()

    def keep(self, block: Block) -> None:
        """Write *block*, which is complete, unless the disk has it or there is none."""
        cached = block.state.cached
        if block.on_disk or cached is None or cached.has(block.index):
            block.settle()
            return
        block.pins += 1
        block.writing = True
        self._writing += 1
        self._nursery().start_soon(self._write, block)

    async def drain(self) -> None:
        """Wait until every block is on the disk, or the cache has refused it."""
        while self._writing:
            await self._idle.wait()

    async def _write(self, block: Block) -> None:
        assert block.buffer is not None
        assert block.state.cached is not None
        try:
            block.on_disk = await block.state.cached.write_block(block.index, block.buffer, block.length_bytes)
        except CacheError as exc:
            log.warning("not cached: %s", exc)
        finally:
            block.writing = False
            block.settle()
            self._writing -= 1
            if not self._writing:
                self._idle.set()
                self._idle = trio.Event()
            self._on_done(block)
