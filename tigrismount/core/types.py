"""The values every layer speaks of: an object version, a byte range, a priority, a node id."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NewType

NodeId = NewType("NodeId", int)
"""Our number for one object *version* or one directory; also its ``st_ino`` and file handle."""

ROOT_NODE_ID = NodeId(1)
"""FUSE fixes the root's node id at 1."""


class Priority(IntEnum):
    """Why bytes are wanted; smaller is served first."""

    DEMAND = 0
    """The kernel asked, a process waits."""
    READAHEAD = 1
    """Guessed from the access pattern."""
    PREFETCH = 2
    """Planned from the format, no reader there yet."""
    LATER = 3
    """Planned for after that: the next shard, or the rest of a file for the disk cache."""


@dataclass(frozen=True, slots=True)
class Extent:
    """The half-open byte range ``[start, stop)`` of an object."""

    start: int
    """First byte, ``>= 0``."""
    stop: int
    """One past the last byte, ``>= start``."""

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"extent [{self.start}, {self.stop}) is not a range")

    @property
    def size_bytes(self) -> int:
        """Bytes in the range."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class ObjectId:
    """One immutable object version: what a cached byte belongs to."""

    bucket: str
    """Bucket name."""
    key: str
    """Whole key, prefix included."""
    etag: str
    """Entity tag without quotes; empty when the store gave none (then nothing is shared or kept on disk)."""
    size_bytes: int
    """Length of the object in bytes."""
    modified_s: int = 0
    """Whole second of ``Last-Modified``, which tells versions apart where there is no strong ETag; else 0."""

    @property
    def cacheable(self) -> bool:
        """Whether the version is named well enough to outlive this process: a strong ETag."""
        return bool(self.etag) and not self.etag.startswith("W/")
