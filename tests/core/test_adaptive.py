from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tigrismount.core.adaptive import AdaptiveLimit

PART_BYTES = 8 << 20


def make(ceiling=64, start=32):
    return AdaptiveLimit(ceiling, start, draw=lambda: 0.5)


def refuse(limit, now_s=0.0, retry_after_s=0.0):
    ticket = limit.sent(now_s)
    limit.left(ticket, now_s)
    limit.refused(ticket, now_s, retry_after_s)


def test_in_flight_is_the_mean_over_the_life_of_a_get():
    limit = make()
    first, second = limit.sent(0.0), limit.sent(1.0)
    limit.left(first, 2.0)
    assert (first.seconds, first.in_flight) == (2.0, 1.5)
    limit.left(second, 4.0)
    assert second.in_flight == pytest.approx(4 / 3)


def test_a_refusal_halves_and_says_so():
    limit = make()
    assert (limit.limit, limit.reason) == (32, "starting")
    refuse(limit)
    assert (limit.limit, limit.reason, limit.borne) == (16, "the store asked for fewer", False)


def test_a_look_up_that_is_refused_halves_too_and_is_never_in_flight():
    limit = make()
    limit.refused(limit.aside(0.0), 0.0)
    assert limit.limit == 16
    limit.check_invariants()


def test_at_one_it_is_the_rate_that_falls_and_what_the_store_asks_for_is_waited():
    limit = make(ceiling=2)
    refuse(limit)
    assert (limit.limit, limit.wait_s(0.0)) == (1, 0.0)
    pauses = []
    for _ in range(4):
        refuse(limit)
        pauses.append(limit.wait_s(0.0))
    assert limit.limit == 1
    assert all(later > 1.9 * sooner > 0 for sooner, later in pairwise(pauses)), pauses
    refuse(limit, 100.0, retry_after_s=7.0)
    assert limit.wait_s(100.0) > 7.0
    refuse(limit, 200.0, retry_after_s=1e9)
    assert limit.wait_s(200.0) < 50, "a wrong header must not park all reads"


def test_the_last_digit_of_a_time_is_no_wait():
    limit = make(ceiling=2)
    for _ in range(4):
        refuse(limit, 40_000.0)
    wait_s = limit.wait_s(40_000.0)
    assert wait_s > 0
    assert limit.wait_s(40_000.0 + wait_s - 1e-9) == 0, "a sleep for that might end where it began, again and again"


def test_with_several_in_flight_only_who_was_told_to_waits():
    limit = make()
    refuse(limit, 0.0, retry_after_s=7.0)
    assert limit.wait_s(0.0) == 0


def test_where_nothing_is_refused_it_goes_up_to_the_ceiling():
    limit, now_s = make(ceiling=64), 0.0
    for _ in range(4):
        tickets = [limit.sent(now_s) for _ in range(limit.limit)]
        now_s += 0.1
        for ticket in tickets:
            limit.left(ticket, now_s)
        for ticket in tickets:
            limit.ended(ticket, now_s, PART_BYTES)
    assert (limit.limit, limit.reason) == (64, "ceiling")


class Lane(RuleBasedStateMachine):
    """Any order of GETs sent, ended, refused, dropped."""

    @initialize(ceiling=st.integers(1, 40), start=st.integers(1, 40), draw=st.floats(0, 0.999))
    def begin(self, ceiling, start, draw):
        self.limit = AdaptiveLimit(ceiling, start, draw=lambda: draw)
        self.out, self.now_s = [], 0.0

    @rule(count=st.integers(1, 40))
    def send(self, count):
        for _ in range(min(count, self.limit.limit - len(self.out))):
            self.out.append(self.limit.sent(self.now_s))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), how=st.sampled_from(["ended", "ended", "ended", "refused", "dropped"]), all_=st.booleans())
    def leave(self, data, how, all_):
        self.now_s += data.draw(st.floats(0, 3))
        count = len(self.out) if all_ else 1
        for _ in range(count):
            ticket = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)) if count == 1 else 0)
            before = self.limit.limit
            self.limit.left(ticket, self.now_s)
            if how == "ended":
                self.limit.ended(ticket, self.now_s, data.draw(st.sampled_from([PART_BYTES, 1, 0])))
            elif how == "refused":
                self.limit.refused(ticket, self.now_s, data.draw(st.sampled_from([0.0, 3.0])))
                assert self.limit.limit <= max(before, self.limit._knee._held)
            else:
                self.limit.dropped(ticket, self.now_s)

    @rule(seconds=st.floats(0, 100))
    def idle(self, seconds):
        self.now_s += seconds

    @invariant()
    def within_bounds(self):
        if hasattr(self, "limit"):
            self.limit.check_invariants()
            assert 0 <= self.limit.wait_s(self.now_s) <= 50


TestLane = Lane.TestCase
