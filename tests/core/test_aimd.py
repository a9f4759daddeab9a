from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tigrismount.core.aimd import LEAST, Allowance

GET_S = 0.1


def make(ceiling=32, draw=0.5):
    return Allowance(ceiling, lambda: draw)


def answer(allowance, count, now_s=0.0, *, full=True):
    """Let *count* requests of the present round succeed, one after the other; return the time afterwards."""
    for _ in range(count):
        now_s += GET_S
        allowance.succeeded(allowance.round, now_s, GET_S, full=full)
    return now_s


def recover(allowance):
    """Let so many succeed in one moment that it goes no further back up."""
    for _ in range(300):
        allowance.succeeded(allowance.round, 0.0, GET_S, full=True)


def test_it_starts_at_the_ceiling_and_never_rises_above_it():
    allowance = make(4)
    answer(allowance, 100)
    assert allowance.level == 4


def test_requests_refused_together_halve_it_once():
    allowance = make(32)
    sent = allowance.round
    assert [allowance.refused(sent, 0.0, 32, 99) for _ in range(32)] == [True] + [False] * 31
    assert allowance.level == 16


def test_what_is_halved_is_what_was_made_use_of():
    allowance = make(256)
    allowance.refused(0, 0.0, 32, 99)
    assert allowance.level == 16


def test_a_refusal_in_each_round_goes_down_to_a_share_of_one_and_no_further():
    allowance = make(4)
    seen = []
    for _ in range(12):
        allowance.refused(allowance.round, 0.0, allowance.level, 99)
        seen.append(allowance.level)
    assert seen == [2, 1, 0.5, 0.25, 0.125, 0.0625, 0.03125, *[LEAST] * 5]


def test_the_way_back_is_short_and_ends_below_what_was_refused():
    allowance = make(32)
    allowance.refused(0, 0.0, 32, 99)
    answer(allowance, 16)
    assert 20 < allowance.level < 28, "a round halves the distance"
    recover(allowance)
    assert allowance.level == pytest.approx(0.96 * 32), "a few more, and it stays"


def test_after_a_while_it_goes_beyond_slowly_and_then_fast():
    allowance = make(256)
    allowance.refused(0, 0.0, 32, 99)
    now_s = answer(allowance, 100)
    assert allowance.level < 32
    now_s += 2.5
    now_s = beyond(allowance, now_s)
    now_s = answer(allowance, 32, now_s)
    assert allowance.level < 64
    answer(allowance, 400, now_s)
    assert allowance.level == 256


def beyond(allowance, now_s):
    """Answer until it passes what was refused; return when."""
    while not allowance.beyond:
        now_s = answer(allowance, 1, now_s)
        assert now_s < 1000
    return now_s


def test_where_the_same_is_refused_again_the_next_try_comes_later():
    allowance, now_s, waits = make(256), 0.0, []
    allowance.refused(0, now_s, 32, 99)
    for _ in range(8):
        before_s = now_s
        now_s = beyond(allowance, now_s)
        waits.append(now_s - before_s)
        allowance.refused(allowance.round, now_s, allowance.level, 99)
    assert all(later > 1.2 * sooner for sooner, later in pairwise(waits[1:6])), waits
    assert 60 < waits[-1] < 75, "a minute at most, and the way back"
    now_s = beyond(allowance, now_s)
    allowance.refused(allowance.round, now_s, 8, 99)
    before_s = now_s
    assert beyond(allowance, now_s) - before_s < 15, "another level is another story"


def test_the_first_of_a_burst_that_is_refused_says_where_the_limit_is():
    allowance = make(64)
    for out in (30, 28, 25, 31, 12):
        allowance.refused(0, 0.0, 32, out)
    recover(allowance)
    assert allowance.level == pytest.approx(0.96 * 25), "25 was refused; 12 were sent long before"


def test_a_lone_request_that_is_refused_says_nothing_about_that():
    allowance = make(64)
    allowance.refused(0, 0.0, 32, 1)
    recover(allowance)
    assert allowance.level == pytest.approx(0.96 * 32)


def test_a_success_sent_before_the_refusal_proves_nothing():
    allowance = make(2)
    allowance.refused(0, 0.0, 2, 99)
    for _ in range(10):
        allowance.succeeded(0, 1.0, GET_S, full=True)
    assert allowance.level == 1


def test_a_success_while_few_are_out_proves_nothing():
    allowance = make(32)
    allowance.refused(0, 0.0, 32, 99)
    answer(allowance, 100, full=False)
    assert allowance.level == 16


def test_below_one_it_is_a_share_of_the_time():
    allowance = make(2)
    answer(allowance, 100)
    assert allowance.pause_s() == 0
    for _ in range(3):
        allowance.refused(allowance.round, 10.0, allowance.level, 99)
    assert allowance.level == 0.25
    assert allowance.pause_s() == pytest.approx(3 * GET_S, rel=0.01), "out for a quarter of the time"
    pauses = {make_paused(draw).pause_s() for draw in (0.0, 0.5, 0.999)}
    assert len(pauses) == 3, "nodes that were refused together come back one by one"


def make_paused(draw):
    allowance = make(1, draw)
    for _ in range(20):
        allowance.refused(allowance.round, 0.0, 1, 99)
    assert allowance.pause_s() < 15, "a read has 300 s"
    return allowance


def test_a_ceiling_below_one_is_refused():
    with pytest.raises(ValueError):
        Allowance(0, lambda: 0.5)


class Congestion(RuleBasedStateMachine):
    @initialize(ceiling=st.integers(1, 300), draw=st.floats(0, 0.999))
    def begin(self, ceiling, draw):
        self.allowance = Allowance(ceiling, lambda: draw)
        self.sent, self.now_s = [0], 0.0

    @rule()
    def send(self):
        self.sent.append(self.allowance.round)

    @rule(
        data=st.data(),
        refused=st.booleans(),
        seconds=st.floats(0, 20),
        full=st.booleans(),
        used=st.floats(1, 300),
        out=st.integers(1, 300),
    )
    def answer(self, data, refused, seconds, full, used, out):
        sent = data.draw(st.sampled_from(self.sent))
        before, current = self.allowance.level, sent == self.allowance.round
        self.now_s += seconds
        if refused:
            assert self.allowance.refused(sent, self.now_s, used, out) == current
            assert self.allowance.level <= (max(LEAST, before / 2) if current else before)
        else:
            self.allowance.succeeded(sent, self.now_s, seconds, full=full)
            assert self.allowance.level >= before
            assert self.allowance.level == before or (current and full)

    @invariant()
    def between_its_bounds(self):
        if hasattr(self, "allowance"):
            self.allowance.check_invariants()
            assert 0 <= self.allowance.pause_s() <= 15


TestCongestion = Congestion.TestCase
