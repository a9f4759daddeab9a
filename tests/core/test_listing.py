from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tigrismount.core.listing import GENERATIONS, KEPT_PER_DIRECTORY, STALLED_PAGES_MAX, Listing, ListingShelf
from tigrismount.core.names import DirectoryKey, key_bytes, path_of, to_name
from tigrismount.core.types import ObjectId
from tigrismount.errors import ObjectProtocolError

ROOT = DirectoryKey("bucket", "")
DIR = DirectoryKey("bucket", "d/")


@dataclass(frozen=True)
class Info:
    id: ObjectId
    mtime_s: float = 1.0
    storage_class: str = "STANDARD"
    version_id: str | None = None
    symlink_target: bytes | None = None
    sha256: str = ""


def info(key: str) -> Info:
    return Info(ObjectId("bucket", key, "e", 1))


def infos(*keys: str) -> list[Info]:
    return [info(key) for key in keys]


def shown(listing: Listing) -> list[tuple[bytes, bool]]:
    return [(dentry.name, dentry.info is None) for dentry in listing.dentries]


def rows_of(keys: set[str], prefix: str) -> list[tuple[str, bool]]:
    """Return what a store lists with the delimiter ``/``: (key, False) or (common prefix, True), in order."""
    rows = set()
    for key in keys:
        if key.startswith(prefix):
            head, slash, _ = key[len(prefix) :].partition("/")
            rows.add((prefix + head + slash, bool(slash)))
    return sorted(rows, key=lambda row: key_bytes(row[0]))


# Letters around the slash: "." and "!" sort before it, "0" and "a" behind it.
keys = st.text(st.sampled_from("ab/.!0\0é"), min_size=1, max_size=7) | st.text(max_size=5)


@given(st.sets(keys, max_size=25), st.sampled_from(["", "a/"]), st.lists(st.integers(0, 4), max_size=12))
def test_any_keys_in_any_pages_show_each_name_once_and_directories_win(keys, prefix, page_sizes):
    listing = Listing(DirectoryKey("bucket", prefix), 0.0)
    rows = rows_of(keys, prefix)
    seen: list[tuple[bytes, bool]] = []
    for number, size in enumerate(page_sizes):
        page, rows = rows[:size], rows[size:]
        feed_rows(listing, page, f"token {number}")
        listing.check_invariants()
        assert shown(listing)[: len(seen)] == seen, "an ordinal changed"
        seen = shown(listing)
    feed_rows(listing, rows, None)
    listing.check_invariants()

    names: dict[bytes, bool] = {}
    hidden = shadowed = 0
    for row, is_dir in rows_of(keys, prefix):
        component = row[len(prefix) :].removesuffix("/")
        name = to_name(component)
        if name is None:
            hidden += row != prefix
        else:
            shadowed += name in names
            names[name] = is_dir or names.get(name, False)
    assert shown(listing) == sorted(names.items(), key=lambda item: item[0] + b"/")
    assert (listing.hidden, listing.shadowed) == (hidden, shadowed)
    assert listing.complete


def feed_rows(listing, rows, token):
    objects = [info(key) for key, is_dir in rows if not is_dir]
    listing.feed(objects, [key for key, is_dir in rows if is_dir], token, 0.0)


@given(st.sets(keys, max_size=25))
def test_a_key_is_reached_by_listings_exactly_when_it_has_a_path(keys):
    reached = set()
    todo = [ROOT]
    while todo:
        where = todo.pop()
        listing = Listing(where, 0.0)
        feed_rows(listing, rows_of(keys, where.prefix), None)
        for dentry in listing.dentries:
            if dentry.info is None:
                todo.append(where.child(dentry.name))
            else:
                reached.add(dentry.info.id.key)
    for key in keys:
        path = path_of(key, "")
        is_file = path is not None and not path.is_marker
        shadowed = any(other.startswith(key + "/") for other in keys)
        assert (key in reached) == (is_file and not shadowed)


