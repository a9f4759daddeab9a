"""What a benchmark reads: some of the bucket's objects, or the end of one, and never more than it may fetch.

Each byte is fetched twice, once through the mount and once plainly. Whole objects are read like a model's files. Where
none is small enough, the last bytes of one are read: behind them lies nothing that a mount could fetch ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tigrismount.core.types import ObjectId

FETCHES = 2
"""How often each byte of the sample is fetched."""
LEAST_BYTES = 1 << 20
"""Smaller objects say nothing about a rate."""
_HEADER_BYTES = 16 << 20
"""Kept back of a budget for what a mount fetches besides the bytes read: headers, and a part rounded out to blocks."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of one object that are read."""

    obj: ObjectId
    start: int

    @property
    def size_bytes(self) -> int:
        """How many: up to the object's end."""
        return self.obj.size_bytes - self.start


@dataclass(frozen=True, slots=True)
class Sample:
    """What is read."""

    extents: tuple[Extent, ...]
    is_whole: bool
    """Whether the extents are whole objects."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all extents."""
        return sum(extent.size_bytes for extent in self.extents)


def choose(objects: Iterable[ObjectId], budget_bytes: int) -> Sample:
    """Return what to read of *objects* so that at most *budget_bytes* are fetched.

    Args:
        objects: What there is.
        budget_bytes: Most bytes that may be fetched, in all.

    Raises:
        MountError: Nothing there is large enough to measure.
    """
    large = sorted((obj for obj in objects if obj.size_bytes >= LEAST_BYTES), key=lambda obj: -obj.size_bytes)
    if not large:
        raise MountError("there is no object of 1 MiB or more to measure with; name another SOURCE, or take --demo")
    most_bytes = left_bytes = max(LEAST_BYTES, (budget_bytes - _HEADER_BYTES) // FETCHES)
    extents = []
    for obj in large:
        if obj.size_bytes <= left_bytes:
            extents.append(Extent(obj, 0))
            left_bytes -= obj.size_bytes
    # One long read tells more than a few small files beside a large one that did not fit.
    if sum(extent.size_bytes for extent in extents) >= min(most_bytes, large[0].size_bytes) // 2:
        return Sample(tuple(extents), is_whole=True)
    return Sample((Extent(large[0], large[0].size_bytes - most_bytes),), is_whole=False)
