from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.pace import Pace, Watch

MIB = 1 << 20


def usual(gets: int = 40, *, first_byte_s: float = 0.02, body_s: float = 0.1, body_bytes: int = 8 * MIB) -> Pace:
    pace = Pace()
    for _ in range(gets):
        pace.ended(first_byte_s, body_s, body_bytes)
    return pace


def test_nothing_is_behind_while_too_little_is_known():
    watch = Watch(usual(7), 8 * MIB)
    assert watch.look(1e6, 0.0, None, 0) > 0
    assert watch.look(1e6, 0.0, 1.0, 0) > 0


def test_an_answer_that_does_not_come_is_late_soon_after_the_usual_time_and_not_before():
    watch = Watch(usual(first_byte_s=0.1), 8 * MIB)
    assert watch.look(0.05, None, None, 0) > 0  # it waits for its turn: nothing was sent
    assert watch.look(0.1, 0.0, None, 0) == pytest.approx(0.02)
    assert watch.look(0.13, 0.0, None, 0) == 0


def test_where_first_bytes_scatter_more_is_borne():
    pace = Pace()
    for number in range(60):
        pace.ended(0.3 if number % 5 == 0 else 0.1, 0.1, 8 * MIB)
    assert Watch(pace, 8 * MIB).look(0.5, 0.0, None, 0) > 0


def test_where_rates_scatter_a_slow_body_is_borne():
    pace = Pace()
    for number in range(60):
        pace.ended(0.02, 1.0 if number % 5 == 0 else 0.1, 8 * MIB)
    watch = Watch(pace, 8 * MIB)
    assert watch.look(0.12, 0.0, 0.02, 0) > 0
    assert watch.look(0.52, 0.0, 0.02, 3 * MIB) > 0


def test_a_body_that_trickles_is_behind_at_the_first_look():
    watch = Watch(usual(), 8 * MIB)
    assert watch.look(0.02, 0.0, 0.02, 0) == pytest.approx(0.04)  # 40 % of the usual body
    assert watch.look(0.062, 0.0, 0.02, MIB // 2) == 0


def test_a_body_at_the_usual_pace_is_looked_at_until_its_end_and_never_behind():
    watch = Watch(usual(), 8 * MIB)
    now_s = 0.02
    while now_s < 0.12:
        wait_s = watch.look(now_s, 0.0, 0.02, int((now_s - 0.02) / 0.1 * 8 * MIB))
        assert wait_s > 0
        now_s += wait_s


def test_a_body_that_begins_well_and_stalls_is_behind_at_a_later_look():
    watch = Watch(usual(), 8 * MIB)
    assert watch.look(0.065, 0.0, 0.02, 4 * MIB) > 0
    assert watch.look(0.11, 0.0, 0.02, 4 * MIB) == 0


def test_the_last_bytes_are_not_expected_to_be_more_than_they_are():
    """What is left of a body may be little: having brought it is enough."""
    watch = Watch(usual(), 8 * MIB)
    assert watch.look(0.065, 0.0, 0.02, 8 * MIB - 1000) > 0
    assert watch.look(0.3, 0.0, 0.02, 8 * MIB - 100) > 0


def test_short_bodies_say_nothing_about_the_rate():
    pace = usual(body_bytes=64 << 10, body_s=0.000_01)
    assert pace.usual_rates_bytes_s is None
    assert pace.first_byte_bound_s is not None
    assert Watch(pace, 64 << 10).look(1e6, 0.0, 1.0, 0) > 0


def test_one_slow_in_twenty_does_not_become_the_usual():
    pace = Pace()
    for number in range(64):
        slow = number % 20 == 0
        pace.ended(2.0 if slow else 0.02, 10.0 if slow else 0.1, 8 * MIB)
    assert pace.first_byte_bound_s == pytest.approx(0.04)
    assert pace.usual_rates_bytes_s == (pytest.approx(80 * MIB), pytest.approx(80 * MIB))


def test_the_budget_allows_one_in_ten_and_eight_in_a_row():
    pace = usual(10)
    assert [pace.give_up(), pace.give_up()] == [True, False]
    pace = usual(1000)
    assert [pace.give_up() for _ in range(10)] == [True] * 8 + [False] * 2


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.integers(0, 1 << 40)) | st.just(None), max_size=200),
    st.floats(0, 1e6),
    st.integers(1, 1 << 40),
)
def test_whatever_was_seen_a_look_is_a_time_and_the_budget_bounded(events, now_s, wanted_bytes):
    pace = Pace()
    ended = given_up = 0
    for event in events:
        if event is None:
            given_up += pace.give_up()
        else:
            pace.ended(*event)
            ended += 1
        pace.check_invariants()
    assert given_up * 10 <= ended
    watch = Watch(pace, wanted_bytes)
    for sent_s, answered_s in ((None, None), (0.0, None), (0.0, 0.0), (0.0, now_s)):
        assert watch.look(now_s, sent_s, answered_s, wanted_bytes // 2) >= 0