def test_a_file_is_held_back_until_the_directory_of_its_name_cannot_come_any_more():
    listing = Listing(ROOT, 0.0)
    listing.feed(infos("foo", "foo-x"), [], "t1", 0.0)
    assert shown(listing) == []
    listing.feed(infos("foo.y"), [], "t2", 0.0)
    assert shown(listing) == [(b"foo-x", False)]
    listing.feed([], ["foo/"], "t3", 0.0)
    assert shown(listing) == [(b"foo-x", False), (b"foo.y", False), (b"foo", True)]
    assert listing.shadowed == 1


def test_names_come_out_while_pages_are_missing():
    listing = Listing(ROOT, 0.0)
    listing.feed(infos("a", "b", "c"), [], "t1", 0.0)
    assert shown(listing) == [(b"a", False), (b"b", False)]
    assert not listing.complete
    assert listing.find(b"a") is listing.dentries[0]
    assert listing.find(b"c") is None


def test_a_name_is_as_old_as_the_page_it_came_with():
    listing = Listing(ROOT, 10.0)
    listing.feed(infos("a", "b"), [], "t1", 10.0)
    listing.feed(infos("c"), [], None, 15.0)
    assert [(dentry.name, dentry.observed_s) for dentry in listing.dentries] == [
        (b"a", 10.0),
        (b"b", 10.0),
        (b"c", 15.0),
    ]


def test_the_marker_of_the_directory_itself_is_no_entry_and_not_hidden():
    listing = Listing(DIR, 0.0)
    listing.feed(infos("d/", "d/a"), [], None, 0.0)
    assert shown(listing) == [(b"a", False)]
    assert listing.hidden == 0


def test_keys_that_no_path_expresses_are_counted_and_not_shown():
    listing = Listing(DIR, 0.0)
    listing.feed(infos("d/.", "d/" + "x" * 256, "d/a\0"), ["d//", "d/../"], None, 0.0)
    assert shown(listing) == []
    assert listing.hidden == 5


@pytest.mark.parametrize("size_bytes", [-1, 1 << 63])
def test_an_object_of_an_impossible_size_is_hidden(size_bytes):
    listing = Listing(DIR, 0.0)
    listing.feed([Info(ObjectId("bucket", "d/a", "e", size_bytes)), info("d/b")], [], None, 0.0)
    assert shown(listing) == [(b"b", False)]
    assert listing.hidden == 1


def test_a_prefix_sent_again_at_the_start_of_the_next_page_is_one_directory():
    listing = Listing(ROOT, 0.0)
    listing.feed([], ["a/"], "t1", 0.0)
    listing.feed(infos("b"), ["a/"], None, 0.0)
    assert shown(listing) == [(b"a", True), (b"b", False)]


@pytest.mark.parametrize(
    ("objects", "prefixes"),
    [(["b"], []), (["a"], []), (["c", "c"], []), ([], ["a/"]), ([], ["c/", "c/"])],
    ids=["the last key again", "backwards", "one key twice", "a prefix backwards", "one prefix twice"],
)
def test_a_page_that_does_not_go_forward_is_refused_and_changes_nothing(objects, prefixes):
    listing = Listing(ROOT, 0.0)
    listing.feed(infos("a", "b"), [], "t1", 0.0)
    with pytest.raises(ObjectProtocolError):
        listing.feed(infos(*objects), prefixes, None, 0.0)
    assert (shown(listing), listing.next_token, listing.complete) == ([(b"a", False)], "t1", False)


@pytest.mark.parametrize(
    ("objects", "prefixes"),
    [(["e/a"], []), (["d/a/b"], []), (["d/a/"], []), (["d"], []), ([], ["e/"]), ([], ["d/a/b/"]), ([], ["d/"])],
)
def test_a_row_of_another_directory_is_refused(objects, prefixes):
    with pytest.raises(ObjectProtocolError, match="not its own"):
        Listing(DIR, 0.0).feed(infos(*objects), prefixes, None, 0.0)


def test_a_token_that_comes_again_at_once_is_refused():
    listing = Listing(ROOT, 0.0)
    listing.feed(infos("a"), [], "t1", 0.0)
    with pytest.raises(ObjectProtocolError, match="repeats its continuation token"):
        listing.feed(infos("b"), [], "t1", 0.0)


