"""Which keys a mount does not show, and why: what ``tigrismount ls --hidden`` lists.

A key is *hidden* when no path can express it, and *shadowed* when a directory has its path: ``foo`` beside
``foo/bar``. Keys come in the order of their bytes, so ``foo/`` follows ``foo`` after everything from ``foo!`` to
``foo.z``. Keys that may still turn out to be shadowed are held: each of them begins the next one, so there are as many
as a key is deep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tigrismount.core.listing import STALLED_PAGES_MAX
from tigrismount.core.names import SIZE_MAX_BYTES, hidden_reason, key_bytes
from tigrismount.errors import ObjectProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tigrismount.core.inodes import VersionInfo


class HiddenKey(NamedTuple):
    """A key that a mount does not show."""

    key: str
    """Whole key."""
    reason: str
    """What keeps it from being shown; a few words."""


class HiddenKeys:
    """Finds the keys under a prefix that a mount of it does not show.

    Args:
        prefix: The mounted prefix; empty, or ends with ``/``.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._held: list[tuple[bytes, str]] = []
        self._last = b""
        self._stalled = 0

    def feed(self, rows: Sequence[VersionInfo]) -> list[HiddenKey]:
        """Return the keys that are known not to be shown by now.

        Args:
            rows: The next page of a flat listing; some stores keep the order of the keys' bytes from page to page only.

        Raises:
            ObjectProtocolError: The listing goes backwards, in circles, or nowhere.
        """
        self._stalled = 0 if rows else self._stalled + 1
        if self._stalled > STALLED_PAGES_MAX:
            raise ObjectProtocolError("the listing does not come forward", key=self._prefix)
        return [found for row in sorted(rows, key=_sort_key) for found in self._take(row)]

    def _take(self, row: VersionInfo) -> Iterable[HiddenKey]:
        key = row.id.key
        raw = key_bytes(key)
        if raw <= self._last:
            raise ObjectProtocolError("the listing goes backwards or repeats a key", key=key)
        self._last = raw
        while self._held and not raw.startswith(self._held[-1][0]):
            if self._held[-1][0] > raw:
                break  # "foo/" may come yet, behind this key
            self._held.pop()
        while self._held and raw.startswith(self._held[-1][0]):
            yield HiddenKey(self._held.pop()[1], "a directory has its name")
        reason = self._reason(row)
        if reason:
            yield HiddenKey(key, reason)
        elif not key.endswith("/"):
            self._held.append((raw + b"/", key))

    def _reason(self, row: VersionInfo) -> str:
        key = row.id.key
        rest = key[len(self._prefix) :].removesuffix("/")
        if rest or key != self._prefix:
            for component in rest.split("/"):
                if reason := hidden_reason(component):
                    return reason
        return "" if 0 <= row.id.size_bytes <= SIZE_MAX_BYTES else "no file can have its size"


def _sort_key(row: VersionInfo) -> bytes:
    return key_bytes(row.id.key)
