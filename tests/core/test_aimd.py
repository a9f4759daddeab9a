from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tigrismount.core.aimd import AdaptiveLimit


def test_it_starts_at_the_ceiling_and_never_rises_above_it():
    limit = AdaptiveLimit(4)
    limit.succeeded(limit.round)
    assert limit.limit == 4


def test_requests_refused_together_halve_the_limit_once():
    limit = AdaptiveLimit(32)
    sent = limit.round
    for _ in range(32):
        limit.refused(sent)
    assert limit.limit == 16


def test_a_refusal_in_each_round_goes_down_to_one_and_no_further():
    limit = AdaptiveLimit(32)
    seen = []
    for _ in range(7):
        limit.refused(limit.round)
        seen.append(limit.limit)
    assert seen == [16, 8, 4, 2, 1, 1, 1]


def test_a_round_of_successes_raises_the_limit_by_one():
    limit = AdaptiveLimit(32)
    limit.refused(limit.round)
    for _ in range(17):
        limit.succeeded(limit.round)
    assert limit.limit == 17


def test_a_success_sent_before_the_refusal_proves_nothing():
    limit = AdaptiveLimit(2)
    before = limit.round
    limit.refused(before)
    for _ in range(10):
        limit.succeeded(before)
    assert limit.limit == 1


def test_a_ceiling_below_one_is_refused():
    with pytest.raises(ValueError):
        AdaptiveLimit(0)


class Congestion(RuleBasedStateMachine):
    @initialize(ceiling=st.integers(1, 64))
    def begin(self, ceiling):
        self.limit = AdaptiveLimit(ceiling)
        self.sent = [0]

    @rule()
    def send(self):
        self.sent.append(self.limit.round)

    @rule(data=st.data(), refused=st.booleans())
    def answer(self, data, refused):
        sent = data.draw(st.sampled_from(self.sent))
        before = self.limit.limit
        (self.limit.refused if refused else self.limit.succeeded)(sent)
        assert self.limit.limit <= before if refused else before <= self.limit.limit <= before + 1

    @invariant()
    def between_one_and_the_ceiling(self):
        if hasattr(self, "limit"):
            self.limit.check_invariants()


TestCongestion = Congestion.TestCase