def test_empty_pages_are_followed_unless_their_tokens_go_round():
    listing = Listing(ROOT, 0.0)
    for token in ("t1", "t2"):
        listing.feed([], [], token, 0.0)
    listing.feed(infos("a"), [], "t3", 0.0)
    for token in ("t1", "t2"):
        listing.feed([], [], token, 0.0)
    with pytest.raises(ObjectProtocolError, match="come forward"):
        listing.feed([], [], "t1", 0.0)


def test_empty_pages_without_end_are_refused():
    listing = Listing(ROOT, 0.0)
    for number in range(STALLED_PAGES_MAX):
        listing.feed([], [], f"t{number}", 0.0)
    with pytest.raises(ObjectProtocolError, match="come forward"):
        listing.feed([], [], "one more", 0.0)


# -- the shelf -------------------------------------------------------------------------------------------------


def shelf(ttl_s: float = 60.0, name_limit: int = 1000) -> ListingShelf:
    return ListingShelf(ttl_s=ttl_s, name_limit=name_limit)


def test_a_fresh_listing_is_read_again_and_an_old_one_is_not():
    kept = shelf()
    first, _ = kept.resume(ROOT, 0, 100.0)
    assert kept.resume(ROOT, 0, 159.9) == (first, 0)
    second, ordinal = kept.resume(ROOT, 0, 160.0)
    assert second is not first
    assert ordinal == 0
    assert kept.newest(ROOT) is second


def test_a_cursor_stays_in_its_listing_when_a_newer_one_has_begun():
    kept = shelf()
    first, _ = kept.resume(ROOT, 0, 0.0)
    second, _ = kept.resume(ROOT, 0, 60.0)
    assert kept.resume(ROOT, first.cursor(3), 60.0) == (first, 3)
    assert kept.resume(ROOT, second.cursor(3), 60.0) == (second, 3)


def test_a_cursor_whose_listing_is_gone_goes_on_in_the_newest_or_in_a_new_one():
    kept = shelf()
    first, _ = kept.resume(ROOT, 0, 0.0)
    for number in range(KEPT_PER_DIRECTORY):
        kept.resume(ROOT, 0, 60.0 * (number + 1))
    assert kept.resume(ROOT, first.cursor(3), 1000.0) == (kept.newest(ROOT), 3)
    begun, ordinal = shelf().resume(ROOT, first.cursor(3), 0.0)
    assert (begun.dentries, ordinal) == ([], 3)


@pytest.mark.parametrize("last", ["the older listing", "the newer listing"])
def test_whoever_reads_on_behind_a_takeover_misses_no_name_though_another_reads_from_the_start(last):
    """Whichever of two directories was read last: no listing of the successor has cursors like those before it."""
    before = shelf()
    older, _ = before.resume(ROOT, 0, 0.0)
    newer, _ = before.resume(DIR, 0, 0.0)
    before.feed(older, infos("a", "b", "c"), [], None, 0.0)
    before.feed(newer, infos("d/a", "d/b", "d/c"), [], None, 0.0)
    places = [newer.bookmark(2), older.bookmark(2)]
    successor = shelf()
    for place in places if last == "the older listing" else reversed(places):
        successor.restore(place)
    for where, names in ((DIR, ("d/b", "d/c")), (ROOT, ("b", "c"))):  # what was given first is deleted
        begun, _ = successor.resume(where, 0, 1.0)
        successor.feed(begun, infos(*names), [], None, 1.0)

    for place in places:
        listing, ordinal = successor.resume(place.where, place.cursor, 2.0)
        if not listing.complete:
            successor.feed(listing, infos(place.where.prefix + "c"), [], None, 2.0)
        assert [dentry.name for dentry in listing.dentries[ordinal:]] == [b"c"]


def test_generations_start_over_before_a_cursor_leaves_a_signed_64_bit_offset():
    kept = shelf(ttl_s=0.0)
    seen = {kept.resume(ROOT, 0, 0.0)[0].generation for _ in range(GENERATIONS + 2)}
    assert seen == set(range(GENERATIONS))
    assert Listing(ROOT, 0.0, GENERATIONS - 1).cursor(1 << 39) < 1 << 63


def test_a_listing_that_lies_is_taken_off_the_shelf():
    kept = shelf()
    listing, _ = kept.resume(ROOT, 0, 0.0)
    with pytest.raises(ObjectProtocolError):
        kept.feed(listing, infos("b", "b"), [], None, 0.0)
    assert kept.newest(ROOT) is None
    kept.check_invariants()


