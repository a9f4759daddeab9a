"""Directory listings, streamed: pages of a store go in, names come out while later pages are still to be fetched.

The store sends keys and rolled-up prefixes in the order of their bytes. A directory wins over a file of the same name,
but ``foo`` is sent long before ``foo/``: everything from ``foo!`` to ``foo.z`` sorts between them. So a file is *held
back* until a row behind ``foo/`` has been seen. What is held back at any time are names that begin with one another,
that is a stack, and names come out in the order of ``name + "/"``.

A store that lies must not lead us in circles or show a name twice: rows may only go forward from page to page. Two
things are tolerated, because stores do them in good faith: a prefix sent again as the first row of the next page, and
empty pages, as long as their tokens differ and there are not too many.

Readers have cursors, which are ordinals: the place of a name in one listing, and a few bits that say which listing of
the directory it was. Listings are shared, kept while there is room for them, and never changed once a name is out. A
cursor into a listing that is gone, be it with an earlier process, goes on at its bookmark (``core.bookmarks``) in a
listing of what follows there; only where that is gone too, at its ordinal in the newest one.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.core.bookmarks import Bookmark, Bookmarks
from tigrismount.core.names import SIZE_MAX_BYTES, DirectoryKey, key_bytes, to_name
from tigrismount.errors import ObjectProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tigrismount.core.inodes import VersionInfo

STALLED_PAGES_MAX = 100
"""Pages without a row that are followed in a row: a hundred thousand deleted keys lie behind them at the most."""

ORDINAL_BITS = 40
"""Low bits of a cursor: the ordinal."""

GENERATIONS = 1 << 16
"""Listings of one directory that cursors tell apart; small, as ``off_t`` must stay positive."""

KEPT_PER_DIRECTORY = 4
"""Listings of one directory kept for readers that are still in an older one."""

_DELIMITER = ord("/")

LISTING_COST = 8
"""What an empty listing counts against the limit on names, so that many empty directories are bounded too."""


@dataclass(frozen=True, slots=True)
class Dentry:
    """A name in a directory and what it stands for."""

    name: bytes
    """File name."""
    info: VersionInfo | None
    """The object version; None for a directory."""
    observed_s: float
    """When the store was asked."""


class Listing:
    """One pass over the keys of a directory.

    Args:
        where: The directory.
        started_s: When the pass began.
        generation: Which listing of this directory it is; part of its cursors.
        behind: Where it begins; None at the start. One that begins later is for the readers at that place alone.
    """

    __slots__ = (
        "_behind",
        "_by_name",
        "_held",
        "_last",
        "_stalled",
        "complete",
        "dentries",
        "generation",
        "hidden",
        "next_token",
        "origin",
        "shadowed",
        "stale",
        "start_after",
        "started_s",
        "was_read",
        "where",
    )

    def __init__(
        self, where: DirectoryKey, started_s: float, generation: int = 0, behind: Bookmark | None = None
    ) -> None:
        self.where = where
        self.started_s = started_s
        self.generation = generation
        self.dentries: list[Dentry] = []
        """Names known so far; their index is their ordinal and never changes."""
        self.next_token: str | None = None
        """What to ask the next page with; None before the first page, and when complete."""
        self.complete = False
        """Whether the last page has been seen."""
        self.hidden = 0
        """Rows that no path can express, or no file as its size is none."""
        self.shadowed = 0
        """Files that a directory of the same name hides."""
        self.origin = behind.cursor if behind is not None else 0
        """The cursor that it goes on from, 0 where it begins at the start."""
        self.start_after = behind.start_after if behind is not None else ""
        """Row that its first page begins behind."""
        self.was_read = False
        """Whether somebody listed the directory; else it was us, so that look-ups find their names."""
        self.stale = behind is not None
        """Whether somebody said that it may be wrong: then only readers that are in it go on with it."""
        self._behind = behind
        self._by_name: dict[bytes, Dentry] = {}
        self._held: list[tuple[bytes, Dentry]] = []
        self._last = b""
        self._stalled: set[str] = set()

    def find(self, name: bytes) -> Dentry | None:
        """Return what *name* stands for, None when it is not known (yet)."""
        return self._by_name.get(name)

    def cursor(self, ordinal: int) -> int:
        """Return the directory offset of the name with this ordinal."""
        return self.generation << ORDINAL_BITS | ordinal

    def bookmark(self, ordinal: int) -> Bookmark:
        """Return the bookmark of :meth:`cursor` of *ordinal*, which is not 0.

        A file that the name begins with may be still to come though its row lies before: then all is read from there.
        """
        dentry = self.dentries[ordinal - 1]
        name, files = dentry.name, {held.name for _, held in self._held}
        start_after = self.where.key_of(name) + ("/" if dentry.info is None else "")
        for stop in range(1, len(name)):
            above = self.find(name[:stop])
            if name[stop] < _DELIMITER and (name[:stop] in files or (above is not None and above.info is not None)):
                start_after = self.where.key_of(name[:stop])[:-1]
                break
        return Bookmark(self.where, self.cursor(ordinal), start_after, name)

    def has_directory(self, name: bytes) -> bool:
        """Tell whether *name* is known to be a directory."""
        dentry = self.find(name)
        return dentry is not None and dentry.info is None

    def feed(
        self, objects: Sequence[VersionInfo], prefixes: Sequence[str], next_token: str | None, now_s: float
    ) -> None:
        """Take in the next page.

        Args:
            objects: Keys of the page.
            prefixes: Rolled-up prefixes of the page.
            next_token: Where the next page begins, None on the last page.
            now_s: When the page was asked for.

        Raises:
            ObjectProtocolError: The page goes backwards or in circles, or does not belong to this directory; the
                listing is unchanged.
        """
        rows = self._rows(objects, prefixes)
        self._check_progress(rows, next_token)
        for key, component, info in rows:
            self._take(key, component, info, now_s)
        self.next_token = next_token
        if next_token is None:
            self.complete = True
            while self._held:
                self._emit(self._held.pop()[1])

    def check_invariants(self) -> None:
        """Raise AssertionError unless each name is there once and what is held back is a stack of beginnings."""
        assert len(self._by_name) == len(self.dentries)
        assert all(self._by_name[dentry.name] is dentry for dentry in self.dentries)
        assert not (self.complete and self._held)
        for (lower, _), (upper, _) in zip(self._held, self._held[1:], strict=False):
            assert upper.startswith(lower[:-1])
            assert upper < lower

    def _rows(
        self, objects: Sequence[VersionInfo], prefixes: Sequence[str]
    ) -> list[tuple[bytes, str, VersionInfo | None]]:
        """Return the rows of a page in order: sort key, component, and the version or None for a directory."""
        start = self.where.prefix
        rows: list[tuple[bytes, str, VersionInfo | None]] = []
        for info in objects:
            key = info.id.key
            if key != start:  # the directory's own marker is no entry
                rows.append((key_bytes(key), self._component(key, key), info))
        rows.extend((key_bytes(key), self._component(key, key.removesuffix("/")), None) for key in prefixes)
        rows.sort(key=_sort_key)
        if len(rows) and rows[0][0] == self._last and rows[0][2] is None:
            del rows[0]
        return rows

    def _component(self, key: str, trimmed: str) -> str:
        """Return the last component of a row, *trimmed* of the delimiter that a directory ends with."""
        start = len(self.where.prefix)
        is_row = key.startswith(self.where.prefix) and len(key) > start and "/" not in trimmed[start:]
        if not is_row:
            raise ObjectProtocolError(
                f"the listing of {self.where.prefix!r} holds a row that is not its own",
                bucket=self.where.bucket,
                key=key,
            )
        return trimmed[start:]

    def _check_progress(self, rows: list[tuple[bytes, str, VersionInfo | None]], next_token: str | None) -> None:
        last = self._last
        for key, _, _ in rows:
            if key <= last:
                raise self._lie("the listing goes backwards or repeats a key")
            last = key
        if next_token is not None and next_token == self.next_token:
            raise self._lie("the listing repeats its continuation token")
        if rows:
            self._stalled.clear()
        elif next_token is not None:
            if next_token in self._stalled or len(self._stalled) == STALLED_PAGES_MAX:
                raise self._lie("the listing does not come forward")
            self._stalled.add(next_token)

    def _take(self, key: bytes, component: str, info: VersionInfo | None, now_s: float) -> None:
        """Take in one row, which lies behind all rows before it."""
        self._last = key
        held = self._held
        while held and held[-1][0] < key:
            self._emit(held.pop()[1])
        if held and held[-1][0] == key:
            held.pop()
            self.shadowed += 1
        name = to_name(component)
        if name is None or (info is not None and not 0 <= info.id.size_bytes <= SIZE_MAX_BYTES):
            self.hidden += 1
            return
        dentry = Dentry(name, info, now_s)
        if info is None:
            self._emit(dentry)
        else:
            held.append((key + b"/", dentry))

    def _emit(self, dentry: Dentry) -> None:
        if self._behind is not None and self._behind.is_behind(dentry.name):
            return
        self.dentries.append(dentry)
        self._by_name[dentry.name] = dentry

    def _lie(self, detail: str) -> ObjectProtocolError:
        return ObjectProtocolError(detail, bucket=self.where.bucket, key=self.where.prefix)


def _sort_key(row: tuple[bytes, str, VersionInfo | None]) -> bytes:
    return row[0]


class ListingShelf:
    """The listings that are kept, least recently read directories out first.

    Args:
        ttl_s: Seconds a listing is fresh.
        name_limit: Most names kept. Open directories and the one read last stay even where they alone hold more:
            a listing that goes while it is read would have to be fetched again from its start.
    """

    def __init__(self, *, ttl_s: float, name_limit: int) -> None:
        self._ttl_s = ttl_s
        self._name_limit = name_limit
        self._shelf: OrderedDict[DirectoryKey, list[Listing]] = OrderedDict()
        self._pins: dict[DirectoryKey, int] = {}
        self._cost = 0
        self._begun = 0
        self.bookmarks = Bookmarks()
        """Places of readers that a listing may be begun at."""

    def pin(self, where: DirectoryKey) -> None:
        """Keep the listings of a directory from now on: it was opened."""
        self._pins[where] = self._pins.get(where, 0) + 1

    def unpin(self, where: DirectoryKey) -> None:
        """Take back one :meth:`pin`; one that was never made is no error."""
        count = self._pins.pop(where, 0)
        if count > 1:
            self._pins[where] = count - 1
        self._trim()

    def newest(self, where: DirectoryKey) -> Listing | None:
        """Return the newest listing of a directory, fresh or not; None where there is none to be trusted at all."""
        listings = self._shelf.get(where)
        return listings[-1] if listings and not listings[-1].stale else None

    def expire(self, places: Callable[[DirectoryKey], bool]) -> None:
        """Trust no listing any more of a directory that *places* holds true of."""
        for where, listings in self._shelf.items():
            if places(where):
                for listing in listings:
                    listing.stale = True

    def newest_of_each(self) -> list[Listing]:
        """Return the newest listing of every directory that has one."""
        return [listings[-1] for listings in self._shelf.values()]

    def restore(self, bookmark: Bookmark) -> None:
        """Take over a bookmark of an earlier process: no listing of ours will have cursors like its."""
        self.bookmarks.put(bookmark)
        self._begun = max(self._begun, (bookmark.cursor >> ORDINAL_BITS) + 1)

    def resume(self, where: DirectoryKey, cursor: int, now_s: float) -> tuple[Listing, int]:
        """Return the listing a cursor lies in and its ordinal there.

        Cursor 0 lies in the newest listing while that is fresh, else in a new one that has no page yet. Any other
        cursor lies in the listing it was made from; where that is gone, at the start of one that begins there; where
        the place is not known any more, in the newest one, fresh or not.
        """
        listings = self._shelf.setdefault(where, [])
        self._shelf.move_to_end(where)
        generation, ordinal = divmod(cursor, 1 << ORDINAL_BITS)
        newest = listings[-1] if listings else None
        bookmark = self.bookmarks.find(where, cursor)
        if bookmark is not None and all(listing.generation != generation for listing in listings):
            newest = next((listing for listing in listings if listing.origin == cursor), None)
            newest, ordinal = newest or self._begin(where, listings, now_s, bookmark), 0
        elif newest is None or (cursor == 0 and (newest.stale or now_s >= newest.started_s + self._ttl_s)):
            newest = self._begin(where, listings, now_s)
        elif cursor != 0:
            newest = next((listing for listing in listings if listing.generation == generation), newest)
        self._trim()  # the directory read last until now may be the one that holds too much
        return newest, ordinal

    def feed(
        self,
        listing: Listing,
        objects: Sequence[VersionInfo],
        prefixes: Sequence[str],
        next_token: str | None,
        now_s: float,
    ) -> None:
        """Take in the next page of *listing*; one that lies is taken off the shelf.

        Raises:
            ObjectProtocolError: As in :meth:`Listing.feed`.
        """
        before = len(listing.dentries)
        try:
            listing.feed(objects, prefixes, next_token, now_s)
        except ObjectProtocolError:
            self.discard(listing)
            raise
        if listing in self._shelf.get(listing.where, ()):
            self._cost += len(listing.dentries) - before
            self._trim()

    def drop_old(self, now_s: float) -> None:
        """Take off the shelf what is fresh no more, of directories that nobody has open."""
        old = [
            where
            for where, listings in self._shelf.items()
            if where not in self._pins and all(now_s >= listing.started_s + self._ttl_s for listing in listings)
        ]
        for where in old:
            self._cost -= sum(map(_cost, self._shelf.pop(where)))

    def discard(self, listing: Listing) -> None:
        """Take *listing* off the shelf, if it is there still."""
        listings = self._shelf.get(listing.where, [])
        if listing in listings:
            listings.remove(listing)
            self._cost -= _cost(listing)
            if not listings:
                del self._shelf[listing.where]

    def check_invariants(self) -> None:
        """Raise AssertionError unless the cost is what lies on the shelf, and below the limit where it can be."""
        assert all(self._shelf.values()), "a directory without a listing"
        assert self._cost == sum(_cost(listing) for listings in self._shelf.values() for listing in listings)
        evictable = [where for where in list(self._shelf)[:-1] if where not in self._pins]
        assert self._cost <= self._name_limit or not evictable
        for listings in self._shelf.values():
            assert len(listings) <= KEPT_PER_DIRECTORY
            assert len({listing.generation for listing in listings}) == len(listings)

    def _begin(
        self, where: DirectoryKey, listings: list[Listing], now_s: float, behind: Bookmark | None = None
    ) -> Listing:
        taken = {listing.generation for listing in listings}
        while (generation := self._begun % GENERATIONS) in taken:
            self._begun += 1
        self._begun += 1
        listing = Listing(where, now_s, generation, behind)
        # The last one is for those who begin at the start.
        listings.insert(len(listings) - 1 if listings and behind is not None else len(listings), listing)
        self._cost += LISTING_COST
        if len(listings) > KEPT_PER_DIRECTORY:
            self._cost -= _cost(listings.pop(0))
        return listing

    def _trim(self) -> None:
        victims, surplus = [], self._cost - self._name_limit
        for where, listings in itertools.islice(self._shelf.items(), max(0, len(self._shelf) - 1)):
            if surplus <= 0:
                break
            if where not in self._pins:
                victims.append(where)
                surplus -= sum(map(_cost, listings))
        for where in victims:
            self._cost -= sum(map(_cost, self._shelf.pop(where)))


def _cost(listing: Listing) -> int:
    return len(listing.dentries) + LISTING_COST
