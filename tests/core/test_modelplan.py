from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tigrismount.core.modelplan import LEAST_SPILL_BYTES, ModelPlan

MIB = 1 << 20
BLOCK = 8 * MIB


def plan_of(*sizes_bytes: int, budget: int = 512 * MIB) -> ModelPlan:
    return ModelPlan(sizes_bytes, block_bytes=BLOCK, heads_bytes=4 * BLOCK, budget_bytes=budget)


def test_nothing_is_wanted_before_somebody_opens_the_model():
    plan = plan_of(*[256 * MIB] * 4)
    assert plan.heads() == plan.spills() == [0] * 4


def test_the_heads_of_the_first_unread_shards_are_wanted_at_once():
    plan = plan_of(*[256 * MIB] * 6, 3 * MIB)
    plan.open()
    assert plan.heads() == [BLOCK] * 4 + [0] * 3
    plan.observe(0, 250 * MIB, 0)
    plan.observe(1, 250 * MIB, 0)
    plan.observe(2, 250 * MIB, 0)
    assert plan.heads() == [0] * 3 + [BLOCK] * 3 + [3 * MIB]


def test_nothing_spills_before_most_of_a_shard_was_read():
    plan = plan_of(*[256 * MIB] * 4)
    plan.observe(0, 140 * MIB, 128 * MIB)
    assert plan.spills() == [0] * 4
    plan.observe(0, 160 * MIB, 128 * MIB)
    assert plan.spills() == [0, 64 * MIB, 0, 0]


def test_once_a_shard_was_read_whole_the_next_one_spills_from_its_first_window_on():
    plan = plan_of(*[100 * MIB] * 4)
    plan.observe(0, 100 * MIB, 0)
    plan.observe(1, 8 * MIB, 40 * MIB)
    assert plan.spills() == [0, 0, 40 * MIB, 0]


def test_small_shards_let_more_than_one_be_reached():
    plan = plan_of(*[20 * MIB] * 6)
    plan.observe(0, 20 * MIB, 128 * MIB)
    assert plan.spills() == [0, 20 * MIB, 20 * MIB, 20 * MIB, 4 * MIB, 0]


def test_what_may_spill_grows_with_what_was_read():
    plan = plan_of(*[2048 * MIB] * 4)
    plan.observe(0, 2048 * MIB, 0)
    plan.observe(1, 1900 * MIB, 500 * MIB)
    assert plan.spills()[2] == (2048 + 1900) * MIB // 8 // BLOCK * BLOCK <= 512 * MIB


def test_who_stops_after_half_a_gibibyte_has_paid_an_eighth():
    plan = plan_of(*[256 * MIB] * 4)
    plan.observe(0, 256 * MIB, 0)
    plan.observe(1, 256 * MIB, 128 * MIB)
    assert sum(plan.spills()) <= 64 * MIB
    plan.pause()
    assert sum(plan.spills()) == 0


def test_a_shard_that_follows_takes_over_from_the_one_before_it():
    plan = plan_of(*[100 * MIB] * 4)
    plan.observe(0, 100 * MIB, 128 * MIB)
    assert plan.spills()[1:3] == [64 * MIB, 0]
    plan.observe(1, 16 * MIB, 20 * MIB)
    assert plan.spills() == [0, 0, 20 * MIB, 0]


@pytest.mark.parametrize("budget", [0, 3 * MIB])
def test_without_a_budget_nothing_spills(budget):
    plan = plan_of(*[100 * MIB] * 4, budget=budget)
    plan.observe(0, 100 * MIB, 128 * MIB)
    assert plan.spills() == [0] * 4


class ModelPlanMachine(RuleBasedStateMachine):
    @initialize(sizes=st.lists(st.integers(1, 300 * MIB), min_size=1, max_size=8), budget=st.integers(0, 300 * MIB))
    def begin(self, sizes, budget):
        self.sizes = sizes
        self.plan = plan_of(*sizes, budget=budget)
        self.read = [0] * len(sizes)

    @rule(shard=st.integers(0, 7), share=st.floats(0, 1), overflow=st.integers(0, 600 * MIB))
    def observe(self, shard, share, overflow):
        shard %= len(self.sizes)
        touched = int(share * self.sizes[shard])
        self.read[shard] = max(self.read[shard], touched)
        self.plan.observe(shard, touched, overflow)

    @rule()
    def open(self):
        self.plan.open()

    @rule()
    def pause(self):
        self.plan.pause()
        assert sum(self.plan.spills()) == 0

    @rule()
    def leave(self):
        self.plan.leave()
        self.read = [0] * len(self.sizes)
        assert sum(self.plan.spills()) + sum(self.plan.heads()) == 0

    @invariant()
    def holds(self):
        self.plan.check_invariants()
        assert sum(self.plan.spills()) <= max(LEAST_SPILL_BYTES, sum(self.read) // 8)


TestModelPlanMachine = ModelPlanMachine.TestCase
TestModelPlanMachine.settings = settings(max_examples=80, stateful_step_count=20, deadline=None)
