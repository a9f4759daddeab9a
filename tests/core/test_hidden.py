from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.hidden import HiddenKeys
from tigrismount.core.listing import STALLED_PAGES_MAX
from tigrismount.core.names import key_bytes, path_of
from tigrismount.core.types import ObjectId
from tigrismount.errors import ObjectProtocolError


@dataclass(frozen=True)
class Info:
    id: ObjectId
    mtime_s: float = 1.0
    storage_class: str = "STANDARD"
    version_id: str | None = None
    symlink_target: bytes | None = None
    sha256: str = ""


def info(key: str, size_bytes: int = 1) -> Info:
    return Info(ObjectId("bucket", key, "e", size_bytes))


def hidden(*keys: str, prefix: str = "") -> dict[str, str]:
    return dict(HiddenKeys(prefix).feed([info(key) for key in sorted(keys, key=key_bytes)]))


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("a//b", "it has an empty component"),
        ("/a", "it has an empty component"),
        ("a//", "it has an empty component"),
        ("a/./b", "it has the component '.'"),
        ("..", "it has the component '..'"),
        ("a\0", "it holds a NUL"),
        ("x" * 256, "a component is above 255 bytes"),
        ("é" * 128, "a component is above 255 bytes"),
        ("\ud800", "it is not UTF-8"),
    ],
)
def test_the_reason_is_told(key, reason):
    assert hidden(key) == {key: reason}


def test_what_can_be_shown_is_not_hidden():
    assert hidden("a", "b/c", "b/", "é", "x" * 255, "\udcff", "-rf", " ") == {}
    assert hidden("p/", "p/a", prefix="p/") == {}
    assert hidden("p//", prefix="p/") == {"p//": "it has an empty component"}


def test_a_file_is_shadowed_by_a_directory_that_comes_much_later():
    keys = ["foo", "foo!", "foo-x", "foo-x/y", "foo.z", "foo/bar", "foo/bar/", "foo0"]
    assert list(hidden(*keys)) == ["foo-x", "foo", "foo/bar"]


def test_the_order_of_the_rows_of_a_page_does_not_matter():
    """As in a directory: 'rclone serve s3' puts the oldest first, and there a mount worked and a warm run did not."""
    finder = HiddenKeys("")
    assert [key for key, _ in finder.feed([info("foo/bar"), info("a"), info("foo")])] == ["foo"]


def test_a_size_that_no_file_has_hides_a_key():
    assert HiddenKeys("").feed([info("a", -1), info("b", 1 << 63), info("c", (1 << 63) - 1)]) == [
        ("a", "no file can have its size"),
        ("b", "no file can have its size"),
    ]


def test_a_listing_in_circles_is_an_error_and_not_a_loop():
    finder = HiddenKeys("")
    finder.feed([info("a"), info("b")])
    with pytest.raises(ObjectProtocolError):
        finder.feed([info("a")])
    with pytest.raises(ObjectProtocolError):
        HiddenKeys("").feed([info("a"), info("a")])
    finder = HiddenKeys("")
    for _ in range(STALLED_PAGES_MAX):
        finder.feed([])
    with pytest.raises(ObjectProtocolError):
        finder.feed([])


keys = st.text(st.sampled_from("ab/.!0\0é"), min_size=1, max_size=7) | st.text(min_size=1, max_size=5)


@given(st.sets(keys, max_size=25), st.sampled_from(["", "a/"]), st.integers(1, 5))
def test_what_is_not_hidden_is_a_path_that_no_directory_has(all_keys, prefix, page_size):
    rows = sorted((key for key in all_keys if key.startswith(prefix)), key=key_bytes)
    finder, found = HiddenKeys(prefix), []
    for start in range(0, len(rows), page_size):
        found += finder.feed([info(key) for key in rows[start : start + page_size]])
    expected = set()
    for key in rows:
        path = path_of(key, prefix)
        shadowed = not key.endswith("/") and any(other.startswith(key + "/") for other in rows)
        if path is None or shadowed:
            expected.add(key)
    assert [key for key, _ in found] == list(dict.fromkeys(key for key, _ in found)), "each key once"
    assert {key for key, _ in found} == expected
