"""Names of a frozen mount, kept on disk: what one mount of a snapshot was told, the next one need not ask.

Nothing in a snapshot changes, so an answer is good for ever, for everybody who may have it. Who may is settled by the
place under which names are kept: a digest that only the holder of the same secret key can make, for the same store,
bucket, snapshot and prefix. Whether that key is still good is asked once, at mount (``vfs.frozen``).

Pages of listings and single names are kept, missing ones too. A page is found by the row that it starts behind, not by
the store's continuation token, which may be old by then: where a page was dropped from the cache, the store is asked
for what follows the last row that is known. Names that a page told whoever asked for them one by one are found on it
again, in whatever order they are asked for. Writing is a service of its own behind a bounded queue: no look-up waits
for the disk to take its answer down, and what the queue has no room for is asked for again another time.

What the key may not look at is not kept, since that is not the snapshot's to say: another day it may.

A record that does not decode is missing. The cache has checked its bytes, so that is a record of another release.
"""

from __future__ import annotations

import json
import logging
import math
from collections import OrderedDict, deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from tigrismount.core.listing import Dentry, Listing
from tigrismount.core.names import key_bytes
from tigrismount.errors import ObjectProtocolError
from tigrismount.vfs.keptcodec import decode_name, decode_page, encode_name, encode_page
from tigrismount.vfs.links import may_be_link
from tigrismount.vfs.names import NamePage
from tigrismount.vfs.singleflight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.cache.base import RecordStore
    from tigrismount.core.names import DirectoryKey
    from tigrismount.vfs.names import LiveNames

log = logging.getLogger(__name__)

TABLE = "metadata"
"""The cache's table."""

QUEUE_LENGTH = 256
"""Answers that may wait to be written: a listing of 250,000 names, however slow the disk."""

_DRAIN_S = 2.0
"""How long answers may still be written when the mount ends."""

_SEARCHED_MAX, _SEARCHED_NAMES = 8, 4000
"""Directories of which kept pages are held to look for names on, and after how many names of each no further page is
taken: some 15 MiB at the most."""

_MOUNT, _NAME, _PAGE = b"m", b"n", b"p"


async def have_kept(records: RecordStore, place: bytes) -> bool:
    """Tell whether a mount of this place has kept names.

    Args:
        records: The cache's records.
        place: As for :class:`KeptNames`.
    """
    return await records.get(TABLE, place + _MOUNT) is not None


async def keep_mount(records: RecordStore, place: bytes) -> None:
    """Take down that a mount of this place was allowed."""
    await records.put(TABLE, place + _MOUNT, b"")


