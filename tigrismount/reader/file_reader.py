"""Reads of one object version, watched on their way so that what comes next is fetched meanwhile.

One reader serves every handle, thread and process that has the version open: streams are told apart by position, and
all of them share one plan. Each read is put to the planner *before* it is waited for, so that the fetches ahead start
together with its own. A read found in memory costs one look at the planner, which says at once whether anything
changed; the plan itself is said about once per block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tigrismount.core.loadlog import HIT, LAYOUT, RAM
from tigrismount.core.prefetchplan import LoadPlan
from tigrismount.core.readahead import StreamPolicy, StreamTable
from tigrismount.core.types import Priority

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.blocks.base import BlockSource, Buffer
    from tigrismount.core.layout import Layout
    from tigrismount.core.loadlog import LoadLog
    from tigrismount.core.types import Extent, ObjectId
    from tigrismount.reader.options import ReaderConfig


class Planner(Protocol):
    """Turns observed reads into what is wanted next: ``StreamTable`` or, with a layout, ``LoadPlan``."""

    def observe(self, start: int, stop: int, *, missed: bool) -> bool:
        """Note a read; return whether ``ahead`` says something new."""

    def ahead(self) -> list[Extent]:
        """Return what is wanted now, most urgent first."""


class FileReader:
    """Reads one object version; made by ``Readers.open``.

    Args:
        obj: The version.
        store: Where its bytes are.
        config: Limits of plans.
        log: Told of reads that are answered at once.
        on_first_wait: Called once, when a reader has to wait for the first time; None when nothing is to be learned
            about this file.
    """

    __slots__ = ("_log", "_on_first_wait", "_planner", "_priority", "_store", "_streams", "_withdrawn", "obj", "plans")

    def __init__(
        self,
        obj: ObjectId,
        store: BlockSource,
        config: ReaderConfig,
        log: LoadLog,
        on_first_wait: Callable[[FileReader], None] | None = None,
    ) -> None:
        self.obj = obj
        self.plans = 0
        """Times the plan was said."""
        self._store = store
        self._log = log
        self._on_first_wait = on_first_wait
        self._priority = Priority.READAHEAD
        self._streams: StreamTable | None = None
        if config.prefetch != "off" and obj.size_bytes > config.block_bytes:
            # A known format says itself when reading begins in earnest; a look at its header does not.
            policy = StreamPolicy(
                block_bytes=config.block_bytes,
                max_window_bytes=config.read_ahead_bytes,
                trust_start=on_first_wait is None,
            )
            self._streams = StreamTable(obj.size_bytes, policy)
        self._planner: Planner | None = self._streams
        self._withdrawn = False

    def try_read(self, start: int, stop: int) -> Buffer | None:
        """Return bytes ``[start, stop)`` when all of them are in memory now, else None. Never waits.

        Args:
            start: First byte.
            stop: One past the last byte, at most the object's size.
        """
        found = self._store.try_read(self.obj, start, stop)
        if found is None:
            return None
        now_s = self._log.clock()
        self._log.note((HIT, self.obj, start, stop, now_s, now_s, RAM, ""))
        planner = self._planner
        if planner is not None and (planner.observe(start, stop, missed=False) or self._withdrawn):
            self._say(planner)
        return found

    async def read(self, start: int, stop: int) -> Buffer:
        """Return exactly bytes ``[start, stop)``; a memoryview is valid until the caller's next ``await``.

        Args:
            start: First byte.
            stop: One past the last byte, at most the object's size.

        Raises:
            ObjectError: The store could not give the bytes of this version.
        """
        planner = self._planner
        if planner is not None and (planner.observe(start, stop, missed=True) or self._withdrawn):
            self._say(planner)
        if self._on_first_wait is not None:
            on_first_wait, self._on_first_wait = self._on_first_wait, None
            on_first_wait(self)
        return await self._store.read(self.obj, start, stop, Priority.DEMAND)

    def learn(self, layout: Layout) -> None:
        """Plan by *layout* from now on."""
        assert self._streams is not None, "only files that are planned are probed"
        self._log.note((LAYOUT, self.obj, layout.data_start, layout.data_start, 0.0, self._log.clock(), "", ""))
        self._planner = LoadPlan(layout, self._streams)
        self._priority = Priority.PREFETCH

    def withdraw(self) -> None:
        """Take the plan back, because nobody has the file open; the next read says it again."""
        if self._planner is not None:
            self._store.plan(self.obj, (), self._priority)
            self._withdrawn = True

    def _say(self, planner: Planner) -> None:
        self._withdrawn = False
        self.plans += 1
        self._store.plan(self.obj, planner.ahead(), self._priority)
