from __future__ import annotations

import random

import pytest

from tigrismount.core.layout import Layout, TensorExtent
from tigrismount.core.prefetchplan import COMB_TEETH, LoadPlan
from tigrismount.core.readahead import StreamPolicy, StreamTable
from tigrismount.core.types import Extent

MIB = 1 << 20
BLOCK = 8 * MIB
READ = 128 << 10
HEADER = 16_384


def layout_of(*sizes_bytes: int) -> Layout:
    tensors, position = [], HEADER
    for number, size in enumerate(sizes_bytes):
        tensors.append(TensorExtent(f"t{number}", "U8", (size,), position, position + size))
        position += size
    return Layout(HEADER, tuple(tensors))


def llama() -> Layout:
    """An embedding of 98 MiB, then layers of large and tiny tensors, as they lie in real files; about 500 MiB."""
    layer = [4096, 16 * MIB, 4096, 9 * MIB, 9 * MIB, 2 * MIB, 2 * MIB]
    return layout_of(98 * MIB, *layer * 11)


def plan_of(layout: Layout, *, window: int = 1024 * MIB, header_read: bool = True) -> LoadPlan:
    size_bytes = layout.tensors[-1].stop
    policy = StreamPolicy(block_bytes=BLOCK, max_window_bytes=window, trust_start=False)
    streams = StreamTable(size_bytes, policy)
    if header_read:
        streams.observe(0, READ, missed=True)
    return LoadPlan(layout, streams)


def comb(plan: LoadPlan, layout: Layout, *, before: int = 0, read_ahead: int = READ, reads: int = 1) -> None:
    """Touch the first page of every tensor, as ``load_file`` does; what the kernel read already is not read again."""
    size_bytes = layout.tensors[-1].stop
    cached = before
    for tensor in layout.tensors:
        if tensor.start >= cached:
            start = tensor.start // 4096 * 4096
            for _ in range(reads):
                cached = min(start + read_ahead, size_bytes)
                if start < cached:
                    plan.observe(start, cached, missed=True)
                start = cached


def ahead_bytes(plan: LoadPlan) -> int:
    return sum(extent.size_bytes for extent in plan.ahead())


def test_a_look_at_the_header_plans_nothing():
    """Even when the kernel reads 4 MiB around it."""
    plan = plan_of(llama(), header_read=False)
    for start in range(0, 4 * MIB, MIB):
        assert not plan.observe(start, start + MIB, missed=True)
    assert plan.ahead() == []


def test_reading_on_from_the_header_plans_eight_blocks_of_data():
    plan = plan_of(llama())
    for start in range(READ, 5 * READ, READ):
        assert plan.ahead() == []
        plan.observe(start, start + READ, missed=True)
    assert plan.ahead() == [Extent(BLOCK, 9 * BLOCK)]


