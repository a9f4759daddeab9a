"""What a tensor file holds and where: named byte ranges of one object, whatever the format.

Parsers (``formats``) make a layout from header bytes; plans (``core.prefetchplan``) and reports read it. All offsets
count from the start of the *object*, so that nobody downstream has to know how long the header was.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from operator import attrgetter

_START = attrgetter("start")


@dataclass(frozen=True, slots=True)
class TensorExtent:
    """One named tensor and the bytes ``[start, stop)`` of the object that hold it."""

    name: str
    """Name in the file, unique there."""
    dtype: str
    """Element type in the format's own word, for example ``BF16``."""
    shape: tuple[int, ...]
    """Elements along each dimension; empty for a scalar."""
    start: int
    """First byte in the object."""
    stop: int
    """One past the last byte in the object; equal to ``start`` for a tensor without elements."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors of one file, in the order they lie in it."""

    data_start: int
    """First byte that may be of a tensor: behind the header, where the format has one in front."""
    tensors: tuple[TensorExtent, ...]
    """All tensors, sorted by offset; they do not overlap, and what lies between them is of no interest."""
    views: tuple[TensorExtent, ...] = ()
    """Tensors that have no bytes of their own, in the order of the file: tied weights, slices of a larger one."""

    @property
    def data_stop(self) -> int:
        """One past the last byte of data; what follows is a directory at the end, or padding."""
        return self.tensors[-1].stop if self.tensors else self.data_start

    def first_from(self, position: int) -> TensorExtent | None:
        """Return the first tensor that starts at or behind *position*, None when there is none."""
        index = bisect_left(self.tensors, position, key=_START)
        return self.tensors[index] if index < len(self.tensors) else None

    def index_at(self, position: int) -> int:
        """Return the number of the last tensor that starts at or before *position*, -1 before all of them."""
        return bisect_right(self.tensors, position, key=_START) - 1

    def end_of_tensor(self, position: int) -> int:
        """Return where the tensor ends that *position* cuts in two, or *position* itself when it cuts none."""
        index = bisect_left(self.tensors, position, key=_START) - 1
        return max(position, self.tensors[index].stop) if index >= 0 else position
