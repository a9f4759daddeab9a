from __future__ import annotations

import pytest

from tigrismount.core.layout import Layout, TensorExtent

LAYOUT = Layout(
    10,
    (
        TensorExtent("a", "U8", (5,), 10, 15),
        TensorExtent("none", "U8", (0,), 15, 15),
        TensorExtent("b", "U8", (20,), 15, 35),
    ),
)


@pytest.mark.parametrize(("position", "name"), [(0, "a"), (10, "a"), (11, "none"), (15, "none"), (16, None)])
def test_first_from_finds_the_next_tensor_that_starts(position, name):
    found = LAYOUT.first_from(position)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("position", "end"), [(0, 0), (9, 9), (10, 10), (11, 15), (15, 15), (16, 35), (34, 35), (35, 35), (90, 90)]
)
def test_end_of_tensor_completes_the_tensor_that_a_place_cuts(position, end):
    assert LAYOUT.end_of_tensor(position) == end


def test_a_layout_without_tensors_has_no_next_one_and_cuts_nothing():
    assert Layout(8, ()).first_from(0) is None
    assert Layout(8, ()).end_of_tensor(3) == 3


def test_size_is_the_length_of_the_range():
    assert [tensor.size_bytes for tensor in LAYOUT.tensors] == [5, 0, 20]


def test_data_stops_with_the_last_tensor():
    assert Layout(8, (TensorExtent("a", "U8", (4,), 16, 20),)).data_stop == 20
    assert Layout(8, ()).data_stop == 8
