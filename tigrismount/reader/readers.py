"""All readers of one mount: one per object version, shared by everybody who has it open.

A reader outlives its last close for a while, since loaders open a file, look at its header, close it and open it
again: its layout and what was learned of it are still there. What it had asked for ahead is withdrawn meanwhile.
What belongs together, and what is fetched of it before anybody reads, is the business of ``reader.model``; the orders
in which files are read, and are kept when they are closed, that of ``reader.orders``.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

import trio

from tigrismount.core.loadlog import NoLog
from tigrismount.core.types import Priority
from tigrismount.formats.registry import format_of
from tigrismount.reader.file_reader import FileReader
from tigrismount.reader.guard import guarded
from tigrismount.reader.model import Models
from tigrismount.reader.orders import Orders
from tigrismount.reader.probe import MAX_TENSORS, Probe
from tigrismount.reader.statistics import ReadersStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tigrismount.blocks.base import BlockSource
    from tigrismount.cache.base import RecordStore
    from tigrismount.core.loadlog import LoadLog
    from tigrismount.core.types import ObjectId
    from tigrismount.formats.registry import TensorFormat
    from tigrismount.reader.model import Siblings
    from tigrismount.reader.options import ReaderConfig
    from tigrismount.reader.pushes import PushHook

MAX_KEPT = 256
"""Readers kept after their last close: the shards of the largest models, at a few kilobytes each."""


class Readers:
    """Opens and closes readers.

    Args:
        store: Where bytes are.
        config: Limits of plans.
        log: Told what load reports are made of; None where nobody wants them.
        max_kept: Readers kept after their last close.
        max_tensors: Tensors in remembered layouts.
        siblings: Tells the files beside one, so that models are planned as such.
        records: Where learned orders are kept.
        fill_limit_bytes: Largest file that a disk cache is filled with once it is read in earnest; 0 without one.
        pushes: Told what is read and what will be.
    """

    def __init__(
        self,
        store: BlockSource,
        config: ReaderConfig,
        log: LoadLog | None = None,
        *,
        max_kept: int = MAX_KEPT,
        max_tensors: int = MAX_TENSORS,
        siblings: Siblings | None = None,
        records: RecordStore | None = None,
        fill_limit_bytes: int = 0,
        pushes: PushHook | None = None,
    ) -> None:
        self._store = store
        self._config = config
        self._log = log or NoLog()
        self._pushes = pushes
        self._max_kept = max_kept
        self._probe = Probe(store, max_tensors=max_tensors)
        self._models = Models(store, config, peek=self._peek, siblings=siblings, nursery=lambda: self._nursery)
        self._orders = Orders(records) if records is not None and config.prefetch == "auto" else None
        self._fill_limit_bytes = fill_limit_bytes
        self._nursery: trio.Nursery | None = None
        self._open: dict[ObjectId, FileReader] = {}
        """Readers in use."""
        self._kept: OrderedDict[ObjectId, FileReader] = OrderedDict()
        """Readers nobody uses, least recently closed first."""
        self._dropped_plans = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the probes until cancelled; without it reads work and nothing is learned from headers."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def open(self, obj: ObjectId, key: str) -> FileReader:
        """Return the reader of *obj*; makes no request.

        Args:
            obj: Version to read.
            key: Name that says what kind of file to expect.
        """
        reader = self._open.get(obj)
        if reader is None:
            reader = self._open[obj] = self._kept.pop(obj) if obj in self._kept else self._make(obj, key)
            self._store.retain(obj)
        reader.users += 1
        if reader.users == 1:
            self._models.opened(obj, key)
        return reader

    def close(self, reader: FileReader) -> None:
        """Say that one of those who opened *reader* has closed it."""
        reader.users -= 1
        if reader.users:
            return
        del self._open[reader.obj]
        self._keep_order(reader)
        reader.withdraw()
        self._store.release(reader.obj)
        self._keep(reader)
        self._models.closed(reader.obj)

    async def likely_whole(self, obj: ObjectId) -> bool:
        """Tell whether who opens *obj* will read all of it: not where only a part was read last, nor without plans."""
        return self._orders is not None and not await self._orders.was_partial(obj)

    async def following(self, obj: ObjectId) -> Sequence[ObjectId]:
        """Return the shards of a model that are read after *obj*, in order; none where nobody can tell."""
        return await self._models.following(obj)

    def statistics(self) -> ReadersStatistics:
        """Return counters and gauges."""
        readers = [*self._open.values(), *self._kept.values()]
        return ReadersStatistics(
            open=len(self._open),
            kept=len(self._kept),
            plans=self._dropped_plans + sum(reader.plans for reader in readers),
            probes=self._probe.probes,
            layouts=self._probe.remembered,
            format_errors=self._probe.format_errors,
            probe_errors=self._probe.probe_errors,
            models=self._models.remembered,
            orders_followed=self._orders.found if self._orders is not None else 0,
            orders_learned=self._orders.kept if self._orders is not None else 0,
        )

    def _peek(self, obj: ObjectId) -> FileReader:
        """Return the reader of *obj* without opening it."""
        reader = self._open.get(obj) or self._kept.get(obj)
        if reader is None:
            reader = self._make(obj, obj.key)
            self._keep(reader)
        return reader

    def _keep(self, reader: FileReader) -> None:
        self._kept[reader.obj] = reader
        if len(self._kept) > self._max_kept:
            dropped = self._kept.popitem(last=False)[1]
            dropped.grant(0, Priority.LATER)
            self._dropped_plans += dropped.plans

    def _make(self, obj: ObjectId, key: str) -> FileReader:
        tensor_format = format_of(key) if self._config.prefetch == "auto" else None
        small = obj.size_bytes <= self._config.block_bytes
        layout = self._probe.known(obj) if tensor_format is not None and not small else None
        learns = not small and (self._orders is not None or (tensor_format is not None and layout is None))
        reader = FileReader(
            obj,
            self._store,
            self._config,
            self._log,
            on_begin=partial(self._start_learning, tensor_format) if learns else None,
            announced=tensor_format is not None and layout is None and not small,
            on_plan=self._models.said,
            pushes=self._pushes,
            fills_disk=obj.size_bytes <= self._fill_limit_bytes,
        )
        if layout is not None:
            reader.learn(layout)
        return reader

    def _start_learning(self, tensor_format: TensorFormat | None, reader: FileReader) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(guarded, self._learn, tensor_format, reader)

    async def _learn(self, tensor_format: TensorFormat | None, reader: FileReader) -> None:
        """Find out what is in the file and how it was read last; what was read of it meanwhile is known then."""
        assert reader.plan is not None
        order = await self._orders.find(reader.obj, None) if self._orders is not None else None
        if order is not None:
            reader.follow(order)
        layout = reader.plan.layout
        if layout is None and tensor_format is not None:
            layout = await self._probe.find(reader.obj, tensor_format)
            if layout is not None:
                reader.learn(layout)
        if order is None and layout is not None and self._orders is not None:
            order = await self._orders.find(reader.obj, layout)
            if order is not None:
                reader.follow(order)

    def _keep_order(self, reader: FileReader) -> None:
        """Keep the order in which a file was read, now that nobody reads it any more."""
        order = reader.plan.learned() if reader.plan is not None else None
        if order is None or self._orders is None or self._nursery is None:
            return
        assert reader.plan is not None
        reader.plan.follow(order)
        self._nursery.start_soon(guarded, self._orders.keep, reader.obj, reader.plan.layout, order)
