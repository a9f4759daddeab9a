"""Pinned prefixes: what eviction leaves alone, kept in the index for all daemons of a directory.

A prefix is text that ``bucket/key`` begins with, so ``models/llama-3/`` is a directory of the bucket ``models`` and
``models/llama-3`` includes ``llama-3.1``. Pins say nothing of stores: they are for people.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tigrismount.cache.kept import RecordTables
from tigrismount.cache.records import encode_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tigrismount.cache.index import CacheIndex
    from tigrismount.cache.records import ObjectRecord

_TABLE = "pins"
_MOST_PINS = 10_000
"""As many as the table holds."""


def path_of(record: ObjectRecord) -> str:
    """Return what prefixes are compared with: ``bucket/key``."""
    return f"{record.bucket}/{record.key}"


def matches(record: ObjectRecord, prefixes: Sequence[str]) -> bool:
    """Tell whether an object begins with one of *prefixes*."""
    return path_of(record).startswith(tuple(prefixes))


class Pins:
    """The pins of one index; blocking.

    Args:
        index: The index.
    """

    def __init__(self, index: CacheIndex) -> None:
        self._tables = RecordTables(index)

    def add(self, prefixes: Iterable[str]) -> bool:
        """Pin prefixes; return whether all are kept.

        Raises:
            CacheError: The index failed.
        """
        kept = [self._tables.put(_TABLE, encode_text(prefix), b"") for prefix in prefixes]
        return all(kept)

    def remove(self, prefixes: Iterable[str]) -> int:
        """Take back pins, spelled as they were made; return how many of them there were.

        Raises:
            CacheError: The index failed.
        """
        keys = [encode_text(prefix) for prefix in prefixes]
        known = [key for key in keys if self._tables.get(_TABLE, key) is not None]
        for key in known:
            self._tables.delete(_TABLE, key)
        return len(known)

    def all(self) -> list[str]:
        """Return all pinned prefixes, sorted.

        Raises:
            CacheError: The index failed.
        """
        return [key.decode("utf-8", "surrogatepass") for key, _ in self._tables.items(_TABLE, limit=_MOST_PINS)]
