"""Where readers of directories are, in terms that outlive a listing and a process.

A cursor is a number: a place in one listing, which is gone with the process or pushed off the shelf. A *bookmark* says
the same by name: the last name that was given before that cursor. Names come out of a listing in the order of
``name + "/"``, so whoever lists the directory again and passes over all names up to that one goes on exactly there,
however the directory has changed meanwhile: no name that was there all the time is missed or given twice.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tigrismount.core.names import DirectoryKey

BOOKMARKS_MAX = 512
"""Most that are kept, some 200 KiB. Each reader needs its last one, and makes one per reply of some 30 names: one
that pauses while others read more than 15,000 names in the same mount is the first to lose its own."""


@dataclass(frozen=True, slots=True)
class Bookmark:
    """The place behind one name of a directory."""

    where: DirectoryKey
    """The directory."""
    cursor: int
    """What readers call the place."""
    start_after: str
    """Row of the store behind which all that follows lies, and perhaps some of what was given already."""
    name: bytes
    """The last name that was given."""

    def is_behind(self, name: bytes) -> bool:
        """Whether *name* comes at this place or before it."""
        return name + b"/" <= self.name + b"/"


class Bookmarks:
    """The bookmarks of one mount, those used least lately dropped.

    Args:
        limit: Most that are kept.
    """

    def __init__(self, limit: int = BOOKMARKS_MAX) -> None:
        self._limit = limit
        self._bookmarks: OrderedDict[tuple[DirectoryKey, int], Bookmark] = OrderedDict()

    def __iter__(self) -> Iterator[Bookmark]:
        return iter(self._bookmarks.values())

    def put(self, bookmark: Bookmark) -> bool:
        """Keep a bookmark; return whether it says anything new."""
        key = bookmark.where, bookmark.cursor
        is_new = self._bookmarks.get(key) != bookmark
        self._bookmarks[key] = bookmark
        self._bookmarks.move_to_end(key)
        if len(self._bookmarks) > self._limit:
            self._bookmarks.popitem(last=False)
        return is_new

    def find(self, where: DirectoryKey, cursor: int) -> Bookmark | None:
        """Return the bookmark of a cursor, None where there is none any more."""
        return self._bookmarks.get((where, cursor))
