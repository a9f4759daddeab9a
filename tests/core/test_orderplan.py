from __future__ import annotations

import random

import pytest

from tigrismount.core.blockorder import BlockOrder
from tigrismount.core.fileplan import ORDER_PROOF_BLOCKS
from tigrismount.core.orderplan import MISLED_BLOCKS, REACH_BLOCKS, OrderPlan
from tigrismount.core.readahead import StreamPolicy

BLOCK = 1 << 20
BLOCKS = 200
WINDOW = 8


def shuffled(seed: int = 1, blocks: int = BLOCKS) -> list[int]:
    """Tensors of four blocks in random order, behind a header in the first block."""
    tensors = [range(start, min(start + 4, blocks)) for start in range(1, blocks, 4)]
    random.Random(seed).shuffle(tensors)
    return [0, *(index for tensor in tensors for index in tensor)]


def plan_of(blocks: list[int], read: tuple[int, ...] = (), *, guessed: bool = False) -> OrderPlan:
    policy = StreamPolicy(
        block_bytes=BLOCK,
        max_window_bytes=WINDOW * BLOCK,
        proof_reads=ORDER_PROOF_BLOCKS,
        trusted_window_bytes=WINDOW * BLOCK,
        trust_start=False,
    )
    return OrderPlan(BlockOrder(blocks, BLOCK, BLOCKS * BLOCK), policy, read, guessed=guessed)


def read(plan: OrderPlan, blocks: list[int]) -> int:
    """Read block after block; return how many nobody had asked for."""
    asked: set[int] = set()
    missed = 0
    for index in blocks:
        missed += index not in asked
        plan.observe([index], missed=index not in asked)
        asked.update(plan.ahead())
    return missed


def test_what_comes_next_in_the_order_is_wanted_once_its_beginning_is_read():
    order = shuffled()
    plan = plan_of(order)
    assert not plan.observe([0], missed=True), "whoever opens the file reads its header"
    assert plan.observe([order[1]], missed=True)
    assert plan.ahead() == order[2 : 2 + WINDOW]


def test_a_reader_that_follows_the_order_waits_at_its_beginning_only():
    assert read(plan_of(shuffled()), shuffled()) == 2


@pytest.mark.parametrize("window", [4, REACH_BLOCKS])
def test_a_reader_in_another_rhythm_follows_it_too(window):
    """Threads take turns differently from last time, and the kernel reads on."""
    order = shuffled()
    now = [
        index
        for at in range(0, len(order), window)
        for index in random.Random(at).sample(order[at : at + window], len(order[at : at + window]))
    ]
    plan = plan_of(order)
    assert read(plan, now) <= len(now) // 4
    assert not plan.disproved


def test_blocks_that_are_left_out_stay_wanted_for_a_while_and_hold_nothing_up():
    order = shuffled()
    plan = plan_of(order)
    left_out = order[5]
    now = [index for index in order if index != left_out]
    read(plan, now[:10])
    assert plan.ahead()[0] == left_out
    read(plan, now[10:60])
    assert plan.ahead() == now[60 : 60 + WINDOW]


@pytest.mark.parametrize("now", [list(range(BLOCKS)), shuffled(seed=2), list(range(BLOCKS - 1, 0, -1))])
def test_a_reader_that_goes_another_way_disproves_it_soon(now):
    plan = plan_of(shuffled())
    for index in now[: 5 * MISLED_BLOCKS]:
        plan.observe([index], missed=True)
        if plan.disproved:
            break
    assert plan.disproved


def test_scattered_reads_want_nothing_before_they_disprove_it():
    for seed in range(20):
        plan = plan_of([0, *range(1, BLOCKS)])
        for index in random.Random(seed).sample(range(REACH_BLOCKS, BLOCKS), 64):
            plan.observe([index], missed=True)
            if plan.disproved:
                break
            assert plan.ahead() == []
        assert plan.disproved


def test_a_reader_that_is_somewhere_in_a_guessed_order_is_followed_from_there():
    order = shuffled()
    plan = plan_of(order, tuple(order[90:100]), guessed=True)
    assert plan.observe([order[100]], missed=True)
    assert plan.ahead() == order[101 : 101 + WINDOW]


def test_blocks_that_are_not_in_it_disprove_it():
    plan = plan_of(list(range(BLOCKS // 2)))
    plan.observe(list(range(BLOCKS // 2, BLOCKS // 2 + MISLED_BLOCKS)), missed=True)
    assert not plan.disproved
    plan.observe([BLOCKS - 1], missed=True)
    assert plan.disproved
