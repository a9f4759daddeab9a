"""Names and directories: answers from what is known and fresh, and asks the store for the rest.

The knowledge lies in ``core.dentries`` and ``core.listing``; this module does the requests between two decisions of
theirs. Whoever asks for the same name, or the same page, at the same time shares one request. A page is fetched when a
reader of the directory comes near it, not before: the first names appear while the last ones are still in the store.
Whoever has taken a second helping of a directory is taken for one who reads it all, and the next page is asked for
while the present one is read. Whoever asks for name after name has a page fetched beside that (``core.listahead``).

All state changes in the trio thread, between two awaits.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from tigrismount.core.dentries import Dentries, Known
from tigrismount.core.listahead import ListAhead
from tigrismount.core.listing import ListingShelf
from tigrismount.core.names import check_key, check_name
from tigrismount.errors import ObjectError
from tigrismount.vfs.links import DearPageError
from tigrismount.vfs.singleflight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tigrismount.core.listing import Dentry, Listing
    from tigrismount.core.names import DirectoryKey
    from tigrismount.vfs.names import NameSource
    from tigrismount.vfs.options import VfsConfig


log = logging.getLogger(__name__)

AHEAD_NAMES = 1000
"""A reader who has fewer names before them than this, a page, has the next page fetched."""

ASKS_MAX = 8
"""Requests that a page fetched for look-ups may take beside its own: no more than four of them, which take two each."""


class Directories:
    """What is in each directory.

    Args:
        names: Says what names there are.
        config: How long names are trusted, and how many.
        clock: Seconds; does not go backwards.
    """

    def __init__(self, names: NameSource, config: VfsConfig, clock: Callable[[], float]) -> None:
        self._names = names
        self._clock = clock
        self._negative_ttl_s = config.negative_ttl_s
        self.shelf = ListingShelf(ttl_s=config.metadata_ttl_s, name_limit=config.listed_limit)
        """Listings, known as far as they were read."""
        self.dentries = Dentries(
            ttl_s=config.metadata_ttl_s,
            negative_ttl_s=config.negative_ttl_s,
            limit=config.dentry_limit,
            negative_limit=config.dentry_limit,
        )
        """Names looked up singly."""
        self.lookups = 0
        """Look-ups answered or refused."""
        self.lookups_asked = 0
        """Look-ups for which the store was asked."""
        self.listings = 0
        """Listings begun."""
        self._expirations = 0
        self._list_ahead = ListAhead(ttl_s=config.metadata_ttl_s)
        self._asking: SingleFlight[Known] = SingleFlight()
        self._listing: SingleFlight[None] = SingleFlight()
        self._nursery: trio.Nursery | None = None
        self._ahead: set[Listing] = set()
        """Listings whose next page is on its way before anybody waits for it."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the pages fetched ahead until cancelled; without it each is fetched when somebody waits for it."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def drop_old(self) -> None:
        """Forget what is not trusted any more and nobody reads."""
        now_s = self._clock()
        self.dentries.drop_old(now_s)
        self.shelf.drop_old(now_s)

    async def find(self, where: DirectoryKey, name: bytes) -> Known:
        """Return what *name* stands for, or that there is no such name, and for how long that may be trusted.

        Raises:
            InvalidNameError: No key can have this name.
            NameTooLongError: The name or its key is too long.
            ObjectError: The store could not say.
        """
        self.lookups += 1
        check_name(name)
        known = self.dentries.find(where, name, self.shelf.newest(where), self._clock())
        if known is None:
            return await self._find_out(where, name)
        if known.dentry is None:
            # Also what only a listing knew: the kernel will be told, and the table says what it must forget.
            self.dentries.add_missing(where, name, known.observed_s, self._clock())
        return known

    async def read(self, where: DirectoryKey, cursor: int) -> tuple[Listing, int]:
        """Return the listing that *cursor* lies in and the ordinal there, once that name is known or there is none.

        Args:
            where: The directory.
            cursor: 0 for the start, else made by :meth:`Listing.cursor`.

        Raises:
            ObjectError: The store could not say; asking again goes on at the same place.
        """
        listing, ordinal = self._resume(where, cursor)
        while ordinal >= len(listing.dentries) and not listing.complete:
            await self._listing.run(listing, partial(self._fetch_page, listing))
        if ordinal and len(listing.dentries) - ordinal < AHEAD_NAMES:
            self._fetch_ahead(listing)
        return listing, ordinal

    def _resume(self, where: DirectoryKey, cursor: int, *, is_read: bool = True) -> tuple[Listing, int]:
        """Return the listing that *cursor* lies in and the ordinal there, to somebody who reads the directory.

        One that was made for look-ups shows what was missing when it began: not to them, once that is asked for anew,
        nor to a look-up that only a listing answers, where nobody reads.
        """
        now_s, newest = self._clock(), self.shelf.newest(where)
        if cursor == 0 and newest is not None and not newest.was_read:
            newest.stale = now_s >= newest.started_s + self._negative_ttl_s
        listing, ordinal = self.shelf.resume(where, cursor, now_s)
        listing.was_read |= is_read
        return listing, ordinal

    def _fetch_ahead(self, listing: Listing, asks_max: float = math.inf) -> None:
        """Fetch the next page of a listing, if there is one and nobody does, and it takes no more than *asks_max*."""
        if self._nursery is None or listing.complete or listing in self._ahead:
            return
        self._ahead.add(listing)
        self._nursery.start_soon(self._fetch_one_ahead, listing, asks_max)

    async def _fetch_one_ahead(self, listing: Listing, asks_max: float) -> None:
        try:
            await self._listing.run(listing, partial(self._fetch_page, listing, asks_max))
        except ObjectError as exc:
            log.debug("a page that nobody waits for yet could not be had: %s", exc)  # whoever comes to it asks again
            self._list_ahead.give_up(listing.where)
        except Exception:  # a reader's own call would give an errno for it; here it would end the mount
            log.exception("a page that nobody waits for yet could not be had")
            self._list_ahead.give_up(listing.where)
        finally:
            self._ahead.discard(listing)

    async def names(self, where: DirectoryKey, limit: int) -> list[Dentry]:
        """Return the names of a directory, of a large one the first *limit*; what is fresh is not asked.

        Raises:
            ObjectError: The store could not say.
        """
        listing, _ = self._resume(where, 0, is_read=False)  # nobody has asked for it
        while not listing.complete and len(listing.dentries) < limit:
            await self._listing.run(listing, partial(self._fetch_page, listing))
        return listing.dentries[:limit]

    def expire(
        self, steps: Sequence[tuple[DirectoryKey, bytes]], below: DirectoryKey
    ) -> list[tuple[DirectoryKey, bytes]]:
        """Forget what is known of the names on the way to a directory, and of all in it and below.

        Requests on their way may have asked before: their answers are given, and neither we nor the kernel trust them.

        Args:
            steps: Each directory on the way, and the name in it that leads on.
            below: Where they lead, be it there or not.

        Returns:
            The names that were remembered as missing.
        """
        on_the_way, doubtful = set(steps), {steps[-1][0]} if steps else set()
        for where, name in steps[:-1]:
            listing = self.shelf.newest(where)
            if listing is not None and not listing.has_directory(name):
                doubtful.add(where)
        self.shelf.expire(lambda where: where in doubtful or below.holds(where))
        self._asking = SingleFlight()
        self._expirations += 1
        self._names.distrust()
        return self.dentries.expire(lambda where, name: below.holds(where) or (where, name) in on_the_way)

    async def _find_out(self, where: DirectoryKey, name: bytes) -> Known:
        """Ask the store; an answer that was overtaken by :meth:`expire` is not to be trusted any longer."""
        expirations = self._expirations
        if where.holds_buckets:
            known = await self._find_bucket(where, name)
        else:
            check_key(where.key_of(name))
            known = await self._asking.run((where, name), partial(self._ask, where, name))
        return known if expirations == self._expirations else replace(known, ttl_s=0.0)

    async def _find_bucket(self, where: DirectoryKey, name: bytes) -> Known:
        """Return what *name* stands for among the buckets, which can only be listed."""
        self.lookups_asked += 1
        listing, _ = self._resume(where, 0, is_read=False)
        while not listing.complete:
            await self._listing.run(listing, partial(self._fetch_page, listing))
        dentry = listing.find(name)
        if listing.stale:
            return Known(dentry, listing.started_s, 0.0)
        if dentry is None:
            return self.dentries.add_missing(where, name, listing.started_s, self._clock())
        return self.dentries.positive(dentry, self._clock())

    async def _ask(self, where: DirectoryKey, name: bytes) -> Known:
        self.lookups_asked += 1
        asked_s, expirations = self._clock(), self._expirations
        dentry = await self._names.look_up(where, name, asked_s, partial(self._note_sought, where, name))
        if self._expirations != expirations:
            return Known(dentry, asked_s, 0.0)
        if dentry is None:
            return self.dentries.add_missing(where, name, asked_s, self._clock())
        return self.dentries.add(where, dentry, self._clock())

    def _note_sought(self, where: DirectoryKey, name: bytes) -> None:
        """Have a page of the listing fetched beside a look-up where that is worth it."""
        now_s = self._clock()
        if self.dentries.find(where, name, self.shelf.newest(where), now_s) is not None:
            return  # on a page that came meanwhile, so that the next one is worth nothing to it
        if self._list_ahead.note_asked(where, name, now_s):
            self._fetch_ahead(self.shelf.resume(where, 0, now_s)[0], ASKS_MAX)

    async def _fetch_page(self, listing: Listing, asks_max: float = math.inf) -> None:
        if listing.complete:  # whoever fetched ahead came just before
            return
        if listing.next_token is None:
            self.listings += 1
        asked_s = self._clock()
        start_after = listing.start_after
        try:
            page = await self._names.page(listing.where, listing.next_token, start_after=start_after, asks_max=asks_max)
        except DearPageError:  # whoever shares this request and needs the page asks again
            self._list_ahead.give_up(listing.where)
            return
        self.shelf.feed(listing, page.objects, page.prefixes, page.next_token, asked_s)
