"""Patterns over keys."""

from __future__ import annotations

import pytest

from tigrismount.core.globs import compile_glob, is_glob, literal_prefix


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("m/*.safetensors", "m/a.safetensors", True),
        ("m/*.safetensors", "m/sub/a.safetensors", False),
        ("m/*.safetensors", "m/aXsafetensors", False),
        ("m/**", "m/sub/a", True),
        ("m/**/a", "m/a", True),
        ("m/**/a", "m/x/y/a", True),
        ("m/**/a", "m/xa", False),
        ("m/?", "m/a", True),
        ("m/?", "m//", False),
        ("m/[ab]", "m/b", True),
        ("m/[!ab]", "m/b", False),
        ("m/[!ab]", "m/c", True),
        ("m/[!a]x", "m//x", False),
        ("m/[0-3].bin", "m/2.bin", True),
        ("m/[x", "m/[x", True),
        ("m/a[].bin", "m/a[].bin", True),
        ("m/a[!].bin", "m/a[!].bin", True),
        ("m/a[^]", "m/a^", False),
        ("m/[]a]", "m/]", True),
        ("m/[!]a]", "m/b", True),
        ("m/[!]a]", "m/]", False),
        ("m/[z-a]*", "m/b", False),
        ("m/(a|b)", "m/a", False),
        ("*\n*", "a\nb", True),
    ],
)
def test_patterns_match_as_shells_do(pattern: str, key: str, matches: bool) -> None:
    assert (compile_glob(pattern).fullmatch(key) is not None) is matches


def test_a_store_lists_what_stands_before_the_first_wildcard() -> None:
    assert literal_prefix("models/llama/*.safetensors") == "models/llama/"
    assert literal_prefix("models/llama-[78]b/x") == "models/llama-"
    assert literal_prefix("plain") == "plain"
    assert not is_glob("plain")
    assert is_glob("a?")
