"""Places in directories by name: which names lie behind one, and how many are kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.bookmarks import Bookmark, Bookmarks
from tigrismount.core.listing import Listing
from tigrismount.core.names import DirectoryKey
from tigrismount.core.types import ObjectId
from tigrismount.objects.client import ObjectInfo

ROOT = DirectoryKey("bucket", "")


def mark(cursor: int, name: bytes = b"x") -> Bookmark:
    return Bookmark(ROOT, cursor, name.decode(), name)


def test_the_one_used_least_lately_is_dropped():
    kept = Bookmarks(limit=2)
    assert [kept.put(mark(number)) for number in (1, 2, 1, 3)] == [True, True, False, True]
    assert [place.cursor for place in kept] == [1, 3]
    assert kept.find(ROOT, 2) is None
    assert kept.find(DirectoryKey("bucket", "other/"), 1) is None


def test_another_name_at_a_known_cursor_is_news():
    kept = Bookmarks()
    kept.put(mark(1, b"a"))
    assert kept.put(mark(1, b"b"))
    assert kept.find(ROOT, 1) == mark(1, b"b")


components = st.text("a-./!0", min_size=1, max_size=4).filter(lambda text: "/" not in text and text not in (".", ".."))


def listed(files: set[str], directories: set[str], behind: Bookmark | None = None) -> Listing:
    """List as a store does: rows behind ``start_after`` alone, a prefix again where it lies within it."""
    listing = Listing(ROOT, 0.0, behind=behind)
    after = listing.start_after.encode()
    rows = [name for name in sorted(files) if name.encode() > after]
    prefixes = [f"{name}/" for name in sorted(directories) if f"{name}/key".encode() > after]
    infos = [ObjectInfo(ObjectId("bucket", name, '"e"', 1, 0), 0.0) for name in rows]
    listing.feed(infos, prefixes, None, 0.0)
    return listing


@given(st.sets(components), st.sets(components), st.sets(components), st.sets(components), st.data())
def test_behind_a_bookmark_come_all_names_that_stayed_and_none_again(files, directories, gone, come, data):
    before = listed(files, directories)
    names = [dentry.name for dentry in before.dentries]
    if not names:
        return
    ordinal = data.draw(st.integers(1, len(names)))
    after = listed(files - gone | come, directories - gone, before.bookmark(ordinal))
    found = [dentry.name for dentry in after.dentries]
    assert not set(found) & set(names[:ordinal])
    stayed = {name for name in names[ordinal:] if name.decode() not in gone | come}
    assert stayed <= set(found)
    if not gone and not come:
        assert found == names[ordinal:]
