"""Placement: everybody agrees, shares follow weights, and what goes away moves only its own things."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.placement import preference

NAMES = [number.to_bytes(4, "big") for number in range(4000)]
PLACES = st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 1 << 50), min_size=1, max_size=6)


@given(st.binary(max_size=40), PLACES)
def test_order_has_every_place_once_whatever_the_order_they_were_named_in(name: bytes, weights: dict[str, int]) -> None:
    order = preference(name, weights)
    assert sorted(order) == sorted(weights)
    assert order == preference(name, dict(reversed(weights.items())))


@given(st.binary(max_size=40), PLACES, st.data())
def test_order_of_the_others_stays_when_one_goes(name: bytes, weights: dict[str, int], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(weights)))
    rest = {place: weight for place, weight in weights.items() if place != gone}
    assert preference(name, rest) == [place for place in preference(name, weights) if place != gone]


def test_shares_follow_weights() -> None:
    weights = {"/small": 1, "/medium": 2, "/large": 5}
    found = Counter(preference(name, weights)[0] for name in NAMES)
    for place, weight in weights.items():
        assert found[place] / len(NAMES) == pytest.approx(weight / 8, abs=0.03)


def test_new_place_takes_its_share_and_moves_nothing_else() -> None:
    before = {"/a": 1, "/b": 1}
    moved = [(preference(name, before)[0], preference(name, before | {"/c": 2})[0]) for name in NAMES]
    assert {new for old, new in moved if old != new} == {"/c"}
    assert sum(old != new for old, new in moved) / len(NAMES) == pytest.approx(0.5, abs=0.04)
