from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tigrismount.core.blockorder import BlockOrder
from tigrismount.core.fileplan import FilePlan
from tigrismount.core.layout import Layout, TensorExtent
from tigrismount.core.readahead import StreamPolicy
from tigrismount.core.types import Extent

MIB = 1 << 20
BLOCK = 8 * MIB
READ = 1 * MIB
HEADER = 16_384


def layout_of(*sizes_bytes: int) -> Layout:
    tensors, position = [], HEADER
    for number, size in enumerate(sizes_bytes):
        tensors.append(TensorExtent(f"t{number}", "U8", (size,), position, position + size))
        position += size
    return Layout(HEADER, tuple(tensors))


def plan_of(layout: Layout, *, window: int = 512 * MIB) -> FilePlan:
    policy = StreamPolicy(block_bytes=BLOCK, max_window_bytes=window, trust_start=False)
    plan = FilePlan(layout.tensors[-1].stop, policy)
    plan.observe(0, READ, missed=True)
    plan.learn(layout)
    return plan


class Store:
    """Answers reads the way the block store does when it has all the time between two reads that it needs."""

    def __init__(self, plan: FilePlan) -> None:
        self.plan = plan
        self.fetched: set[int] = set()
        self.waits = 0

    def read(self, start: int, stop: int) -> None:
        for position in range(start, stop, READ):
            end = min(position + READ, stop)
            blocks = set(range(position // BLOCK, -(-end // BLOCK)))
            missed = not blocks <= self.fetched
            self.waits += missed
            self.fetched |= blocks
            self.plan.observe(position, end, missed=missed)
            for extent in self.plan.ahead():
                self.fetched |= set(range(extent.start // BLOCK, -(-extent.stop // BLOCK)))


def load(plan: FilePlan, tensors: list[TensorExtent]) -> Store:
    store = Store(plan)
    for tensor in tensors:
        store.read(tensor.start // 4096 * 4096, tensor.stop)
    return store


def shuffled(layout: Layout, seed: int = 1) -> list[TensorExtent]:
    tensors = list(layout.tensors)
    random.Random(seed).shuffle(tensors)
    return tensors


@pytest.mark.parametrize("order", ["random", "reversed"])
def test_the_second_load_in_an_unusual_order_waits_a_fifth_as_often(order):
    layout = layout_of(*[24 * MIB, 40 * MIB, 12 * MIB] * 14)
    tensors = shuffled(layout) if order == "random" else list(reversed(layout.tensors))
    plan = plan_of(layout, window=128 * MIB)
    first = load(plan, tensors)
    learned = plan.learned()
    assert learned is not None
    again = plan_of(layout, window=128 * MIB)
    again.follow(learned)
    second = load(again, tensors)
    assert first.waits >= 10
    assert 5 * second.waits <= first.waits


def test_an_order_is_planned_with_the_block_in_which_each_tensor_begins():
    """It was read with the tensor before, whose turn was long ago; with little memory it is there no more."""
    layout = layout_of(*[12 * MIB] * 8)
    plan = plan_of(layout)
    plan.follow(BlockOrder([0, 1, *range(3, 12), 2], BLOCK, layout.tensors[-1].stop))
    for start in range(0, 2 * BLOCK, READ):
        plan.observe(start, start + READ, missed=True)
    for block in range(3, 12):
        for start in range(block * BLOCK, (block + 1) * BLOCK, READ):
            plan.observe(start, start + READ, missed=True)
    assert plan.ahead() == [Extent(BLOCK, 3 * BLOCK)], "the second tensor begins in block 1 and goes on in block 2"


def test_a_reader_that_touches_the_ends_of_tensors_first_reads_in_file_order():
    """Seen between pushes: the end of each tensor, then at once what was read of several blocks."""
    layout = layout_of(*[20 * MIB] * 24)
    plan = plan_of(layout)
    size = layout.tensors[-1].stop
    plan.observe(0, READ, missed=True)
    for number, tensor in enumerate(layout.tensors[:-1]):
        plan.observe(tensor.stop - READ // 2, tensor.stop + READ // 2, missed=True)
        if number % 3 == 2:
            plan.observe(tensor.stop - 60 * MIB, tensor.stop, missed=False)
    learned = plan.learned()
    assert learned is not None
    assert learned.blocks == tuple(range(-(-size // BLOCK))), "what nobody was seen to read is planned, too"


def test_a_tensor_read_out_of_order_is_fetched_whole_with_its_first_read():
    layout = layout_of(*[100 * MIB] * 10)
    plan = plan_of(layout)
    tensor = layout.tensors[6]
    assert plan.observe(tensor.start // 4096 * 4096, tensor.start + READ, missed=True)
    wanted = plan.ahead()[0]
    assert wanted.start <= tensor.start + BLOCK
    assert tensor.stop <= wanted.stop


def lexical(layers: int) -> Layout:
    """Layers in the order of their names as text, 0, 1, 10, 11, 2, each of three tensors."""
    tensors, position = [], HEADER
    for layer in sorted(range(layers), key=str):
        for part, size in (("k", 6 * MIB), ("n", 4096), ("q", 20 * MIB)):
            tensors.append(TensorExtent(f"layers.{layer}.{part}", "U8", (size,), position, position + size))
            position += size
    return Layout(HEADER, tuple(tensors))


@pytest.mark.parametrize(("order", "overrun"), [("by name", 0), ("by name", 4 * MIB), ("backwards", 0)])
def test_an_order_that_jumps_show_is_followed_on_the_first_load(order, overrun):
    """Transformers takes layer 2 before layer 10; the kernel has read on behind each tensor when the jump comes."""
    layout = lexical(40)
    by_name = sorted(
        range(len(layout.tensors)), key=lambda n: (int(layout.tensors[n].name.split(".")[1]), layout.tensors[n].name)
    )
    plan = plan_of(layout, window=256 * MIB)
    plan.learn(layout, by_name)
    store = Store(plan)
    numbers = by_name if order == "by name" else list(reversed(range(len(layout.tensors))))
    for number in numbers:
        tensor = layout.tensors[number]
        store.read(tensor.start // 4096 * 4096, min(tensor.stop + overrun, layout.tensors[-1].stop))
    assert plan.order is not None
    assert store.waits <= 16, "of 40 jumps by name and 120 backwards"


def test_scattered_reads_plan_nothing_and_teach_nothing():
    layout = layout_of(*[64 * MIB] * 16)
    plan = plan_of(layout)
    draw = random.Random(3)
    for _ in range(64):
        start = draw.randrange(BLOCK // 4096, layout.tensors[-1].stop // 4096) * 4096
        plan.observe(start, start + 4096, missed=True)
        assert plan.ahead() == []
    assert plan.learned() is None


def test_a_reader_of_half_a_file_does_not_pull_the_other_half():
    """Pipeline stages: what was fetched for nothing is at most a seventh of what was read, if all arrived in time."""
    layout = layout_of(*[16 * MIB] * 64)
    store = load(plan_of(layout), list(layout.tensors[:32]))
    assert len(store.fetched) * BLOCK <= 1.15 * 512 * MIB
    assert store.plan.rest() == []


def test_a_file_read_in_earnest_is_wanted_to_its_end_by_the_disk():
    layout = layout_of(*[16 * MIB] * 64)
    store = load(plan_of(layout), list(layout.tensors[:48]))
    rest = store.plan.rest()
    assert rest is not None
    assert rest[-1].stop == layout.tensors[-1].stop
    assert all(extent.start >= 47 * 16 * MIB for extent in rest)


def test_what_is_left_of_a_large_file_is_said_a_few_times_and_not_at_every_block():
    blocks = 4000
    plan = FilePlan(blocks * BLOCK, StreamPolicy(block_bytes=BLOCK, max_window_bytes=16 * BLOCK))
    said = []
    for start in range(0, blocks * BLOCK, BLOCK):
        plan.observe(start, start + BLOCK, missed=True)
        said.append(plan.rest())
    lengths = [sum(extent.size_bytes for extent in rest) // BLOCK for rest in said if rest]
    assert lengths[0] == 1600, "once it is read in earnest"
    assert sum(lengths) < 10 * 1600, "at every block it would be 800 times"
    assert said[-1] == [], "and nothing is left"


def test_an_order_found_late_is_followed_at_once_if_reads_agree_with_it():
    layout = layout_of(*[16 * MIB] * 32)
    blocks = [0, *range(40, 50), *range(10, 20)]
    for read, wanted in ((40, 41 * BLOCK), (20, None)):
        plan = plan_of(layout)
        plan.observe(read * BLOCK, read * BLOCK + READ, missed=True)
        plan.follow(BlockOrder(blocks, BLOCK, layout.tensors[-1].stop))
        windows = [extent for extent in plan.ahead() if plan.window_bytes]
        assert (windows[0].start if windows else None) == wanted


def test_a_wrong_order_is_given_up():
    layout = layout_of(*[16 * MIB] * 64)
    plan = plan_of(layout)
    blocks = list(range(1, 129))
    random.Random(5).shuffle(blocks)
    plan.follow(BlockOrder([0, *blocks], BLOCK, layout.tensors[-1].stop))
    store = load(plan, list(layout.tensors))
    assert plan.order is None
    assert store.waits <= 40


def test_ranks_that_read_their_slices_share_one_plan():
    """Four ranks, each a quarter of every tensor, a little apart: nothing is asked for twice, and few reads wait."""
    layout = layout_of(*[32 * MIB] * 24)
    plan = plan_of(layout)
    store = Store(plan)
    for tensor in layout.tensors:
        quarter = tensor.size_bytes // 4
        for rank in range(4):
            store.read(tensor.start + rank * quarter, tensor.start + (rank + 1) * quarter)
    assert store.waits <= 12
    assert len(store.fetched) <= -(-layout.tensors[-1].stop // BLOCK)


def test_what_a_model_grants_is_wanted_until_the_file_is_read():
    layout = layout_of(*[16 * MIB] * 16)
    plan = plan_of(layout)
    assert plan.grant(40 * MIB)
    assert not plan.grant(40 * MIB)
    assert plan.ahead() == [Extent(BLOCK, 40 * MIB)], "the first block was read of already"
    plan.expect(128 * MIB, 256 * MIB)
    plan.observe(BLOCK, 9 * MIB, missed=False)
    assert plan.ahead() == [Extent(2 * BLOCK, 19 * BLOCK)], "one read of data, and the window is as large"


class FilePlanMachine(RuleBasedStateMachine):
    """Any reads, grants, layouts and orders: what is planned lies in the file, each block once."""

    @initialize(blocks=st.integers(2, 60), window=st.integers(2, 40), tail=st.integers(0, BLOCK - 1))
    def begin(self, blocks, window, tail):
        self.size = blocks * BLOCK - tail
        policy = StreamPolicy(block_bytes=BLOCK, max_window_bytes=window * BLOCK)
        self.plan = FilePlan(self.size, policy)
        self.said: set[int] = set()

    @rule(at=st.floats(0, 0.999), length=st.sampled_from([1, 4096, 128 << 10, MIB, 20 * MIB]), missed=st.booleans())
    def read(self, at, length, missed):
        start = int(at * self.size) // 4096 * 4096
        self.plan.observe(start, min(start + length, self.size), missed=missed)

    @rule(at=st.floats(0, 0.9), count=st.integers(1, 30))
    def read_on(self, at, count):
        for start in range(int(at * self.size), self.size, MIB)[:count]:
            self.plan.observe(start, min(start + MIB, self.size), missed=True)

    @rule(blocks=st.integers(0, 70))
    def grant(self, blocks):
        self.plan.grant(blocks * BLOCK)

    @rule(tensors=st.lists(st.integers(0, 30 * MIB), min_size=1, max_size=10))
    def learn(self, tensors):
        position, kept = 4096, []
        for number, size in enumerate(tensors):
            if position + size <= self.size:
                kept.append(TensorExtent(f"t{number}", "U8", (size,), position, position + size))
                position += size
        self.plan.learn(Layout(4096, tuple(kept)))

    @rule(seed=st.integers(0, 99), count=st.integers(0, 60))
    def follow(self, seed, count):
        blocks = list(range(60))
        random.Random(seed).shuffle(blocks)
        self.plan.follow(BlockOrder(blocks[:count], BLOCK, self.size))

    @rule()
    def follow_what_was_learned(self):
        order = self.plan.learned()
        if order is not None:
            self.plan.follow(order)

    @rule()
    def close(self):
        self.plan.begin_again()
        assert not self.plan.asides
        assert self.plan.window_bytes == 0

    @rule(window=st.integers(0, 60))
    def expect(self, window):
        self.plan.expect(window * BLOCK, window * BLOCK)

    @invariant()
    def holds(self):
        self.plan.check_invariants()
        rest = self.plan.rest()
        if rest is not None:
            assert all(0 <= extent.start < extent.stop <= self.size for extent in rest)
            self.said = {i for extent in rest for i in range(extent.start // BLOCK, -(-extent.stop // BLOCK))}
        if self.plan.earnest:
            wanted = self.plan.order.blocks if self.plan.order is not None else range(-(-self.size // BLOCK))
            assert {i for i in wanted if i not in self.plan._touched} <= self.said, "all that is left was said"


TestFilePlanMachine = FilePlanMachine.TestCase
TestFilePlanMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
