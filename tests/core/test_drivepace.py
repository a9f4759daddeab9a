"""When a drive counts as slower than the store."""

from __future__ import annotations

import pytest

from tigrismount.core.drivepace import PATIENCE_S, DrivePace


def pace(reads_s: list[float], fetches_s: list[float]) -> DrivePace:
    known = DrivePace()
    for took_s in reads_s:
        known.note_read("a", took_s)
    for took_s in fetches_s:
        known.note_fetch(took_s)
    return known


@pytest.mark.parametrize(
    ("reads_s", "fetches_s", "waits"),
    [
        ([], [], True),
        ([9] * 3, [0.01] * 16, True),  # too few reads
        ([0.9] * 8, [0.01] * 16, True),  # too quick to matter
        ([1.2] * 8, [], False),  # worth a GET to find out
        ([1.2] * 8, [0.1] * 4, False),
        ([1.2] * 8, [0.1] * 3 + [1.2] * 4, True),
        ([1.2] * 8, [1.0] * 16, True),  # hardly slower
        ([0.01] * 5 + [9] * 3, [0.1] * 16, True),  # now and then
        ([9] * 8 + [0.01] * 5, [0.1] * 16, True),  # it was
    ],
)
def test_who_is_waited_for(reads_s, fetches_s, waits) -> None:
    known = pace(reads_s, fetches_s)
    assert known.patience_s("a") == (PATIENCE_S if waits else 0)
    assert known.patience_s("another") == PATIENCE_S
    assert bool(known.complaint()) is not waits


def test_a_complaint_says_which_and_how_slow() -> None:
    assert pace([1.75] * 8, [0.1] * 16).complaint() == "a takes 1.8 s for a block; the store is asked as well"
