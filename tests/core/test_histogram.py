from __future__ import annotations

from tigrismount.core.histogram import SECONDS, Histogram


def test_values_are_counted_at_the_first_bound_that_holds_them():
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.5, 100.0):
        histogram.observe(value)
    snapshot = histogram.snapshot()
    assert snapshot.counts == (2, 2, 2)
    assert (snapshot.count, snapshot.total) == (6, 107.0)
    histogram.observe(0.5)
    assert snapshot.counts == (2, 2, 2), "a snapshot does not change"


def test_bounds_ascend():
    assert list(SECONDS) == sorted(set(SECONDS))
