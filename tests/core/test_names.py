from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.names import DirectoryKey, KeyPath, check_key, check_name, key_bytes, path_of, to_name
from tigrismount.errors import InvalidNameError, NameTooLongError

ROOT = DirectoryKey("bucket", "")
PREFIXED = DirectoryKey("bucket", "models/")

names = st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name)


@pytest.mark.parametrize("component", ["", ".", "..", "a/b", "a\0b", "a" * 256, "é" * 128, "\ud800", "\udcc3\udca9"])
def test_what_no_path_can_express_has_no_name(component):
    assert to_name(component) is None


@pytest.mark.parametrize("component", ["a", "...", " ", "\n", "é" * 127, "a" * 255, "\udcff", "模型", "a\\b", "%2F"])
def test_every_other_component_has_a_name_that_leads_back_to_its_key(component):
    name = to_name(component)
    assert name is not None
    assert ROOT.key_of(name) == component
    check_name(name)


@given(names.filter(lambda name: name not in (b".", b"..")))
def test_any_bytes_are_a_name_and_lead_to_one_key_and_back(name):
    check_name(name)
    key = PREFIXED.key_of(name)
    assert path_of(key, "models/") == KeyPath((name,), is_marker=False)
    assert key_bytes(key) == b"models/" + name


@given(st.text())
def test_a_component_has_a_name_exactly_when_its_name_can_be_looked_up(component):
    name = to_name(component)
    if name is not None:
        check_name(name)
        assert ROOT.key_of(name) == component


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0"])
def test_an_impossible_name_is_invalid(name):
    with pytest.raises(InvalidNameError):
        check_name(name)


def test_a_name_of_256_bytes_is_too_long():
    check_name(b"a" * 255)
    with pytest.raises(NameTooLongError):
        check_name(b"a" * 256)


def test_a_key_of_1025_bytes_is_too_long():
    check_key("é" * 512)
    with pytest.raises(NameTooLongError):
        check_key("é" * 512 + "a")


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("models/", KeyPath((), is_marker=True)),
        ("models/a", KeyPath((b"a",), is_marker=False)),
        ("models/a/b/", KeyPath((b"a", b"b"), is_marker=True)),
        ("models/a//b", None),
        ("models//", None),
        ("models/./b", None),
        ("models/a/..", None),
    ],
)
def test_the_path_of_a_key_lies_below_the_prefix_and_hidden_keys_have_none(key, path):
    assert path_of(key, "models/") == path


def test_a_key_outside_the_prefix_is_a_mistake():
    with pytest.raises(ValueError, match="does not lie under"):
        path_of("other/a", "models/")


def test_a_directory_lies_under_its_name_and_a_slash():
    assert PREFIXED.child(b"llama") == DirectoryKey("bucket", "models/llama/")


@given(st.text())
def test_the_sort_key_never_fails(key):
    assert isinstance(key_bytes(key), bytes)
