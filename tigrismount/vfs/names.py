"""Where names come from: the store, one look-up or one page of a listing at a time.

``vfs.directory`` decides when to ask and remembers what was said. A *name source* is whom it asks. The one in here asks
the store each time; ``vfs.kept`` puts another one before it, for mounts in which nothing can change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tigrismount.vfs.links import LinkFinder
from tigrismount.vfs.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tigrismount.core.inodes import VersionInfo
    from tigrismount.core.listing import Dentry
    from tigrismount.core.names import DirectoryKey
    from tigrismount.objects.client import ObjectClient


@dataclass(frozen=True, slots=True)
class NamePage:
    """One page of a directory's listing, in the order of the keys' bytes."""

    objects: Sequence[VersionInfo]
    """Keys of the page, links with their targets."""
    prefixes: Sequence[str]
    """Rolled-up prefixes of the page."""
    next_token: str | None
    """What to ask the next page with, None on the last one."""


class NameSource(Protocol):
    """Says what names there are. Both questions raise ``ObjectError`` where nobody can say."""

    async def look_up(
        self, where: DirectoryKey, name: bytes, asked_s: float, on_sought: Callable[[], None]
    ) -> Dentry | None:
        """Return what *name* in *where* stands for, None when there is no such name.

        Args:
            where: The directory; not the one that holds buckets.
            name: A name that a key can have.
            asked_s: The time, for the answer.
            on_sought: Called where the name is not known by itself, so that a page of the listing tells it as well.
        """

    async def page(
        self, where: DirectoryKey, token: str | None, *, start_after: str = "", asks_max: float = math.inf
    ) -> NamePage:
        """Return a page of the names in *where*.

        Args:
            where: The directory.
            token: ``next_token`` of the page before, None for the first one.
            start_after: Row to start behind where there is no token.
            asks_max: Most requests that it may take to learn what its rows are.

        Raises:
            DearPageError: It would take more.
        """

    def distrust(self) -> None:
        """Say that what is known may be wrong: from now on the store is asked."""


class LiveNames:
    """Asks the store.

    Args:
        client: The store.
    """

    def __init__(self, client: ObjectClient) -> None:
        self._client = client
        self._links = LinkFinder(client)

    async def look_up(
        self,
        where: DirectoryKey,
        name: bytes,
        asked_s: float,
        on_sought: Callable[[], None],
        on_unseen: Callable[[], None] = lambda: None,
    ) -> Dentry | None:
        """Return what a name stands for, as in the protocol; for *on_unseen* see ``resolve``."""
        on_sought()
        return await resolve(self._client, where, name, asked_s, on_unseen)

    async def page(
        self, where: DirectoryKey, token: str | None, *, start_after: str = "", asks_max: float = math.inf
    ) -> NamePage:
        """Return a page, as in the protocol."""
        if where.holds_buckets:
            return NamePage((), [f"{name}/" for name in await self._client.list_buckets()], None)
        page = await self._client.list_page(where.bucket, where.prefix, token=token, start_after=start_after)
        objects = await self._links.complete(page.objects, asks_max=asks_max)
        return NamePage(objects, page.prefixes, page.next_token)

    def distrust(self) -> None:
        """Do nothing: nothing is known here."""