def test_open_directories_and_the_one_read_last_are_kept_whatever_they_hold():
    kept = shelf(name_limit=20)
    kept.pin(DIR)
    for where in (DIR, ROOT, DirectoryKey("bucket", "e/")):
        listing, _ = kept.resume(where, 0, 0.0)
        kept.feed(listing, infos(*(f"{where.prefix}{n:02}" for n in range(30))), [], None, 0.0)
        kept.check_invariants()
    assert [listing.where.prefix for listing in kept.newest_of_each()] == ["d/", "e/"]
    kept.unpin(DIR)
    kept.unpin(DIR)
    assert [listing.where.prefix for listing in kept.newest_of_each()] == ["e/"]


def test_listings_that_are_fresh_no_more_go_unless_their_directory_is_open():
    kept = shelf(ttl_s=60.0)
    kept.pin(DIR)
    for where in (DIR, ROOT, DirectoryKey("bucket", "e/")):
        listing, _ = kept.resume(where, 0, 0.0)
        kept.feed(listing, infos(*(f"{where.prefix}{n:02}" for n in range(30))), [], None, 0.0)
    kept.resume(DirectoryKey("bucket", "e/"), 0, 60.0)
    kept.drop_old(60.0)
    assert [listing.where.prefix for listing in kept.newest_of_each()] == ["d/", "e/"]
    kept.unpin(DIR)
    kept.drop_old(120.0)
    assert kept.newest_of_each() == []
    kept.check_invariants()
    frozen = shelf(ttl_s=math.inf)
    frozen.resume(ROOT, 0, 0.0)
    frozen.drop_old(1e9)
    assert len(frozen.newest_of_each()) == 1


class Shelf(RuleBasedStateMachine):
    """Random reading of three directories on a shelf with room for about two."""

    directories = st.sampled_from([DirectoryKey("bucket", prefix) for prefix in ("", "a/", "b/")])

    def __init__(self):
        super().__init__()
        self.shelf = shelf(ttl_s=10.0, name_limit=60)
        self.now_s = 0.0
        self.rows = 0
        self.listings: list[Listing] = []
        self.pins: dict[DirectoryKey, int] = {}

    @rule(where=directories, count=st.integers(0, 12), last=st.booleans())
    def read(self, where, count, last):
        listing, ordinal = self.shelf.resume(where, 0, self.now_s)
        assert ordinal == 0
        assert self.now_s < listing.started_s + 10.0
        self.listings.append(listing)
        self.feed(listing, count, last)

    @rule(where=directories)
    def look(self, where):
        """Go back to what is there, with a cursor that is in no listing."""
        self.shelf.resume(where, (GENERATIONS - 1) << 40 | 3, self.now_s)

    @rule(pick=st.integers(0, 1000), count=st.integers(0, 12), last=st.booleans())
    def read_on(self, pick, count, last):
        """Also listings that have left the shelf: a reader may still be in one."""
        if self.listings:
            self.feed(self.listings[pick % len(self.listings)], count, last)

    def feed(self, listing, count, last):
        if not listing.complete:
            self.rows += count + 1
            names = [f"{listing.where.prefix}{number:06}" for number in range(self.rows - count, self.rows)]
            self.shelf.feed(listing, infos(*names), [], None if last else f"token {self.rows}", self.now_s)

    @rule()
    def drop_old(self):
        self.shelf.drop_old(self.now_s)

    @rule(where=directories)
    def pin(self, where):
        self.shelf.pin(where)
        self.pins[where] = self.pins.get(where, 0) + 1

    @rule(where=directories)
    def unpin(self, where):
        self.shelf.unpin(where)
        self.pins[where] = max(0, self.pins.get(where, 0) - 1)

    @rule(pick=st.integers(0, 1000))
    def discard(self, pick):
        if self.listings:
            self.shelf.discard(self.listings[pick % len(self.listings)])

    @rule(seconds=st.sampled_from([1.0, 5.0, 10.0]))
    def wait(self, seconds):
        self.now_s += seconds

    @invariant()
    def holds(self):
        self.shelf.check_invariants()


TestShelf = Shelf.TestCase
