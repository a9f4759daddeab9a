"""What readers tell whoever pushes pages into the kernel: where they are, and what they will want next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tigrismount.core.types import Extent, ObjectId


class PushHook(Protocol):
    """Sees plans and reads; ``fuse.pusher.Pusher``. Nothing here waits, and nothing is owed."""

    def planned(self, obj: ObjectId, extents: Sequence[Extent]) -> Sequence[Extent]:
        """Note what of *obj* will be wanted next; return what of it is to be fetched, as the kernel has the rest."""

    def withdrawn(self, obj: ObjectId) -> None:
        """Note that nobody has *obj* open any more."""

    def passed(self, obj: ObjectId, start: int, stop: int) -> int:
        """Note a read of bytes ``[start, stop)``; return from where on its reader has read, at most *start*."""

    def is_coming(self, obj: ObjectId, position: int) -> bool:
        """Tell whether a reader that has reached *position* had better wait, since the kernel gets what is there."""

    async def wait_for(self, obj: ObjectId, start: int, stop: int) -> None:
        """Let a read of bytes ``[start, stop)`` wait for what comes behind it, but never for long."""

    def held(self, obj: ObjectId, start: int, stop: int) -> bytes | None:
        """Return bytes that were kept because the kernel will ask for them, None for all others."""


class NoPushes:
    """Pushes nothing."""

    def planned(self, obj: ObjectId, extents: Sequence[Extent]) -> Sequence[Extent]:
        """Return all of it."""
        return extents

    def withdrawn(self, obj: ObjectId) -> None:
        """Nothing to forget."""

    def passed(self, obj: ObjectId, start: int, stop: int) -> int:
        """Return *start*: nobody reads what was not asked for."""
        return start

    def is_coming(self, obj: ObjectId, position: int) -> bool:
        """Return False."""
        return False

    async def wait_for(self, obj: ObjectId, start: int, stop: int) -> None:
        """Return at once."""

    def held(self, obj: ObjectId, start: int, stop: int) -> bytes | None:
        """Return None."""
        return None
