from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.config.units import (
    Share,
    format_size,
    parse_seconds,
    parse_share,
    parse_size_bytes,
    parse_size_or_share,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        (4096, 4096),
        ("8MiB", 8 << 20),
        ("8M", 8 << 20),
        ("8m", 8 << 20),
        ("8 mib", 8 << 20),
        ("8MB", 8_000_000),
        ("200G", 200 << 30),
        ("1.5GiB", 3 << 29),
        ("0.5k", 512),
        ("1T", 1 << 40),
        ("100B", 100),
        (" 7 ", 7),
    ],
)
def test_sizes(text, size_bytes):
    """Bare letters are binary, only the full kB, MB, GB are decimal."""
    assert parse_size_bytes(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "8Mi", "8X", "8MiBB", "1e9", "0x10", "5P5", "٣", "9000000P", True, None, []]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError):
        parse_size_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("0", 0), ("30", 30), (30, 30), (1.5, 1.5), ("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400)],
        *[("500ms", 0.5), ("0.25s", 0.25), ("1m30s", 90), ("1h 30m", 5400)],
        *[("inf", math.inf), ("INF", math.inf), (math.inf, math.inf)],
    ],
)
def test_times(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-5s", "5 minutes", "5x", "s", "1m!30s", "nan", math.nan, True, None])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError):
        parse_seconds(text)


def test_a_cache_size_may_be_a_share():
    assert parse_size_or_share("80%") == Share(0.8)
    assert parse_size_or_share("200G") == 200 << 30
    with pytest.raises(ValueError, match="percentage"):
        parse_size_or_share("lots")


@pytest.mark.parametrize("text", ["101%", "-1%", "%", "80", "80%%"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError):
        parse_share(text)


@given(st.integers(0, 1 << 62), st.sampled_from(["", "B"]))
def test_bytes_are_exact(size_bytes, unit):
    assert parse_size_bytes(f"{size_bytes}{unit}") == size_bytes


@given(st.integers(0, 1 << 20), st.sampled_from("KMGT"), st.sampled_from(["", "iB"]))
def test_units_multiply(count, letter, rest):
    assert parse_size_bytes(f"{count}{letter}{rest}") == count * 1024 ** ("KMGT".index(letter) + 1)


@given(st.text())
def test_any_text_is_a_value_or_a_value_error(text):
    """No other exception, whatever people type."""
    for parse in (parse_size_bytes, parse_size_or_share, parse_share, parse_seconds):
        with contextlib.suppress(ValueError):
            parse(text)


@given(st.integers(0, 1 << 50))
def test_formatted_sizes_read_back_to_about_the_same(size_bytes):
    again = parse_size_bytes(format_size(size_bytes))
    assert abs(again - size_bytes) <= max(1, size_bytes * 0.05)
