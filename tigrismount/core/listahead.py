"""When names of a directory are asked for one by one often enough that a page of its listing is the cheaper way.

A look-up of a name that nobody knows costs two requests and a round trip, a page of a listing costs one request and
tells a thousand names. Who asks for a third name of a directory is going to ask for more: a loader that looks for the
files that a model may have, or a reader of many small files. From then on a page is fetched beside the look-ups, and
the next one only after more names had to be asked for than before the last: where readers jump about in a directory of
a million names, pages stay few against look-ups. A name that is asked for over and over counts once: somebody waits for
it, and a listing from before it came is the last thing they want.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tigrismount.core.names import DirectoryKey

_ASKED_MIN = 3
"""Names asked for before a page is worth it: two are asked for by whoever opens a file and looks for one beside it."""
_DIRECTORIES_MAX = 1024
"""Directories that names were asked for in lately; of others it is forgotten."""


@dataclass(slots=True)
class _Asked:
    """What was asked for in one directory."""

    until_s: float
    names: set[bytes] = field(default_factory=set)
    """Names asked for since the last page."""
    worth_at: float = _ASKED_MIN
    """How many of them are worth the next one; infinite where none can be had."""
    pages: int = 0


class ListAhead:
    """Counts names that the store was asked for.

    Args:
        ttl_s: Seconds that names are trusted, and counted.
    """

    def __init__(self, *, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._asked: OrderedDict[DirectoryKey, _Asked] = OrderedDict()

    def note_asked(self, where: DirectoryKey, name: bytes, now_s: float) -> bool:
        """Count a name of *where* that the store is asked for; tell whether a page is worth fetching now."""
        asked = self._asked.pop(where, None)
        if asked is None or now_s >= asked.until_s:
            asked = _Asked(now_s + self._ttl_s)
        self._asked[where] = asked
        if len(self._asked) > _DIRECTORIES_MAX:
            self._asked.popitem(last=False)
        if asked.worth_at == math.inf or not self._ttl_s:
            return False
        asked.names.add(name)
        if len(asked.names) < asked.worth_at:
            return False
        asked.pages += 1
        asked.worth_at = _ASKED_MIN * (asked.pages + 1)
        asked.names.clear()
        return True

    def give_up(self, where: DirectoryKey) -> None:
        """Fetch no page of *where* until what was counted is forgotten: it could not be had."""
        if where in self._asked:
            self._asked[where].worth_at = math.inf
            self._asked[where].names.clear()
