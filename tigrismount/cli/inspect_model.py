"""What ``inspect`` has found out about a model, and how it says so in JSON."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import trio

from tigrismount.core.intervals import Intervals
from tigrismount.core.loadpreview import PlannedExtent, PreviewFile, preview
from tigrismount.core.types import Extent, ObjectId
from tigrismount.errors import FormatError, ObjectError
from tigrismount.reader.describe import Description, describe
from tigrismount.reader.modelfiles import Found, ModelFile, find_by_index, find_model, is_index_name
from tigrismount.reader.orders import find_order

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tigrismount.cli.inspect_places import Holding, InspectedPlace
    from tigrismount.core.layout import TensorExtent

_HEADERS_AT_ONCE = 16
"""Headers read at a time: as many GETs as one connection pool makes without queueing."""
DEFAULT_BLOCK_BYTES = 8 << 20
"""Size of a block where no mount and no cache says another."""


@dataclass
class InspectedFile:
    """One file of the model."""

    file: ModelFile
    """Its name and size."""
    description: Description | None = None
    """What it is, None where it could not be read."""
    error: str = ""
    """Why it could not."""
    holding: Holding | None = None
    """What is cached of it, None where nobody could say."""
    order: tuple[int, ...] | None = None
    """Its blocks in the order in which an earlier load read them, None where none is known."""

    @property
    def tensors(self) -> tuple[TensorExtent, ...]:
        """Its tensors and views of them, in the order of the file."""
        if self.description is None:
            return ()
        layout = self.description.layout
        return tuple(sorted((*layout.tensors, *layout.views), key=lambda tensor: (tensor.start, tensor.stop)))

    @cached_property
    def cached(self) -> Intervals:
        """The bytes of it that are on disk."""
        return Intervals((extent.start, extent.stop) for extent in (self.holding.cached if self.holding else ()))

    @property
    def block_bytes(self) -> int:
        """Size of its blocks."""
        return (self.holding.block_bytes if self.holding else 0) or DEFAULT_BLOCK_BYTES

    def cached_bytes(self, start: int, stop: int) -> int:
        """Return how many bytes of ``[start, stop)`` are on disk."""
        return stop - start - sum(b - a for a, b in self.cached.gaps(start, stop))


@dataclass(slots=True)
class Inspected:
    """A file or a model."""

    title: str
    """What was named."""
    single: bool
    """Whether it is one file and not a directory or an index."""
    files: list[InspectedFile]
    """Its weight files, in the order of the model."""
    missing: list[str] = field(default_factory=list)
    """Files that an index names and that are not there."""
    others: list[str] = field(default_factory=list)
    """Tensor files that no index names."""
    plan: list[PlannedExtent] | None = None
    """What would be fetched, where that was asked for."""

    @property
    def dtypes(self) -> dict[str, tuple[int, int]]:
        """Tensors and bytes by element type, most bytes first; views have none of their own."""
        counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        for item in self.files:
            for tensor in item.description.layout.tensors if item.description else ():
                counts[tensor.dtype][0] += 1
                counts[tensor.dtype][1] += tensor.size_bytes
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1][1], pair[0]))
        return {dtype: (count, size_bytes) for dtype, (count, size_bytes) in ordered}

    @property
    def format(self) -> str:
        """The one format of all files, ``mixed`` where there are several, empty where none could be read."""
        names = {item.description.format for item in self.files if item.description}
        return names.pop() if len(names) == 1 else "mixed" if names else ""

    def to_json(self) -> dict[str, Any]:
        """Return what ``inspect --json`` prints."""
        report: dict[str, Any] = {
            "name": self.title,
            "format": self.format,
            "size": sum(item.file.size_bytes for item in self.files),
            "tensors": [_tensor_json(item, tensor) for item in self.files for tensor in item.tensors],
            "files": [_file_json(item) for item in self.files],
            "dtypes": {dtype: {"tensors": n, "bytes": size} for dtype, (n, size) in self.dtypes.items()},
            "missing": self.missing,
            "not_in_index": self.others,
        }
        if self.plan is not None:
            report["plan"] = [
                {
                    "file": self.files[extent.file].file.name,
                    "start": extent.start,
                    "stop": extent.stop,
                    "reason": extent.reason,
                    "cached": extent.cached,
                }
                for extent in self.plan
            ]
        return report

    def make_plan(self, orders: Mapping[bytes, bytes]) -> None:
        """Work out what a load would fetch.

        Args:
            orders: Records of the orders that were learned.
        """
        for item in self.files:
            item.order = _learned(item, orders)
        self.plan = preview([_preview_file(item) for item in self.files])


async def inspect_place(place: InspectedPlace) -> Inspected:
    """Read the headers of the file or model at *place*.

    Raises:
        CommandFailure: There is nothing.
        FormatError: A file that was named itself, or an index, is damaged.
        ObjectError: The store could not say.
    """
    single = await place.single()
    if single is not None and not is_index_name(single.name):
        item = InspectedFile(single, await _described(place, single))
        (item.holding,) = await place.holdings([single])
        return Inspected(place.title, True, [item])
    found = await (find_by_index(place, single.name) if single is not None else find_model(place))
    return await _inspect_found(place, found)


async def _inspect_found(place: InspectedPlace, found: Found) -> Inspected:
    items = [InspectedFile(file) for file in found.files]
    limiter = trio.CapacityLimiter(_HEADERS_AT_ONCE)

    async def look(item: InspectedFile) -> None:
        async with limiter:
            try:
                item.description = await _described(place, item.file)
            except (FormatError, ObjectError) as exc:
                item.error = exc.detail

    async with trio.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(look, item)
    for item, holding in zip(items, await place.holdings(found.files), strict=True):
        item.holding = holding
    return Inspected(place.title, False, items, found.missing, found.others)


async def _described(place: InspectedPlace, file: ModelFile) -> Description:
    async def read(start: int, stop: int) -> bytes:
        return await place.read(file, start, stop)

    return await describe(file.name, file.size_bytes, read)


def load_of(inspected: Inspected, reports: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the newest load report that has a timeline of any of the files, None where there is none."""
    keys = {item.holding.key for item in inspected.files if item.holding}
    for report in reversed(reports):
        timeline = report.get("timeline", {})
        if timeline.get("cells") and not keys.isdisjoint(timeline.get("files", ())):
            return dict(report)
    return None


