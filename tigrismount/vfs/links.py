"""Which of the empty keys on a page are symbolic links.

Most listings do not tell user metadata, so an empty key whose metadata nobody told is asked for by itself: a HEAD each,
a few at once. Keys that hold something are files, and cost nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from tigrismount.errors import ObjectAccessError, ObjectError, ObjectNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tigrismount.core.inodes import VersionInfo
    from tigrismount.objects.client import ObjectClient, ObjectInfo

HEADS_AT_ONCE = 6
"""HEADs for one mount's listings: fewer than the client's metadata lane is wide, so that look-ups get through."""


class DearPageError(Exception):
    """A page that it takes more requests to complete than it is worth; the page itself is lost."""


class LinkFinder:
    """Completes pages of listings.

    Args:
        client: The store.
    """

    def __init__(self, client: ObjectClient) -> None:
        self._client = client
        self._limiter = trio.CapacityLimiter(HEADS_AT_ONCE)

    async def complete(self, rows: Sequence[ObjectInfo], *, asks_max: float = math.inf) -> list[ObjectInfo]:
        """Return the rows of a page with the targets of those that are links.

        Args:
            rows: As the store listed them.
            asks_max: Most of them that may be asked for.

        Raises:
            DearPageError: More of them would have to be.
            ObjectError: The store could not say. A refusal is no error while the key may list: what may not be looked
                at, or is gone, stays as it was listed, and is shown as the empty file it may be.
        """
        if asks_max < len(rows) and sum(map(may_be_link, rows)) > asks_max:
            raise DearPageError
        completed = list(rows)
        refused = await self._ask_each([index for index, info in enumerate(rows) if may_be_link(info)], completed)
        if refused:
            # A key that has expired since it listed them is refused them all, and a gateway that knows no store for a
            # moment has none of them: then nobody knows what they are. The directory is asked for, as that may be all
            # that the key may list; and then, by now with another key, they again.
            first = rows[refused[0]].id
            await self._client.list_page(first.bucket, first.key[: first.key.rfind("/") + 1], max_keys=1)
            await self._ask_each(refused, completed)
        return completed

    async def _ask_each(self, indexes: Sequence[int], rows: list[ObjectInfo]) -> list[int]:
        """Put into *rows* what the store says of those at *indexes*; return the indexes of those it refused."""
        refused: list[int] = []
        failures: list[ObjectError] = []

        async def ask(index: int) -> None:
            try:
                rows[index] = await self._ask(rows[index])
            except (ObjectAccessError, ObjectNotFoundError):
                refused.append(index)
            except ObjectError as exc:
                failures.append(exc)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for index in indexes:
                nursery.start_soon(ask, index)
        if failures:
            raise failures[0]
        return refused

    async def _ask(self, row: ObjectInfo) -> ObjectInfo:
        async with self._limiter:
            found = await self._client.head(row.id.bucket, row.id.key)
        # The row's time is finer than a HEAD's, and what the kernel was told of this version before.
        return replace(found, mtime_s=row.mtime_s) if found.id == row.id else found


def may_be_link(info: VersionInfo) -> bool:
    """Tell whether only a HEAD can say what *info* is."""
    return info.symlink_target is None and info.id.size_bytes == 0 and not info.id.key.endswith("/")
