"""What a load of a model would fetch, and in which order: the plan of ``core.prefetchplan`` told before it happens.

First the headers of all files, because loaders open all of them and plans are made from them; then file after file,
each in the order that was learned from an earlier load of this version, else from front to back. All in whole blocks,
which is how bytes are fetched; what the disk cache has is not fetched at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.core.intervals import Intervals
from tigrismount.core.types import Extent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

HEADER = "header"
LEARNED = "learned order"
IN_FILE_ORDER = "file order"


@dataclass(frozen=True, slots=True)
class PreviewFile:
    """What the preview has to know of a file."""

    size_bytes: int
    """Its size."""
    header: tuple[Extent, ...]
    """What must be read to know its tensors."""
    data: Extent
    """From its first tensor to its last."""
    block_bytes: int
    """Size of its blocks."""
    cached: tuple[Extent, ...] = ()
    """What the disk cache has of it."""
    order: tuple[int, ...] | None = None
    """Its blocks as a load before read them; those left out were not read. None where there was no load."""


@dataclass(frozen=True, slots=True)
class PlannedExtent:
    """One run of blocks of the plan."""

    file: int
    """Number of the file."""
    start: int
    """First byte."""
    stop: int
    """One past the last byte."""
    reason: str
    """Why it is there: ``HEADER``, ``LEARNED`` or ``IN_FILE_ORDER``."""
    cached: bool
    """Whether it is on disk already, so that nothing is fetched."""


def preview(files: Sequence[PreviewFile]) -> list[PlannedExtent]:
    """Return what a load of all *files*, in the order of the model, would fetch in which order; each block once."""
    planned: list[PlannedExtent] = []
    seen: set[tuple[int, int]] = set()
    cached = [Intervals((extent.start, extent.stop) for extent in file.cached) for file in files]
    for number, index, reason in _blocks(files):
        start = index * files[number].block_bytes
        stop = min(start + files[number].block_bytes, files[number].size_bytes)
        if start >= stop or (number, index) in seen:
            continue
        seen.add((number, index))
        _append(planned, PlannedExtent(number, start, stop, reason, cached[number].covers(start, stop)))
    return planned


def extents_of(blocks: Iterable[int], block_bytes: int, size_bytes: int) -> tuple[Extent, ...]:
    """Return where *blocks* of an object lie, neighbours as one extent.

    Args:
        blocks: Block indexes in any order; those behind the end are left out.
        block_bytes: Size of a block.
        size_bytes: Size of the object.
    """
    starts = (index * block_bytes for index in blocks)
    ranges = Intervals((start, min(start + block_bytes, size_bytes)) for start in starts)
    return tuple(Extent(start, stop) for start, stop in ranges)


def _blocks(files: Sequence[PreviewFile]) -> Iterator[tuple[int, int, str]]:
    """Give file number, block and reason, in order; a block may come more than once."""
    for number, file in enumerate(files):
        for extent in file.header:
            for index in _spanned(extent, file.block_bytes):
                yield number, index, HEADER
    for number, file in enumerate(files):
        if file.order is None:
            for index in _spanned(file.data, file.block_bytes):
                yield number, index, IN_FILE_ORDER
        else:
            for index in file.order:
                yield number, index, LEARNED


def _spanned(extent: Extent, block_bytes: int) -> range:
    if extent.start == extent.stop:
        return range(0)
    return range(extent.start // block_bytes, (extent.stop - 1) // block_bytes + 1)


def _append(planned: list[PlannedExtent], extent: PlannedExtent) -> None:
    """Add an extent, to the last one where it continues that."""
    last = planned[-1] if planned else None
    if last and (last.file, last.stop, last.reason, last.cached) == (
        extent.file,
        extent.start,
        extent.reason,
        extent.cached,
    ):
        planned[-1] = PlannedExtent(extent.file, last.start, extent.stop, extent.reason, extent.cached)
    else:
        planned.append(extent)
