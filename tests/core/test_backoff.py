from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.backoff import BASE_S, CAP_S, RETRY_AFTER_CAP_S, backoff_s


@pytest.mark.parametrize(("failures", "ceiling_s"), [(1, 0.1), (2, 0.2), (3, 0.4), (6, 3.2), (7, 5.0), (10_000, 5.0)])
def test_the_ceiling_doubles_up_to_the_cap(failures, ceiling_s):
    assert backoff_s(failures, 1.0) == pytest.approx(ceiling_s)


def test_the_wait_is_drawn_from_zero_to_the_ceiling():
    assert [backoff_s(1, draw) for draw in (0.0, 0.5)] == [0.0, BASE_S / 2]


def test_retry_after_comes_first_and_jitter_is_added():
    assert backoff_s(1, 0.5, retry_after_s=2.0) == pytest.approx(2.0 + BASE_S / 2)


def test_an_absurd_retry_after_is_bounded():
    assert backoff_s(1, 0.0, retry_after_s=86_400.0) == RETRY_AFTER_CAP_S


@given(
    failures=st.integers(1, 5000),
    draw=st.floats(0, 1, exclude_max=True),
    retry_after_s=st.floats(allow_nan=False),
)
def test_the_wait_is_never_negative_and_never_unbounded(failures, draw, retry_after_s):
    assert 0.0 <= backoff_s(failures, draw, retry_after_s=retry_after_s) <= CAP_S + RETRY_AFTER_CAP_S
