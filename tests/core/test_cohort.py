from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.cohort import Cohort, elasticity

MB = 1_000_000


def cohort(in_flight, seconds, count=20, size_bytes=8 * MB):
    made = Cohort(count)
    for _ in range(count):
        assert made.admit()
        made.add(size_bytes, seconds, in_flight)
    return made


def test_goodput_is_what_each_brings_by_how_many_are_out():
    made = cohort(10, 0.1)
    assert made.rate_bytes_s == pytest.approx(80 * MB)
    assert made.goodput_bytes_s == pytest.approx(800 * MB)
    assert made.error == pytest.approx(0, abs=1e-6)


def test_it_takes_in_so_many_and_no_more():
    made = Cohort(2)
    assert [made.admit() for _ in range(4)] == [True, True, False, False]
    made.add(1, 1.0, 1.0)
    assert not made.complete
    made.add(1, 1.0, 1.0)
    assert made.complete
    made.extend()
    assert not made.complete
    assert [made.admit() for _ in range(4)] == [True, True, False, False]
    assert made.cohorts == 2


def test_the_last_tenth_is_not_waited_for_but_the_others_are_so_that_quick_ones_do_not_speak_for_all():
    made = Cohort(20)
    for _ in range(20):
        made.admit()
    for _ in range(17):
        made.add(1, 1.0, 1.0)
    assert not made.complete
    made.skip()
    assert made.complete


def test_it_is_worth_something_where_most_of_it_is_evidence():
    made = Cohort(3)
    for _ in range(3):
        made.admit()
    made.skip()
    made.add(1, 1.0, 1.0)
    assert not made.valid
    made.add(1, 1.0, 1.0)
    assert made.valid


def test_scatter_makes_it_unsure_and_numbers_make_it_sure():
    few, many = Cohort(4), Cohort(400)
    for made, count in ((few, 4), (many, 400)):
        for number in range(count):
            made.admit()
            made.add(MB, 1.0 + number % 2, 4)
    assert few.error == pytest.approx(10 * many.error)
    assert few.error == pytest.approx(1 / 6)


def test_elasticity_is_one_below_the_knee_and_none_above():
    assert elasticity(cohort(8, 0.1), cohort(16, 0.1))[0] == pytest.approx(1)
    assert elasticity(cohort(8, 0.1), cohort(16, 0.2))[0] == pytest.approx(0)
    assert elasticity(cohort(8, 0.1), cohort(16, 0.3))[0] < 0


@given(st.floats(1, 100), st.floats(1.1, 4), st.floats(0.01, 10), st.floats(0.3, 4))
def test_elasticity_does_not_depend_on_the_order_of_tries(in_flight, wider, seconds, slower):
    fewer, more = cohort(in_flight, seconds), cohort(in_flight * wider, seconds * slower)
    assert elasticity(fewer, more)[0] == pytest.approx(elasticity(more, fewer)[0])
