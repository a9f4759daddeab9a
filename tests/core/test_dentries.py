from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.dentries import Dentries, Known
from tigrismount.core.listing import Dentry, Listing
from tigrismount.core.names import DirectoryKey
from tigrismount.core.types import ObjectId

DIR = DirectoryKey("bucket", "d/")


@dataclass(frozen=True)
class Info:
    id: ObjectId
    mtime_s: float = 1.0
    storage_class: str = "STANDARD"
    version_id: str | None = None
    symlink_target: bytes | None = None
    sha256: str = ""


def info(key: str, etag: str = "e") -> Info:
    return Info(ObjectId("bucket", key, etag, 1))


def there(name: bytes, observed_s: float) -> Dentry:
    return Dentry(name, info("d/" + name.decode()), observed_s)


def dentries(ttl_s: float = 60.0, negative_ttl_s: float = 5.0, **limits: int) -> Dentries:
    return Dentries(ttl_s=ttl_s, negative_ttl_s=negative_ttl_s, **limits)


def listing_of(*names: str, started_s: float = 0.0, complete: bool = True) -> Listing:
    listing = Listing(DIR, started_s)
    listing.was_read = True
    listing.feed([info("d/" + name) for name in names], [], None if complete else "more", started_s)
    return listing


def test_a_name_that_is_there_is_trusted_for_the_ttl_and_its_time_runs_down():
    known = dentries()
    a = there(b"a", 100.0)
    assert known.add(DIR, a, 102.0) == Known(a, 100.0, 58.0)
    assert known.find(DIR, b"a", None, 150.0) == Known(a, 100.0, 10.0)
    assert known.find(DIR, b"a", None, 160.0) is None
    assert known.find(DIR, b"b", None, 150.0) is None
    assert known.find(DirectoryKey("bucket", ""), b"a", None, 150.0) is None


def test_a_missing_name_is_trusted_for_the_negative_ttl():
    known = dentries()
    assert known.add_missing(DIR, b"a", 100.0, 101.0) == Known(None, 100.0, 4.0)
    assert known.find(DIR, b"a", None, 104.0) == Known(None, 100.0, 1.0)
    assert known.find(DIR, b"a", None, 105.0) is None


def test_an_answer_that_took_longer_than_the_ttl_has_no_time_left():
    known = dentries()
    assert known.add(DIR, there(b"a", 100.0), 200.0).ttl_s == 0.0
    assert known.add_missing(DIR, b"b", 100.0, 200.0).ttl_s == 0.0


def test_the_ttl_may_be_endless_or_nothing():
    known = dentries(ttl_s=math.inf)
    known.add(DIR, there(b"a", 0.0), 0.0)
    assert known.find(DIR, b"a", None, 1e12) == Known(there(b"a", 0.0), 0.0, math.inf)
    never = dentries(ttl_s=0.0, negative_ttl_s=0.0)
    assert never.add(DIR, there(b"a", 0.0), 0.0).ttl_s == 0.0
    never.add_missing(DIR, b"b", 0.0, 0.0)
    assert never.find(DIR, b"a", None, 0.0) is None
    assert never.find(DIR, b"b", None, 0.0) is None
    assert never.find(DIR, b"c", listing_of(), 0.0) is None


def test_a_look_up_replaces_what_was_known_of_the_name():
    known = dentries()
    known.add(DIR, there(b"a", 0.0), 0.0)
    known.add_missing(DIR, b"a", 1.0, 1.0)
    assert known.find(DIR, b"a", None, 1.0).dentry is None
    known.add(DIR, there(b"a", 2.0), 2.0)
    assert known.find(DIR, b"a", None, 2.0).dentry == there(b"a", 2.0)
    assert (known.positive_count, known.negative_count) == (1, 0)


def test_a_listing_answers_for_its_names_while_it_is_incomplete():
    partial = listing_of("a", "b", complete=False)
    assert dentries().find(DIR, b"a", partial, 59.0) == Known(there(b"a", 0.0), 0.0, 1.0)
    assert dentries().find(DIR, b"a", partial, 60.0) is None
    assert dentries().find(DIR, b"z", partial, 1.0) is None


def test_a_complete_fresh_listing_knows_what_is_missing_and_tells_the_kernel_the_negative_ttl():
    complete = listing_of("a")
    assert dentries().find(DIR, b"z", complete, 1.0) == Known(None, 0.0, 5.0)
    assert dentries().find(DIR, b"z", complete, 57.0) == Known(None, 0.0, 3.0)
    assert dentries().find(DIR, b"z", complete, 60.0) is None


