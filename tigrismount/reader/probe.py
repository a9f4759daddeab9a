"""From an object to its layout: reads the header of a tensor file through the block store and parses it.

A probe has the lowest priority and nobody waits for it. Its requests find the bytes that the loader itself is asking
for, so it seldom costs one of its own. Whatever goes wrong costs the plan and one line in the log.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from tigrismount.core.types import Priority
from tigrismount.errors import ForeignFormatError, FormatError, ObjectError
from tigrismount.reader.describe import drive

if TYPE_CHECKING:
    from tigrismount.blocks.base import BlockSource
    from tigrismount.core.layout import Layout
    from tigrismount.core.types import ObjectId
    from tigrismount.formats.registry import TensorFormat

log = logging.getLogger(__name__)

MAX_PROBED_BYTES = 16 << 20
"""Longest header that is parsed in the daemon: about 150,000 tensors, several times the largest model files of today.
JSON takes up to 20 times its size in memory while it is parsed, and the format would allow 100 MB of it."""
MAX_TENSORS = 100_000
"""Tensors of all layouts that are remembered, at about 300 bytes each; the layout used last stays in any case."""
MAX_LAYOUTS = 512
"""Layouts that are remembered, however small: the shards of the largest model, as everywhere."""


class Probe:
    """Finds and remembers layouts.

    Args:
        store: Where headers are read.
        max_tensors: Tensors in remembered layouts.
    """

    def __init__(self, store: BlockSource, *, max_tensors: int = MAX_TENSORS) -> None:
        self._store = store
        self._max_tensors = max_tensors
        self._layouts: OrderedDict[ObjectId, Layout] = OrderedDict()
        self._tensors = 0
        self.probes = 0
        """Headers asked for."""
        self.format_errors = 0
        """Headers that were refused."""
        self.probe_errors = 0
        """Headers that could not be read."""

    @property
    def remembered(self) -> int:
        """Layouts in memory."""
        return len(self._layouts)

    def known(self, obj: ObjectId) -> Layout | None:
        """Return the layout of *obj* when it is remembered. Never waits."""
        layout = self._layouts.get(obj)
        if layout is not None:
            self._layouts.move_to_end(obj)
        return layout

    async def find(self, obj: ObjectId, tensor_format: TensorFormat) -> Layout | None:
        """Return the layout of *obj*, or None when its header cannot be had or lies; never raises for either."""
        self.probes += 1
        try:
            layout = await self._read(obj, tensor_format)
        except FormatError as exc:
            foreign = isinstance(exc, ForeignFormatError)
            self.format_errors += not foreign
            exc.bucket, exc.key = obj.bucket, obj.key
            level = logging.INFO if foreign else logging.WARNING
            log.log(level, "no plan for this %s file: %s", tensor_format.name, exc)
        except ObjectError as exc:
            self.probe_errors += 1
            log.info("no plan for this %s file, its header cannot be read: %s", tensor_format.name, exc)
        else:
            self._remember(obj, layout)
            return layout
        return None

    async def _read(self, obj: ObjectId, tensor_format: TensorFormat) -> Layout:
        async def read(start: int, stop: int) -> bytes:
            # A copy: the store's view is only good until the next ``await``.
            return bytes(await self._store.read(obj, start, stop, Priority.PREFETCH))

        parsing = tensor_format.begin(obj.size_bytes, MAX_PROBED_BYTES)
        await drive(parsing, read)
        return parsing.layout

    def _remember(self, obj: ObjectId, layout: Layout) -> None:
        known = self._layouts.pop(obj, None)  # by two readers of one file, where the first was not kept
        self._tensors -= len(known.tensors) if known is not None else 0
        self._layouts[obj] = layout
        self._tensors += len(layout.tensors)
        while len(self._layouts) > MAX_LAYOUTS or (self._tensors > self._max_tensors and len(self._layouts) > 1):
            self._tensors -= len(self._layouts.popitem(last=False)[1].tensors)