def test_the_first_read_that_begins_a_tensor_plans_from_there_and_not_what_was_skipped():
    layout = layout_of(*[40 * MIB - HEADER // 4] * 20)
    plan = plan_of(layout)
    start = layout.tensors[5].start // 4096 * 4096
    assert plan.observe(start, start + READ, missed=True)
    assert [extent.start for extent in plan.ahead()] == [-(-(start + READ) // BLOCK) * BLOCK]


def test_a_second_place_must_prove_itself():
    """64 random reads of 4 KiB in a tensor file: nothing is fetched but what they touch."""
    layout = layout_of(*[64 * MIB] * 16)
    plan = plan_of(layout)
    draw, planned = random.Random(3), set()
    for _ in range(64):
        start = draw.randrange(BLOCK // 4096, layout.tensors[-1].stop // 4096) * 4096
        plan.observe(start, start + 4096, missed=True)
        planned.update(plan.ahead())
    assert planned == set()


def test_a_load_that_waits_has_16_gets_ahead_within_the_first_16_mib_and_32_after_a_gib():
    plan = plan_of(layout_of(*[4 * MIB] * 512))
    for start in range(READ, 16 * MIB, READ):
        plan.observe(start, start + READ, missed=True)
    assert ahead_bytes(plan) >= 16 * BLOCK
    for start in range(16 * MIB, 1100 * MIB, READ):
        plan.observe(start, start + READ, missed=True)
    assert ahead_bytes(plan) >= 32 * BLOCK


def test_a_load_that_finds_everything_in_memory_has_no_more_ahead_than_it_needs():
    """So that a reader who stops after 512 MiB has cost no more than a seventh of that."""
    plan = plan_of(layout_of(*[4 * MIB] * 256))
    for start in range(READ, 16 * MIB, READ):
        plan.observe(start, start + READ, missed=True)
    for start in range(16 * MIB, 512 * MIB, READ):
        plan.observe(start, start + READ, missed=False)
    assert 4 * BLOCK <= ahead_bytes(plan) <= 9 * BLOCK


def test_the_plan_reaches_the_end_of_the_file_and_no_further():
    layout = llama()
    plan = plan_of(layout)
    for start in range(READ, 420 * MIB, READ):
        plan.observe(start, start + READ, missed=True)
    assert plan.ahead()[-1].stop == layout.tensors[-1].stop


@pytest.mark.parametrize(("end", "stop"), [(35 * MIB, 40 * MIB), (50 * MIB, 32 * MIB)])
def test_a_window_goes_on_to_the_end_of_a_tensor_that_is_near(end, stop):
    """The window would end at 31 MiB, in the middle of the first tensor."""
    plan = plan_of(layout_of(end - HEADER, 100 * MIB))
    plan.observe(15 * MIB - READ, 15 * MIB, missed=True)
    assert plan.ahead() == [Extent(2 * BLOCK, stop)]


@pytest.mark.parametrize(("read_ahead", "reads"), [(READ, 1), (2 * READ, 1), (MIB, 1), (MIB, 4)])
def test_a_comb_of_first_pages_plans_the_whole_file(read_ahead, reads):
    """At every kernel read-ahead: one READ of 128 KiB per tensor, or four of 1 MiB."""
    layout = llama()
    plan = plan_of(layout)
    comb(plan, layout, before=READ, read_ahead=read_ahead, reads=reads)
    assert plan.ahead() == [Extent(BLOCK, layout.tensors[-1].stop)]


def test_a_comb_plans_the_whole_file_when_the_header_was_in_the_page_cache():
    layout = llama()
    plan = plan_of(layout, header_read=False)
    comb(plan, layout)
    assert plan.ahead() == [Extent(BLOCK, layout.tensors[-1].stop)]


def test_a_comb_widens_the_plan_tooth_by_tooth_within_the_budget():
    layout = layout_of(*[20 * MIB] * 50)
    plan = plan_of(layout, window=256 * MIB)
    sizes = []
    for tensor in layout.tensors[1:]:
        plan.observe(tensor.start, tensor.start + READ, missed=True)
        sizes.append(ahead_bytes(plan))
    assert sizes[COMB_TEETH - 1] <= 80 * MIB
    assert max(sizes) == sizes[-1] == 256 * MIB


def test_the_data_behind_a_comb_is_read_with_the_plan_ahead_of_it():
    """The loader comes back to the first tensor: the plan moves on with it, and nothing behind it stays planned."""
    layout = llama()
    plan = plan_of(layout, window=128 * MIB)
    comb(plan, layout, before=READ)
    assert plan.ahead() == [Extent(BLOCK, 17 * BLOCK)]
    for start in range(READ, 100 * MIB, READ):
        plan.observe(start, start + READ, missed=True)
        assert sum(e.size_bytes for e in plan.ahead()) >= 15 * BLOCK
    assert [e.start for e in plan.ahead()] == [13 * BLOCK]


def test_tensors_read_one_after_the_other_are_no_comb():
    """Every tensor's start is passed, but none is jumped to: the window is that of what was consumed."""
    plan = plan_of(layout_of(*[MIB] * 64))
    for start in range(READ, 8 * MIB, READ):
        plan.observe(start, start + READ, missed=True)
        assert ahead_bytes(plan) <= 64 * MIB


def test_two_jumps_to_the_next_tensor_are_chance():
    layout = layout_of(*[20 * MIB] * 50)
    plan = plan_of(layout)
    for tensor in layout.tensors[1:4]:
        assert ahead_bytes(plan) <= 3 * BLOCK
        plan.observe(tensor.start, tensor.start + READ, missed=True)
    assert ahead_bytes(plan) > 3 * BLOCK


def test_a_comb_is_jumps_in_a_row():
    layout = layout_of(*[20 * MIB] * 50)
    plan = plan_of(layout)
    for number in (1, 3, 4, 6, 7, 9, 10):
        start = layout.tensors[number].start
        plan.observe(start, start + READ, missed=True)
        assert ahead_bytes(plan) <= 3 * BLOCK


def test_tensors_whose_ends_are_touched_first_are_no_comb():
    """``memcpy`` loads the last bytes first; most of what follows may be in the kernel and is not seen."""
    layout = layout_of(*[20 * MIB] * 50)
    plan = plan_of(layout)
    for number, tensor in enumerate(layout.tensors[:10]):
        plan.observe(tensor.stop - READ // 2, tensor.stop + READ // 2, missed=True)
        assert not plan.combing
        for start in range(tensor.start + READ // 2, tensor.stop - READ, READ):
            plan.observe(start, start + READ, missed=True)
        if number > 2:
            assert plan.ahead(), "reading goes on"


def test_a_comb_takes_nothing_from_a_window():
    layout = layout_of(*[20 * MIB] * 50)
    plan = plan_of(layout)
    for start in range(READ, 301 * MIB, READ):
        plan.observe(start, start + READ, missed=True)
    before = ahead_bytes(plan)
    assert before > BLOCK << COMB_TEETH
    for tensor in layout.tensors[15 : 15 + COMB_TEETH]:
        plan.observe(tensor.stop - READ // 2, tensor.stop + READ // 2, missed=True)
    assert plan.combing
    assert ahead_bytes(plan) >= before - BLOCK


def test_jumps_that_miss_the_next_tensor_are_no_comb():
    layout = layout_of(*[20 * MIB] * 50)
    plan = plan_of(layout)
    for tensor in layout.tensors[1::2]:
        plan.observe(tensor.start, tensor.start + 4096, missed=True)
    assert ahead_bytes(plan) <= 2 * BLOCK


def test_a_long_run_behind_a_comb_is_reading_again():
    """The comb stops half way and its last tensor is read through: a stream of its own opens there."""
    layout = layout_of(*[64 * MIB] * 16)
    plan = plan_of(layout, window=128 * MIB)
    for tensor in layout.tensors[1:8]:
        plan.observe(tensor.start, tensor.start + READ, missed=True)
    last = layout.tensors[7]
    for start in range(last.start + READ, last.stop, READ):
        plan.observe(start, start + READ, missed=True)
    assert any(last.stop <= extent.start <= last.stop + BLOCK for extent in plan.ahead())