@pytest.mark.parametrize(("looked_up_s", "wins"), [(5.0, "the listing"), (15.0, "the look-up")])
def test_who_asked_last_is_right(looked_up_s, wins):
    listing = listing_of("a", started_s=10.0)
    known = dentries(negative_ttl_s=60.0)
    known.add_missing(DIR, b"a", looked_up_s, looked_up_s)
    known.add(DIR, there(b"new", looked_up_s), looked_up_s)
    assert (known.find(DIR, b"a", listing, 20.0).dentry is None) == (wins == "the look-up")
    assert (known.find(DIR, b"new", listing, 20.0).dentry is None) == (wins == "the listing")


def test_the_tables_are_bounded_and_forget_what_was_added_first():
    known = dentries(limit=2, negative_limit=1)
    for name in (b"a", b"b", b"a", b"c"):
        known.add(DIR, there(name, 0.0), 0.0)
    for name in (b"x", b"y"):
        known.add_missing(DIR, name, 0.0, 0.0)
    assert [known.find(DIR, name, None, 0.0) is not None for name in (b"a", b"b", b"c", b"x", b"y")] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert (known.positive_count, known.negative_count) == (2, 1)


def test_what_is_trusted_no_more_is_dropped_and_nothing_else():
    known = dentries(ttl_s=60.0, negative_ttl_s=5.0)
    for at_s in range(100):
        known.add(DIR, there(b"a%d" % at_s, at_s), at_s)
        known.add_missing(DIR, b"x%d" % at_s, at_s, at_s)
    known.drop_old(100.0)
    assert (known.positive_count, known.negative_count) == (59, 59), "a listing may have known it for as long"
    known.drop_old(math.inf)
    assert (known.positive_count, known.negative_count) == (0, 0)


def test_a_listing_that_nobody_read_knows_what_is_missing_for_the_negative_ttl_only():
    """Mutation: where it knows that for the TTL, whoever waits for a file waits a minute."""
    known = dentries(ttl_s=60.0, negative_ttl_s=5.0)
    listing = listing_of("a")
    listing.was_read = False
    assert known.find(DIR, b"x", listing, 4.0) == Known(None, 0.0, 1.0)
    assert known.find(DIR, b"x", listing, 5.0) is None
    there = known.find(DIR, b"a", listing, 50.0)
    assert (there.dentry.name, there.ttl_s) == (b"a", 10.0)


def test_a_listing_does_not_bring_back_what_was_found_to_be_gone_since():
    """Mutation: once the look-up is trusted no more, the older page is, for the rest of the TTL."""
    known = dentries(ttl_s=60.0, negative_ttl_s=5.0)
    listing = listing_of("x", started_s=0.0)
    known.add_missing(DIR, b"x", 1.0, 1.0)
    assert known.find(DIR, b"x", listing, 5.9).dentry is None
    assert known.find(DIR, b"x", listing, 6.0) is None, "the store is asked"
    later = listing_of("x", started_s=2.0)
    assert known.find(DIR, b"x", later, 6.0).dentry.name == b"x"


def test_a_missing_name_stays_in_the_table_for_as_long_as_the_kernel_was_told_to_trust_a_listing():
    """Mutation: where only the negative TTL counts, ``expire`` does not say that the kernel must forget the name."""
    known = dentries(ttl_s=60.0, negative_ttl_s=5.0)
    listing = listing_of()
    found = known.find(DIR, b"x", listing, 50.0)
    assert (found.dentry, found.ttl_s) == (None, 5.0)
    known.add_missing(DIR, b"x", found.observed_s, 50.0)  # as a directory does
    known.drop_old(54.0)
    assert known.expire(lambda where, name: True) == [(DIR, b"x")]


def test_what_is_trusted_for_ever_is_never_dropped():
    known = dentries(ttl_s=math.inf, negative_ttl_s=math.inf)
    known.add(DIR, there(b"a", 0.0), 0.0)
    known.add_missing(DIR, b"x", 0.0, 0.0)
    known.drop_old(1e9)
    assert (known.positive_count, known.negative_count) == (1, 1)


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "miss", "find", "drop"]), st.sampled_from([b"a", b"b"]), st.integers(0, 4)),
        max_size=30,
    )
)
def test_look_ups_agree_with_a_diary(steps):
    """Brute force: of all that was ever seen of a name, the last counts, and only while it is fresh."""
    known = dentries(ttl_s=6.0, negative_ttl_s=3.0)
    diary: dict[bytes, tuple[bool, float]] = {}
    now_s = 0.0
    for what, name, seconds in steps:
        now_s += seconds
        if what == "add":
            known.add(DIR, there(name, now_s), now_s)
            diary[name] = (True, now_s)
        elif what == "miss":
            known.add_missing(DIR, name, now_s, now_s)
            diary[name] = (False, now_s)
        elif what == "drop":
            known.drop_old(now_s)
        found = known.find(DIR, name, None, now_s)
        is_there, observed_s = diary.get(name, (False, -math.inf))
        left_s = observed_s + (6.0 if is_there else 3.0) - now_s
        if left_s <= 0:
            assert found is None
        else:
            assert found == Known(there(name, observed_s) if is_there else None, observed_s, left_s)