def _learned(item: InspectedFile, orders: Mapping[bytes, bytes]) -> tuple[int, ...] | None:
    if item.holding is None or item.description is None:
        return None
    obj = ObjectId(item.holding.bucket, item.holding.key, item.holding.etag, item.file.size_bytes)
    order = find_order(orders, obj, item.description.layout)
    return order.blocks if order is not None and order.block_bytes == item.block_bytes else None


def _preview_file(item: InspectedFile) -> PreviewFile:
    cached = item.holding.cached if item.holding else ()
    if item.description is None:  # a file we cannot plan by is read ahead as a whole
        return PreviewFile(item.file.size_bytes, (), Extent(0, item.file.size_bytes), item.block_bytes, cached)
    layout = item.description.layout
    data = Extent(layout.data_start, layout.data_stop)
    return PreviewFile(item.file.size_bytes, item.description.header, data, item.block_bytes, cached, item.order)


def _file_json(item: InspectedFile) -> dict[str, Any]:
    found = item.description
    report: dict[str, Any] = {
        "name": item.file.name,
        "size": item.file.size_bytes,
        "format": found.format if found else "",
        "error": item.error,
        "data_start": found.layout.data_start if found else None,
        "tensors": len(item.tensors),
        "block_bytes": item.block_bytes,
        "cached": None,
    }
    if item.holding is not None:
        report |= {"bucket": item.holding.bucket, "key": item.holding.key, "etag": item.holding.etag}
        report["cached"] = [[extent.start, extent.stop] for extent in item.holding.cached]
    return report


def _tensor_json(item: InspectedFile, tensor: TensorExtent) -> dict[str, Any]:
    report = {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "start": tensor.start,
        "stop": tensor.stop,
        "file": item.file.name,
    }
    if item.holding is not None:
        report["cached_bytes"] = item.cached_bytes(tensor.start, tensor.stop)
    return report
