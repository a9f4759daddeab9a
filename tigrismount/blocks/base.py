"""What ``reader`` needs of the block store, as a protocol, so that readers are tested on a fake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tigrismount.core.types import Extent, ObjectId, Priority

Buffer = bytes | memoryview
"""Bytes of an answer. A memoryview is valid until the caller's next ``await``: reply or copy before that."""


class BlockSource(Protocol):
    """Exact bytes of object versions, from memory, disk or the store."""

    def retain(self, obj: ObjectId) -> None:
        """Say that *obj* is open: what the disk cache has of it stays, so that an old version can be read on."""

    def release(self, obj: ObjectId) -> None:
        """Take back one :meth:`retain`."""

    def try_read(self, obj: ObjectId, start: int, stop: int) -> Buffer | None:
        """Return bytes ``[start, stop)`` when all of them are in memory now, else None. Never waits.

        Args:
            obj: Version to read.
            start: First byte, ``0 <= start <= stop``.
            stop: One past the last byte, at most ``obj.size_bytes``.
        """

    async def read(self, obj: ObjectId, start: int, stop: int, priority: Priority) -> Buffer:
        """Return exactly bytes ``[start, stop)``, fetching what is missing; joins flights, never fetches twice.

        Args:
            obj: Version to read.
            start: First byte, ``0 <= start <= stop``.
            stop: One past the last byte, at most ``obj.size_bytes``.
            priority: Place in the queue for what must be fetched.

        Raises:
            ObjectError: The store could not give the bytes of this version.
        """

    def plan(
        self,
        obj: ObjectId,
        extents: Sequence[Extent],
        priority: Priority,
        *,
        later: Sequence[Extent] | None = (),
        cut: bool = False,
    ) -> None:
        """Say which bytes of *obj* will be wanted next, in order; replaces the plan said before.

        Nothing waits and nothing is owed: what is cached is skipped, what does not fit the memory budget is
        fetched as room appears, what a later plan leaves out is dropped unless it is in flight. An empty plan
        cancels.

        Args:
            obj: The version.
            extents: What is wanted next.
            priority: Place of *extents* in the queue, behind what readers ask for.
            later: What the disk cache may be filled with when nothing else is wanted; memory keeps none of it. None
                for what was said of it before.
            cut: Whether what is in flight for an earlier plan alone is cut short too. Never cuts where a reader waits.
        """


class BlockFiller(Protocol):
    """What brings blocks into the disk cache for nobody who reads them now."""

    def retain(self, obj: ObjectId) -> None:
        """Say that *obj* is in use, as in :class:`BlockSource`."""

    def release(self, obj: ObjectId) -> None:
        """Take back one :meth:`retain`."""

    async def read(self, obj: ObjectId, start: int, stop: int, priority: Priority) -> Buffer:
        """Return bytes, as in :class:`BlockSource`."""

    async def fill(self, obj: ObjectId, index: int, on_fetched: Callable[[], None] = lambda: None) -> bool:
        """Bring block *index* into the disk cache with the least priority; joins flights, leaves nothing in memory.

        Args:
            obj: Version to read.
            index: Block, in the size that the disk cache counts this version in.
            on_fetched: Called once its bytes are in memory, before they go to the disk.

        Returns:
            Whether the disk cache has it now; False when it takes none at the moment. True as well where the version is
            counted in larger blocks by now, and has no such block.

        Raises:
            ObjectError: The store could not give the bytes of this version.
            CacheError: The disk cache takes none of this version from this process; of others it may.
        """
