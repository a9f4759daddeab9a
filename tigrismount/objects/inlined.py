"""Small files that came with a listing, kept until somebody reads them.

Asked for it, Tigris puts the bytes of tiny objects into the rows of a listing. A model directory has a dozen of them
(configurations, the tokenizer, the index), which a loader opens one after the other, a round trip each.

Nothing is believed: bytes count only where
their length is the object's and their MD5 is its ETag, which holds for objects that were put in one piece. What does
not fit, or is not offered, is fetched as always.

Source: TigrisFS, whose ``--tigris-list-content`` asks in the same way.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from xml.etree import ElementTree as ET

    from tigrismount.core.types import ObjectId

KEPT_BYTES = 8 << 20
"""Most bytes kept: the small files of many model directories."""
KEPT_FILES = 16_384
"""Most files, however few bytes they have: the name of each takes half a kilobyte, and some buckets have millions."""

MARK = b"<Data>"
"""What a listing holds in which rows carry anything."""


def contents_of(rows: Iterable[ET.Element]) -> tuple[bytes | None, ...]:
    """Return the bytes that each row of a listing carries, None for rows without.

    Args:
        rows: Its ``Contents`` elements.
    """
    return tuple([_decoded(row) for row in rows])


class InlinedFiles:
    """The small files at hand; safe to use from many threads.

    Args:
        limit_bytes: Most bytes kept; the oldest go first.
        limit_files: Most files kept.
    """

    def __init__(self, limit_bytes: int = KEPT_BYTES, limit_files: int = KEPT_FILES) -> None:
        self._limit_bytes = limit_bytes
        self._limit_files = limit_files
        self._lock = threading.Lock()
        self._files: OrderedDict[ObjectId, bytes] = OrderedDict()
        self._bytes = 0

    def keep(self, objects: Iterable[ObjectId], contents: Sequence[bytes | None]) -> None:
        """Keep what is what it says it is.

        Args:
            objects: The versions that a listing names.
            contents: What ``contents_of`` returned for the same listing.
        """
        for obj, data in zip(objects, contents, strict=False):
            if data is not None and _is(obj, data):
                self._add(obj, data)

    def find(self, obj: ObjectId) -> bytes | None:
        """Return the bytes of this version, None when they are not at hand."""
        with self._lock:
            return self._files.get(obj)

    def _add(self, obj: ObjectId, data: bytes) -> None:
        with self._lock:
            self._bytes += len(data) - len(self._files.pop(obj, b""))
            self._files[obj] = data
            while self._bytes > self._limit_bytes or len(self._files) > self._limit_files:
                _, oldest = self._files.popitem(last=False)
                self._bytes -= len(oldest)


def _is(obj: ObjectId, data: bytes) -> bool:
    return len(data) == obj.size_bytes and hashlib.md5(data, usedforsecurity=False).hexdigest() == obj.etag


def _decoded(row: ET.Element) -> bytes | None:
    text = next((child.text for child in row if _name(child) == "Data"), None)
    try:
        return base64.b64decode(text, validate=True) if text else None
    except (binascii.Error, ValueError):
        return None


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]