class KeptNames:
    """A name source that asks the store only for what is not kept.

    Args:
        live: Asks the store.
        records: The cache's records.
        place: Names the snapshot, and proves the right to it; of fixed length.
        may_keep: Tells whether the store is asked with the key that *place* is of: what another key is told is not
            for that one's holders.
    """

    def __init__(
        self, live: LiveNames, records: RecordStore, place: bytes, *, may_keep: Callable[[], bool] = lambda: True
    ) -> None:
        self._live = live
        self._records = records
        self._place = place
        self._may_keep = may_keep
        self._distrusted = False
        self._searched: OrderedDict[DirectoryKey, Listing] = OrderedDict()
        """What kept pages say, of directories that names were looked for in lately."""
        self._searching: SingleFlight[bool] = SingleFlight()
        self._queue: deque[tuple[bytes, Callable[[], bytes]]] = deque()
        self._arrived = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write answers down until cancelled; those that wait then, if that does not take long."""
        task_status.started()
        try:
            while True:
                await self._arrived.wait()
                self._arrived = trio.Event()
                await self._write()
        finally:
            with trio.move_on_after(_DRAIN_S, shield=True):
                await self._write()

    async def look_up(
        self, where: DirectoryKey, name: bytes, asked_s: float, on_sought: Callable[[], None]
    ) -> Dentry | None:
        """Return what a name stands for, as in the protocol."""
        key = self._place + _NAME + key_bytes(where.key_of(name))
        kept = await self._find(key)
        if kept is not None:
            try:
                info, there = decode_name(where, kept)
            except ValueError as exc:
                log.debug("a kept name does not decode: %s", exc)
            else:
                return Dentry(name, info, asked_s) if there else None
        listing = await self._search(where, name)
        listed = listing.find(name)
        if listed is not None or listing.complete:
            on_sought()
            return None if listed is None else replace(listed, observed_s=asked_s)
        unseen: list[bool] = []
        dentry = await self._live.look_up(where, name, asked_s, on_sought, lambda: unseen.append(True))
        info_found = None if dentry is None else dentry.info
        if not unseen and (info_found is None or not may_be_link(info_found)):
            self._keep(key, partial(encode_name, where, info_found, there=dentry is not None))
        return dentry

    async def page(
        self, where: DirectoryKey, token: str | None, *, start_after: str = "", asks_max: float = math.inf
    ) -> NamePage:
        """Return a page, as in the protocol."""
        after, store_token = (start_after, None) if token is None else json.loads(token)
        kept = await self._kept_page(where, after)
        if kept is not None:
            return kept
        page = await self._live.page(where, store_token, start_after=after, asks_max=asks_max)
        more = page.next_token is not None
        is_certain = not any(map(may_be_link, page.objects))
        # An empty page would be found under the key of the next one.
        if is_certain and (not more or page.objects or page.prefixes):
            self._keep(
                self._page_key(where, after), partial(encode_page, where, page.objects, page.prefixes, more=more)
            )
        return NamePage(page.objects, page.prefixes, _token(page, after) if more else None)

    def distrust(self) -> None:
        """Ask the store from now on, and keep what it says."""
        self._distrusted = True
        self._searched.clear()

    async def _search(self, where: DirectoryKey, name: bytes) -> Listing:
        """Return what the first kept pages of a directory say, as far as it takes to find *name*."""
        listing = self._searched.pop(where, None) or Listing(where, 0.0)
        self._searched[where] = listing
        if len(self._searched) > _SEARCHED_MAX:
            self._searched.popitem(last=False)
        while listing.find(name) is None and not listing.complete and len(listing.dentries) < _SEARCHED_NAMES:
            if not await self._searching.run(listing, partial(self._search_on, listing)):
                break
        return listing

    async def _search_on(self, listing: Listing) -> bool:
        """Take in the next page, if it is kept; tell whether it is."""
        after = "" if listing.next_token is None else json.loads(listing.next_token)[0]
        page = await self._kept_page(listing.where, after)
        if page is None:
            return False
        try:
            listing.feed(page.objects, page.prefixes, page.next_token, 0.0)
        except ObjectProtocolError as exc:
            log.debug("kept pages do not fit together: %s", exc)
            return False
        return True

    def _page_key(self, where: DirectoryKey, after: str) -> bytes:
        return self._place + _PAGE + key_bytes(where.prefix) + b"\0" + key_bytes(after)

    async def _kept_page(self, where: DirectoryKey, after: str) -> NamePage | None:
        """Return the page behind the row *after*, None where it is not kept."""
        kept = await self._find(self._page_key(where, after))
        if kept is None:
            return None
        try:
            objects, prefixes, more = decode_page(where, kept)
        except ValueError as exc:
            log.debug("a kept page does not decode: %s", exc)
            return None
        return NamePage(objects, prefixes, _token(NamePage(objects, prefixes, None), after) if more else None)

    async def _find(self, key: bytes) -> bytes | None:
        return None if self._distrusted else await self._records.get(TABLE, key)

    def _keep(self, key: bytes, encode: Callable[[], bytes]) -> None:
        if not self._may_keep():
            return
        if len(self._queue) == QUEUE_LENGTH:
            log.debug("a name is not kept: the disk does not keep up")
            return
        self._queue.append((key, encode))
        self._arrived.set()

    async def _write(self) -> None:
        while self._queue:
            key, encode = self._queue[0]
            await self._records.put(TABLE, key, encode())
            self._queue.popleft()  # only now: who is cancelled before writes it again at the end


def _token(page: NamePage, after: str) -> str:
    """Return where the next page starts: the last row, and the store's own token where it is of this process."""
    rows = [info.id.key for info in page.objects[-1:]] + list(page.prefixes[-1:])
    return json.dumps([max(rows, key=key_bytes, default=after), page.next_token])
