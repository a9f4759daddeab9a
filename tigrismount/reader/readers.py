"""All readers of one mount: one per object version, shared by everybody who has it open.

A reader outlives its last close for a while, since loaders open a file, look at its header, close it and open it
again: its streams and its layout are still there. What it had asked for ahead is withdrawn meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

import trio

from tigrismount.core.loadlog import NoLog
from tigrismount.formats.registry import format_of
from tigrismount.reader.file_reader import FileReader
from tigrismount.reader.probe import MAX_TENSORS, Probe
from tigrismount.reader.statistics import ReadersStatistics

if TYPE_CHECKING:
    from tigrismount.blocks.base import BlockSource
    from tigrismount.core.loadlog import LoadLog
    from tigrismount.core.types import ObjectId
    from tigrismount.formats.registry import TensorFormat
    from tigrismount.reader.options import ReaderConfig

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
    """

    def __init__(
        self,
        store: BlockSource,
        config: ReaderConfig,
        log: LoadLog | None = None,
        *,
        max_kept: int = MAX_KEPT,
        max_tensors: int = MAX_TENSORS,
    ) -> None:
        self._store = store
        self._config = config
        self._log = log or NoLog()
        self._max_kept = max_kept
        self._probe = Probe(store, max_tensors=max_tensors)
        self._nursery: trio.Nursery | None = None
        self._open: dict[ObjectId, tuple[FileReader, int]] = {}
        """Readers in use, and by how many."""
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
        reader, users = self._open.get(obj, (None, 0))
        if reader is None:
            reader = self._kept.pop(obj) if obj in self._kept else self._make(obj, key)
            self._store.retain(obj)
        self._open[obj] = (reader, users + 1)
        return reader

    def close(self, reader: FileReader) -> None:
        """Say that one of those who opened *reader* has closed it."""
        _, users = self._open[reader.obj]
        if users > 1:
            self._open[reader.obj] = (reader, users - 1)
            return
        del self._open[reader.obj]
        reader.withdraw()
        self._store.release(reader.obj)
        self._kept[reader.obj] = reader
        if len(self._kept) > self._max_kept:
            self._dropped_plans += self._kept.popitem(last=False)[1].plans

    def statistics(self) -> ReadersStatistics:
        """Return counters and gauges."""
        readers = [*(reader for reader, _ in self._open.values()), *self._kept.values()]
        return ReadersStatistics(
            open=len(self._open),
            kept=len(self._kept),
            plans=self._dropped_plans + sum(reader.plans for reader in readers),
            probes=self._probe.probes,
            layouts=self._probe.remembered,
            format_errors=self._probe.format_errors,
            probe_errors=self._probe.probe_errors,
        )

    def _make(self, obj: ObjectId, key: str) -> FileReader:
        tensor_format = format_of(key) if self._config.prefetch == "auto" else None
        if tensor_format is None or obj.size_bytes <= self._config.block_bytes:
            return FileReader(obj, self._store, self._config, self._log)
        layout = self._probe.known(obj)
        if layout is None:
            return FileReader(obj, self._store, self._config, self._log, partial(self._start_probe, tensor_format))
        reader = FileReader(obj, self._store, self._config, self._log)
        reader.learn(layout)
        return reader

    def _start_probe(self, tensor_format: TensorFormat, reader: FileReader) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._learn, tensor_format, reader)

    async def _learn(self, tensor_format: TensorFormat, reader: FileReader) -> None:
        layout = await self._probe.find(reader.obj, tensor_format)
        if layout is not None:
            reader.learn(layout)
