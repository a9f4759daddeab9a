"""When a page of a listing is worth more than the next look-up."""

from __future__ import annotations

from itertools import count

from tigrismount.core.listahead import ListAhead
from tigrismount.core.names import DirectoryKey

DIR, OTHER = DirectoryKey("bucket", "d/"), DirectoryKey("bucket", "e/")
NEW_NAMES = (b"%d" % number for number in count(1))


def pages(ahead, many, where=DIR, now_s=0.0):
    """Return at which of so *many* new names a page was worth it."""
    return [number for number in range(1, many + 1) if ahead.note_asked(where, next(NEW_NAMES), now_s)]


def test_the_third_name_is_worth_a_page_and_each_next_page_needs_more_names_than_the_last():
    assert pages(ListAhead(ttl_s=60.0), 50) == [3, 9, 18, 30, 45]


def test_a_name_that_somebody_waits_for_counts_once():
    """Mutation: where look-ups count, who waits for ``_SUCCESS`` finds a listing from before it."""
    ahead = ListAhead(ttl_s=60.0)
    assert not any(ahead.note_asked(DIR, name, 0.0) for name in (b"a", b"ready") * 50)
    assert ahead.note_asked(DIR, b"b", 0.0)


def test_each_directory_counts_for_itself_and_only_while_names_are_trusted():
    ahead = ListAhead(ttl_s=60.0)
    assert pages(ahead, 2) == []
    assert pages(ahead, 2, OTHER) == []
    assert pages(ahead, 1, now_s=59.0) == [1]
    assert pages(ahead, 3, OTHER, now_s=60.0) == [3], "counted from its first again"


def test_a_page_that_could_not_be_had_is_not_asked_for_again_until_all_is_forgotten():
    ahead = ListAhead(ttl_s=60.0)
    assert pages(ahead, 3) == [3]
    ahead.give_up(DIR)
    ahead.give_up(OTHER)
    assert pages(ahead, 100) == []
    assert pages(ahead, 3, now_s=60.0) == [3]


def test_names_that_nobody_trusts_are_not_listed():
    assert pages(ListAhead(ttl_s=0.0), 100) == []


def test_what_is_remembered_is_bounded():
    ahead = ListAhead(ttl_s=60.0)
    pages(ahead, 2)
    for number in range(1024):
        ahead.note_asked(DirectoryKey("bucket", f"{number}/"), b"a", 0.0)
    assert pages(ahead, 1) == []
