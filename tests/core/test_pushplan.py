"""What is pushed, what READs then mean, and that a plan never pushes what it must not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.pushplan import LOST_BYTES, MAX_LOSSES, PAGE_BYTES, PushPlan
from tigrismount.core.types import Extent

MIB = 1 << 20
PAGE = PAGE_BYTES


def plan_of(blocks: int, block_bytes: int = MIB) -> PushPlan:
    return PushPlan(blocks * block_bytes, block_bytes)


def push_all(plan: PushPlan) -> list[int]:
    """Push everything there is; returns the blocks in their order."""
    order = []
    while (push := plan.next()) is not None:
        if push.tripwire is not None:
            plan.hold(push, b"t" * push.tripwire.size_bytes)
        plan.done(push)
        order.append(push.index)
    return order


def pushed(plan: PushPlan, *extents: Extent) -> list[int]:
    plan.want(extents, lambda _: True)
    return push_all(plan)


def test_what_is_planned_and_in_memory_is_pushed_in_the_plans_order():
    plan = plan_of(10)
    left = plan.want([Extent(6 * MIB, 8 * MIB), Extent(2 * MIB, 4 * MIB)], lambda index: index != 7)
    assert left == [Extent(6 * MIB, 8 * MIB), Extent(2 * MIB, 4 * MIB)], "nothing is in the kernel yet"
    assert push_all(plan) == [6, 2, 3]
    assert not plan.arrived(5), "nobody wants it"
    assert plan.arrived(7)
    assert push_all(plan) == [7]


def test_what_was_pushed_need_not_be_fetched_again():
    plan = plan_of(10)
    plan.want([Extent(2 * MIB, 8 * MIB)], lambda index: index in (3, 4))
    push_all(plan)
    assert plan.want([Extent(2 * MIB, 9 * MIB)], lambda _: False) == [
        Extent(2 * MIB, 3 * MIB),
        Extent(5 * MIB, 9 * MIB),
    ]


def test_blocks_end_in_a_tripwire_every_quarter_of_the_window():
    plan = plan_of(64)
    plan.want([Extent(0, 16 * MIB)], lambda _: True)
    pushes = [plan.next() for _ in range(16)]
    assert [push.index for push in pushes if push.tripwire] == [3, 7, 11, 15]
    for push in pushes:
        end = push.tripwire.stop if push.tripwire else push.stop
        assert end == (push.index + 1) * MIB
        assert push.tripwire is None or push.tripwire.size_bytes == PAGE


def test_a_small_window_has_a_tripwire_in_each_block_and_a_huge_one_every_eighth():
    small, huge = plan_of(64), plan_of(512)
    small.want([Extent(0, 2 * MIB)], lambda _: True)
    assert [small.next().tripwire is not None for _ in range(2)] == [True, True]
    huge.want([Extent(0, 256 * MIB)], lambda _: True)
    pushes = [huge.next() for _ in range(256)]
    assert [push.index for push in pushes if push.tripwire][:3] == [7, 15, 23]


def test_the_end_of_the_object_is_a_tripwire_of_what_is_there():
    plan = PushPlan(3 * MIB + 5000, MIB)
    plan.want([Extent(3 * MIB, 4 * MIB)], lambda _: True)
    push = plan.next()
    assert (push.start, push.stop) == (3 * MIB, 3 * MIB + PAGE)
    assert push.tripwire == Extent(3 * MIB + PAGE, 3 * MIB + 5000)


def test_an_object_that_ends_with_one_page_pushes_nothing_of_its_last_block():
    plan = PushPlan(3 * MIB + 10, MIB)
    plan.want([Extent(3 * MIB, 3 * MIB + 10)], lambda _: True)
    push = plan.next()
    assert (push.start, push.stop, push.tripwire) == (3 * MIB, 3 * MIB, Extent(3 * MIB, 3 * MIB + 10))


def test_a_tripwire_says_that_all_before_it_was_read():
    plan = plan_of(64)
    pushed(plan, Extent(4 * MIB, 20 * MIB))
    assert plan.passed(3 * MIB, 4 * MIB) == 3 * MIB
    first, second = 8 * MIB - PAGE, 12 * MIB - PAGE
    assert plan.passed(first, first + PAGE) == 4 * MIB
    assert plan.passed(second, second + PAGE) == 8 * MIB, "back to the tripwire before"
    assert plan.passed(second, second + PAGE) == second, "once is enough"


def test_the_first_read_behind_pushed_bytes_says_it_too():
    plan = plan_of(64)
    pushed(plan, Extent(4 * MIB, 6 * MIB))
    pushed(plan, Extent(32 * MIB, 46 * MIB))
    last = 6 * MIB - PAGE
    assert plan.passed(last, last + PAGE) == 5 * MIB
    assert plan.passed(46 * MIB, 46 * MIB + PAGE) == 44 * MIB, "block 43 has a tripwire that was not reached"
    assert plan.passed(46 * MIB + PAGE, 47 * MIB) == 46 * MIB + PAGE


def test_a_tripwires_bytes_are_kept_until_somebody_reaches_it():
    plan = plan_of(64)
    plan.want([Extent(0, MIB)], lambda _: True)
    push = plan.next()
    plan.hold(push, b"x" * PAGE)
    at = push.tripwire.start
    assert plan.held(at, at + PAGE) == b"x" * PAGE
    assert plan.held(at, at + 2 * PAGE) is None
    assert plan.held(0, PAGE) is None
    plan.passed(at, at + PAGE)
    assert plan.held(at, at + PAGE) is None


def test_the_rest_of_the_block_that_its_reader_is_in_is_pushed_too():
    plan = plan_of(64)
    plan.want([Extent(5 * MIB, 8 * MIB)], lambda _: False)
    plan.passed(4 * MIB, 4 * MIB + PAGE)
    plan.passed(4 * MIB + PAGE, 4 * MIB + 3 * PAGE)
    assert plan.arrived(4)
    push = plan.next()
    assert (push.index, push.start) == (4, 4 * MIB + 3 * PAGE), "not what its own READs bring"
    plan.passed(20 * MIB, 20 * MIB + PAGE)
    assert not plan.arrived(20), "a reader elsewhere is left alone"


def test_the_blocks_of_a_reader_that_touches_the_end_first_stay_wanted():
    """``memcpy`` touches the last page of a tensor before the others, and the plan leaves that block to its reader."""
    plan = plan_of(64)
    plan.want([Extent(5 * MIB, 20 * MIB)], lambda _: False)
    plan.passed(10 * MIB - PAGE, 10 * MIB + PAGE)
    plan.want([Extent(5 * MIB, 9 * MIB), Extent(11 * MIB, 20 * MIB)], lambda _: False)
    assert plan.arrived(9)
    assert plan.arrived(10)
    assert [(push.index, push.start) for push in (plan.next(), plan.next())] == [
        (9, 9 * MIB),
        (10, 10 * MIB + PAGE),
    ], "what lies before the page was not read"


def test_a_reader_waits_for_what_is_about_to_come_and_for_nothing_else():
    plan = plan_of(64)
    assert not plan.is_coming(5 * MIB)
    plan.want([Extent(5 * MIB, 8 * MIB)], lambda index: index == 6)
    assert plan.is_coming(5 * MIB + PAGE)
    assert plan.is_coming(7 * MIB)
    assert not plan.is_coming(8 * MIB)
    push = plan.next()
    assert plan.is_coming(6 * MIB), "on its way"
    plan.done(push)
    assert not plan.is_coming(6 * MIB + PAGE), "there; block 7 may take long"


def test_a_push_under_way_waits_for_the_reads_where_it_is():
    plan = plan_of(64)
    plan.want([Extent(5 * MIB, 8 * MIB)], lambda index: index == 6)
    assert not plan.is_stopped_by(6 * MIB, 6 * MIB + PAGE)
    push = plan.next()
    assert plan.is_stopped_by(6 * MIB, 6 * MIB + PAGE)
    assert not plan.is_stopped_by(6 * MIB - PAGE, 6 * MIB)
    plan.done(push)
    assert not plan.is_stopped_by(6 * MIB, 6 * MIB + PAGE)


def test_reads_that_wait_for_a_push_are_left_out_of_it():
    plan = plan_of(64)
    plan.want([Extent(5 * MIB, 8 * MIB)], lambda index: index == 5)
    push = plan.next()
    assert plan.pieces(push) == [(5 * MIB, push.stop)]
    with plan.waiting(5 * MIB + 4 * PAGE, 5 * MIB + 6 * PAGE), plan.waiting(5 * MIB - PAGE, 5 * MIB + PAGE):
        assert plan.pieces(push) == [(5 * MIB + PAGE, 5 * MIB + 4 * PAGE), (5 * MIB + 6 * PAGE, push.stop)]
    with plan.waiting(push.stop - PAGE, push.stop + 2 * PAGE), plan.waiting(9 * MIB, 10 * MIB):
        assert plan.pieces(push) == [(5 * MIB, push.stop - PAGE)]
    assert plan.pieces(push) == [(5 * MIB, push.stop)]


def test_a_read_that_runs_over_a_tripwire_says_that_all_before_it_was_read():
    plan = plan_of(64)
    pushed(plan, Extent(0, 16 * MIB))
    assert plan.passed(4 * MIB - 2 * PAGE, 4 * MIB + PAGE) == 0


def test_a_push_that_failed_is_as_if_it_had_not_been():
    plan = plan_of(64)
    plan.want([Extent(0, MIB)], lambda _: True)
    push = plan.next()
    plan.hold(push, b"x" * PAGE)
    plan.failed(push)
    at = push.tripwire.start
    assert plan.passed(at, at + PAGE) == at
    assert plan.held(at, at + PAGE) is None
    assert plan.want([Extent(0, MIB)], lambda _: False) == [Extent(0, MIB)]


def test_many_reads_of_pushed_bytes_mean_that_they_are_gone():
    plan = plan_of(512)
    pushed(plan, Extent(0, 256 * MIB))
    for start in range(0, LOST_BYTES, MIB):
        plan.passed(start + PAGE, start + MIB)
    assert plan.losses == 0
    plan.passed(100 * MIB, 101 * MIB)
    assert plan.losses == 1
    everything = [Extent(0, 256 * MIB)]
    assert plan.want(everything, lambda _: True) == everything
    for _ in range(MAX_LOSSES - 1):
        push_all(plan)
        for start in range(0, LOST_BYTES + 2 * MIB, MIB):
            plan.passed(start + PAGE, start + MIB)
        plan.want(everything, lambda _: True)
    assert plan.given_up
    assert push_all(plan) == []
    assert plan.want(everything, lambda _: True) == everything
    assert not plan.arrived(3)
    plan.withdraw()
    assert not plan.given_up, "opened anew, tried anew"


def test_few_reads_of_pushed_bytes_between_tripwires_are_only_late():
    plan = plan_of(512)
    pushed(plan, Extent(0, 256 * MIB))
    for index in range(0, 256, 8):
        for start in range(index, index + 8):
            plan.passed(start * MIB + PAGE, (start + 1) * MIB - PAGE)
        at = (index + 8) * MIB - PAGE
        plan.passed(at, at + PAGE)
    assert plan.losses == 0


def test_a_file_that_was_closed_may_have_lost_all_its_pages():
    plan = plan_of(64)
    pushed(plan, Extent(0, 32 * MIB))
    plan.withdraw()
    plan.passed(3 * MIB, 3 * MIB + 2 * PAGE)
    assert plan.losses == 0
    assert plan.want([Extent(0, 8 * MIB)], lambda _: False) == [Extent(0, 8 * MIB)]


def test_a_push_made_since_the_file_was_opened_anew_says_nothing_about_older_ones():
    plan = plan_of(64)
    pushed(plan, Extent(MIB, 16 * MIB))
    plan.withdraw()
    plan.passed(0, 32 * PAGE)
    plan.want([Extent(MIB, 2 * MIB)], lambda _: False)
    assert plan.arrived(0)
    assert push_all(plan) == [0]
    plan.passed(MIB - PAGE, MIB)
    plan.passed(MIB, MIB + 32 * PAGE)
    everything = [Extent(0, 16 * MIB)]
    assert plan.want(everything, lambda _: False) == everything, "the kernel has dropped all of it"
    assert plan.losses == 0, "nobody's fault"


def test_a_file_that_was_closed_may_have_kept_them():
    plan = plan_of(64)
    pushed(plan, Extent(0, 32 * MIB))
    plan.withdraw()
    at = 8 * MIB - PAGE
    assert plan.passed(at, at + PAGE) == 0, "the tripwire after the first eight blocks"
    plan.passed(9 * MIB, 9 * MIB + PAGE)
    assert plan.want([Extent(0, 8 * MIB)], lambda _: False) == []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.integers(0, 40), st.integers(1, 20)),
        st.tuples(st.just("read"), st.integers(0, 40 * 64 - 1), st.integers(1, 64)),
        st.tuples(st.just("arrive"), st.integers(0, 39), st.just(0)),
        st.tuples(st.just("push"), st.booleans(), st.just(0)),
        st.tuples(st.just("withdraw"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 40 * 64 * PAGE))
def test_whatever_happens_pushes_stay_inside_blocks_and_the_object(steps: list[tuple], size_bytes: int) -> None:
    block = 64 * PAGE
    plan, wanted, claimed = PushPlan(size_bytes, block), set(), set()
    for what, first, second in steps:
        if what == "want":
            extents = [Extent(first * block, (first + second) * block)]
            left = plan.want(extents, lambda index: index % 3 == 0)
            assert sum(extent.size_bytes for extent in left) <= second * block
            wanted = set(range(first, first + second))
        elif what == "read" and first * PAGE < size_bytes:
            start, stop = first * PAGE, min((first + second) * PAGE, size_bytes)
            since = plan.passed(start, stop)
            assert 0 <= since <= start
            wanted.add(stop // block)
            claimed.add((since, start))
        elif what == "arrive":
            plan.arrived(first)
        elif what == "push" and (push := plan.next()) is not None:
            assert push.index in wanted
            assert push.index * block <= push.start <= push.stop <= min((push.index + 1) * block, size_bytes)
            assert push.start % PAGE == 0, "the kernel takes whole pages only"
            assert push.stop % PAGE == 0 or push.stop == size_bytes
            if push.tripwire is not None:
                assert push.tripwire.start == push.stop
                assert push.tripwire.stop == min((push.index + 1) * block, size_bytes)
                plan.hold(push, b"t" * push.tripwire.size_bytes)
            (plan.done if first else plan.failed)(push)
        elif what == "withdraw":
            plan.withdraw()
            wanted = set()
        plan.check_invariants()
