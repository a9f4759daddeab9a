from __future__ import annotations

import pytest

from tigrismount.formats.registry import FORMATS, format_of


@pytest.mark.parametrize("key", ["a.safetensors", "models/x/Model-00001-of-00002.SafeTensors"])
def test_the_suffix_names_the_format_whatever_its_case(key):
    assert format_of(key).name == "safetensors"


@pytest.mark.parametrize("key", ["", "safetensors", "a.safetensors.index.json", "a.safetensors/", "a.bin"])
def test_other_names_have_no_format(key):
    assert format_of(key) is None


def test_no_two_formats_claim_one_suffix():
    suffixes = [suffix for known in FORMATS for suffix in known.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert all(suffix == suffix.lower() for suffix in suffixes)
