"""The version ids that answers have named, so that a version can be read after it was overwritten or deleted.

Where a bucket keeps versions, the answers to HEAD and GET name the id of the version that they are about. A plain GET
with ``If-Match`` is the way to read it for as long as it is the key's present version: caches on the way understand
that, and no other form. Once the store says that it is not, the id is what is left to ask with. An id is only a way to
ask: the answer is checked like any other, so an id that lies costs a request and no byte.

An id is learned from an answer that passed for the very version, never from one that did not.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.objects.responses import is_version_id

if TYPE_CHECKING:
    from tigrismount.core.types import ObjectId

REMEMBERED = 16_384
"""Version ids remembered, at some 400 bytes each: more than anybody has files open, and those are seen the latest."""

_NO_VERSION = "null"
"""What S3 calls the version of a bucket that keeps none (any more): the next overwrite takes its place."""


@dataclass(slots=True)
class _Remembered:
    version_id: str
    superseded: bool = False
    """Whether the key is known to hold another version now, or none."""


class VersionIds:
    """What is known of versions; safe to use from many threads.

    Args:
        limit: Most versions remembered; the ones longest unseen go first.
    """

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._known: OrderedDict[ObjectId, _Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, obj: ObjectId, version_id: str | None) -> None:
        """Remember the id that an answer about *obj* named; None or empty where it named none."""
        if not version_id or version_id == _NO_VERSION or not is_version_id(version_id):
            return
        with self._lock:
            known = self._known.setdefault(obj, _Remembered(version_id))
            if known.version_id != version_id:
                self._known[obj] = _Remembered(version_id)  # the same bytes were put again, as another version
            self._known.move_to_end(obj)
            if len(self._known) > self._limit:
                self._known.popitem(last=False)

    def supersede(self, obj: ObjectId) -> None:
        """Remember that *obj* can be read by its id alone."""
        with self._lock:
            if obj in self._known:
                self._known[obj].superseded = True

    def forget(self, obj: ObjectId, version_id: str) -> None:
        """Forget an id under which there is nothing any more, unless another one is known by now."""
        with self._lock:
            known = self._known.get(obj)
            if known is not None and known.version_id == version_id:
                del self._known[obj]

    def find(self, obj: ObjectId) -> str:
        """Return the version's id, empty where none is known."""
        with self._lock:
            known = self._known.get(obj)
        return known.version_id if known is not None else ""

    def find_superseded(self, obj: ObjectId) -> str:
        """Return the id of a version that can be read by its id alone, empty for any other."""
        with self._lock:
            known = self._known.get(obj)
        return known.version_id if known is not None and known.superseded else ""
