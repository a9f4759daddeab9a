from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tigrismount.core.readahead import MAX_STREAMS, REORDER_BYTES, StreamPolicy, StreamTable
from tigrismount.core.types import Extent

MIB = 1 << 20
BLOCK = 8 * MIB
READ = 128 << 10


def table(size_bytes: int = 1024 * MIB, **policy: object) -> StreamTable:
    settled = {"block_bytes": BLOCK, "max_window_bytes": 512 * MIB} | policy
    return StreamTable(size_bytes, StreamPolicy(**settled))


def feed(streams: StreamTable, start: int, stop: int, *, read: int = READ, missed: bool = True) -> list[int]:
    """Read ``[start, stop)`` in order; return the positions of the reads at which the plan changed."""
    changed = []
    for position in range(start, stop, read):
        if streams.observe(position, min(position + read, stop), missed=missed):
            changed.append(position)
        streams.check_invariants()
    return changed


def ahead_bytes(streams: StreamTable) -> int:
    return sum(extent.size_bytes for extent in streams.ahead())


def test_a_first_read_at_the_start_of_the_file_opens_two_blocks_behind_the_one_being_read():
    streams = table()
    assert streams.observe(0, READ, missed=True)
    assert streams.ahead() == [Extent(BLOCK, 3 * BLOCK)]


def test_a_first_read_at_the_start_says_nothing_where_the_format_will():
    streams = table(trust_start=False)
    assert not streams.observe(0, READ, missed=True)
    assert streams.ahead() == []


def test_reading_from_the_middle_opens_a_window_once_it_goes_on_longer_than_the_kernel_reads_around_a_page():
    streams = table()
    assert feed(streams, 512 * MIB, 512 * MIB + 8 * READ) == []
    assert streams.ahead() == []
    assert streams.observe(512 * MIB + 8 * READ, 512 * MIB + 9 * READ, missed=True)
    assert streams.ahead() == [Extent(520 * MIB, 536 * MIB)]


@pytest.mark.parametrize("seed", range(20))
def test_random_reads_never_open_a_window(seed):
    """64 reads of 4 KiB anywhere in a 1 GiB file, most of them within the reordering distance of another."""
    streams = table()
    draw = random.Random(seed)
    for _ in range(64):
        start = draw.randrange(1, 262_144) * 4096
        assert not streams.observe(start, start + 4096, missed=True)
        assert streams.ahead() == []


@pytest.mark.parametrize("seed", range(20))
def test_random_page_faults_with_large_kernel_read_ahead_never_open_a_window(seed):
    """Each fault makes the kernel read 4 MiB around it, as four READs in a row; the file is a quarter read by then."""
    streams = table(1024 * MIB)
    for fault in random.Random(seed).sample(range(85), 64):
        start = MIB + fault * 12 * MIB
        for read in range(4):
            streams.observe(start + read * MIB, start + (read + 1) * MIB, missed=True)
        assert streams.ahead() == []


def test_random_reads_close_the_window_that_a_look_at_the_start_has_opened():
    """A look at the head, then reads here and there: no more than the first two blocks are fetched ahead."""
    streams = table()
    streams.observe(0, READ, missed=True)
    planned = set(streams.ahead())
    draw = random.Random(1)
    for _ in range(64):
        start = draw.randrange(262_144) * 4096
        streams.observe(start, start + 4096, missed=True)
        planned.update(streams.ahead())
    assert planned == {Extent(BLOCK, 3 * BLOCK)}


def test_the_window_grows_with_what_was_consumed_to_its_maximum():
    """64 MiB within the first block, then as much ahead as was read, then the budget."""
    streams = table(2048 * MIB)
    feed(streams, 0, 8 * MIB)
    assert ahead_bytes(streams) == 64 * MIB
    feed(streams, 8 * MIB, 256 * MIB)
    assert 256 * MIB - BLOCK <= ahead_bytes(streams) <= 256 * MIB
    feed(streams, 256 * MIB, 1024 * MIB)
    assert ahead_bytes(streams) == 512 * MIB


def test_the_window_never_exceeds_what_the_stream_has_consumed_while_it_ramps():
    streams = table(2048 * MIB)
    for position in range(0, 512 * MIB, READ):
        streams.observe(position, position + READ, missed=True)
        assert ahead_bytes(streams) <= max(64 * MIB, position + READ) + BLOCK


def test_a_steeper_growth_reaches_32_gets_within_64_mib():
    streams = table(growth=4)
    feed(streams, 0, 66 * MIB)
    assert ahead_bytes(streams) >= 32 * BLOCK


def test_a_reader_that_never_waits_needs_no_larger_window():
    streams = table()
    feed(streams, 0, 256 * MIB, missed=False)
    assert ahead_bytes(streams) == 2 * BLOCK


def test_the_plan_is_said_about_once_per_block():
    """8,192 reads of 128 KiB: the plan changes when a block is passed, and at each step of the ramp."""
    changed = feed(table(), 0, 1024 * MIB)
    assert 128 <= len(changed) <= 140


def test_the_plan_ends_with_the_file():
    streams = table(100 * MIB + 5)
    feed(streams, 0, 90 * MIB)
    assert streams.ahead() == [Extent(96 * MIB, 100 * MIB + 5)]
    feed(streams, 90 * MIB, 100 * MIB + 5)
    assert streams.ahead() == []


@pytest.mark.parametrize("distance", [1, 7, 14, 48])
def test_reads_out_of_order_continue_the_stream(distance):
    """What kernel read-ahead does: within *distance* MiB the reads arrive in any order, and the window stays open."""
    streams = table(read_bytes := 2048 * MIB)
    draw = random.Random(distance)
    reads = [*range(0, read_bytes // 2, MIB)]
    step = distance
    for first in range(0, len(reads), step):
        draw.shuffle(batch := reads[first : first + step])
        for start in batch:
            streams.observe(start, start + MIB, missed=True)
            streams.check_invariants()
            if first > 128:
                assert ahead_bytes(streams) >= 64 * MIB


def test_blocks_jumped_over_stay_planned_until_they_are_read():
    """Out of order is not unwanted: without this they would be the first to leave memory."""
    streams = table()
    feed(streams, 0, 64 * MIB)
    streams.observe(81 * MIB, 82 * MIB, missed=True)
    assert streams.ahead()[:2] == [Extent(64 * MIB, 72 * MIB), Extent(72 * MIB, 80 * MIB)]
    streams.observe(64 * MIB, 65 * MIB, missed=True)
    assert streams.ahead()[0] == Extent(72 * MIB, 80 * MIB)


def test_blocks_jumped_over_are_given_up_once_they_are_far_behind():
    streams = table()
    feed(streams, 0, 64 * MIB)
    feed(streams, 81 * MIB, 81 * MIB + REORDER_BYTES + BLOCK)
    assert streams.ahead()[0].start > 81 * MIB + REORDER_BYTES


def test_a_stream_that_closes_wants_nothing_of_what_it_jumped_over():
    streams = table()
    feed(streams, 0, MIB)
    streams.observe(40 * MIB, 40 * MIB + 4096, missed=True)
    assert streams.ahead() == []


def test_several_readers_may_each_move_on_without_stopping_the_others():
    """Four readers, three of which go elsewhere at once: the fourth keeps its window, as one of one would not."""
    streams = table(64 * 1024 * MIB)
    interleave(streams, [region * 1024 * MIB for region in range(4)], 8 * MIB)
    for region in range(5, 8):
        streams.observe(region * 1024 * MIB, region * 1024 * MIB + READ, missed=True)
    assert {extent.start // (1024 * MIB) for extent in streams.ahead()} == {0, 1, 2, 3}


def test_a_far_seek_starts_a_stream_without_a_window_and_a_second_one_resets_the_first():
    streams = table(8192 * MIB)
    feed(streams, 0, 128 * MIB)
    window = streams.ahead()
    streams.observe(2000 * MIB, 2000 * MIB + READ, missed=True)
    assert streams.ahead() == window
    streams.observe(4000 * MIB, 4000 * MIB + READ, missed=True)
    assert streams.ahead() == []
    streams.observe(128 * MIB, 128 * MIB + READ, missed=True)
    assert streams.ahead() == [Extent(136 * MIB, 152 * MIB)]


def test_a_stream_left_for_another_gives_its_window_back():
    streams = table(8192 * MIB)
    feed(streams, 0, 128 * MIB)
    feed(streams, 4000 * MIB, 4070 * MIB)
    assert all(extent.start > 4000 * MIB for extent in streams.ahead())


def interleave(streams: StreamTable, starts: list[int], size_bytes: int, read: int = READ) -> None:
    for offset in range(0, size_bytes, read):
        for start in starts:
            streams.observe(start + offset, start + offset + read, missed=True)
            streams.check_invariants()


@pytest.mark.parametrize("threads", [2, 4, 8, 16])
def test_threads_in_their_own_regions_have_a_window_each(threads):
    streams = table(16 * 256 * MIB)
    starts = [thread * 16 // threads * 256 * MIB for thread in range(threads)]
    interleave(streams, starts, 32 * MIB)
    for start in starts:
        assert any(start + 32 * MIB <= extent.start < start + 72 * MIB for extent in streams.ahead())
    assert ahead_bytes(streams) <= 512 * MIB


def test_windows_of_several_streams_take_turns_in_the_plan():
    streams = table(4096 * MIB)
    interleave(streams, [0, 2048 * MIB], 64 * MIB)
    first, second, third, *_ = streams.ahead()
    assert (first.start, second.start) == (2112 * MIB, 64 * MIB), "the one read last comes first"
    assert (third.start, third.size_bytes) == (first.start + BLOCK, BLOCK)


def test_a_window_ends_where_another_stream_has_begun():
    """Eight threads, each with an eighth of a file: nobody fetches what another one has read."""
    streams = table(1024 * MIB)
    interleave(streams, [0, 80 * MIB], 40 * MIB)
    ahead = sorted(streams.ahead(), key=lambda extent: extent.start)
    assert (ahead[0].start, max(e.stop for e in ahead if e.start < 80 * MIB)) == (40 * MIB, 80 * MIB)


def test_a_stream_that_reaches_the_beginning_of_another_joins_it():
    streams = table(1024 * MIB)
    interleave(streams, [0, 80 * MIB], 80 * MIB)
    assert min(extent.start for extent in streams.ahead()) == 160 * MIB
    feed(streams, 160 * MIB, 170 * MIB)
    assert min(extent.start for extent in streams.ahead()) == 176 * MIB


def test_a_stream_that_joins_another_while_it_is_read_leaves_no_trace():
    """The reader that reaches the other's beginning finds all of it in the page cache and never comes back."""
    streams = table(1024 * MIB)
    interleave(streams, [0, 80 * MIB], 60 * MIB)
    feed(streams, 60 * MIB, 82 * MIB)
    assert streams.reached(82 * MIB) == 140 * MIB
    assert streams.ahead()[0].start == 144 * MIB


def test_a_proven_stream_starts_with_the_first_window_and_a_trusted_one_with_two_blocks():
    streams = table(first_window_bytes=64 * MIB)
    streams.observe(0, READ, missed=False)
    assert ahead_bytes(streams) == 2 * BLOCK
    feed(streams, READ, 4 * MIB, missed=False)
    assert ahead_bytes(streams) == 64 * MIB


def test_a_second_reader_of_the_same_bytes_keeps_the_first_one_s_window():
    """A process that starts over, far behind, has a stream and a window of its own up to where the first one is."""
    streams = table(2048 * MIB)
    feed(streams, 0, 512 * MIB)
    interleave(streams, [0, 512 * MIB], 24 * MIB)
    starts = sorted(extent.start for extent in streams.ahead())
    assert starts[0] == 24 * MIB
    assert 536 * MIB in starts


def test_more_readers_than_streams_forget_the_one_read_longest_ago():
    streams = table(64 * 1024 * MIB)
    for reader in range(MAX_STREAMS + 5):
        streams.observe(reader * 1024 * MIB, reader * 1024 * MIB + READ, missed=True)
        streams.check_invariants()
    assert streams.reached(0) == 0
    assert streams.reached((MAX_STREAMS + 4) * 1024 * MIB) == (MAX_STREAMS + 4) * 1024 * MIB + READ


def test_a_window_goes_on_to_a_boundary_that_is_near():
    streams = table(boundary=lambda _: 30 * MIB)
    streams.observe(0, READ, missed=True)
    assert streams.ahead() == [Extent(BLOCK, 24 * MIB)], "a quarter of the window is as far as it goes on"
    streams = table(boundary=lambda stop: max(stop, 19 * MIB))
    streams.observe(0, READ, missed=True)
    assert streams.ahead() == [Extent(BLOCK, 24 * MIB)]


def test_a_budget_of_nothing_plans_nothing():
    streams = table(max_window_bytes=0)
    assert feed(streams, 0, 64 * MIB) == []
    assert streams.ahead() == []


def test_granted_windows_open_at_once_and_replace_the_streams_near_and_further_on():
    streams = table()
    feed(streams, 0, 16 * MIB)
    feed(streams, 512 * MIB, 516 * MIB)
    stream = streams.grant(MIB, 64 * MIB)
    assert streams.ahead() == [Extent(BLOCK, 72 * MIB)]
    assert streams.widen(stream, 128 * MIB)
    assert not streams.widen(stream, 32 * MIB)
    assert streams.ahead() == [Extent(BLOCK, 136 * MIB)]


@given(
    sizes=st.lists(st.sampled_from([4096, READ, MIB, 3 * MIB]), min_size=1, max_size=150),
    reorder=st.integers(1, 12),
    draw=st.randoms(use_true_random=False),
    tail=st.integers(1, BLOCK),
)
def test_what_was_read_is_never_planned(sizes, reorder, draw, tail):
    """One reader, its reads a little out of order: no block that it has read from is in a new plan."""
    streams = table(sum(sizes) + tail)
    reads, position = [], 0
    for size in sizes:
        reads.append((position, position + size))
        position += size
    touched = set()
    for first in range(0, len(reads), reorder):
        draw.shuffle(batch := reads[first : first + reorder])
        for start, stop in batch:
            touched.update(range(start // BLOCK, -(-stop // BLOCK)))
            if streams.observe(start, stop, missed=draw.random() < 0.5):
                planned = {i for e in streams.ahead() for i in range(e.start // BLOCK, -(-e.stop // BLOCK))}
                assert not planned & touched


class Reading(RuleBasedStateMachine):
    """Readers of any kind on a small file of small blocks; windows must stay what they promise to be."""

    @initialize(
        blocks=st.integers(1, 400),
        tail=st.integers(1, MIB),
        window=st.integers(0, 600),
        growth=st.integers(1, 4),
        trust=st.booleans(),
    )
    def start(self, blocks, tail, window, growth, trust):
        self.size = (blocks - 1) * MIB + tail
        self.max = window * MIB
        policy = StreamPolicy(block_bytes=MIB, max_window_bytes=self.max, growth=growth, trust_start=trust)
        self.streams = StreamTable(self.size, policy)
        self.place = 0
        self.plan = []

    def read(self, start: int, size: int, *, missed: bool, trusted: bool = False) -> None:
        start = min(start, self.size - 1)
        stop = min(start + size, self.size)
        changed = self.streams.observe(start, stop, missed=missed, trusted=trusted)
        plan = self.streams.ahead()
        if not changed:
            assert [e for e in plan if e not in self.plan] == []
        self.plan = plan
        self.place = stop

    @rule(count=st.integers(1, 40), size=st.sampled_from([4096, READ, MIB, 3 * MIB]), missed=st.booleans())
    def read_on(self, count, size, missed):
        for _ in range(count):
            self.read(self.place, size, missed=missed)

    @rule(start=st.integers(0, 400 * MIB), trusted=st.booleans())
    def read_anywhere(self, start, trusted):
        self.read(start, 4096, missed=True, trusted=trusted)

    @rule(back=st.integers(0, 64 * MIB))
    def read_behind(self, back):
        self.read(max(0, self.place - back), READ, missed=True)

    @rule(position=st.integers(0, 400 * MIB), window=st.integers(0, 600))
    def grant(self, position, window):
        self.streams.grant(min(position, self.size), window * MIB)
        self.plan = self.streams.ahead()

    @invariant()
    def windows_hold(self):
        if not hasattr(self, "streams"):
            return
        self.streams.check_invariants()
        plan = self.streams.ahead()
        assert all(0 <= e.start < e.stop <= self.size for e in plan)
        windows = [e for e in plan if e.size_bytes > MIB or e.start >= self.place]
        assert sum(e.size_bytes for e in windows) <= self.max + MAX_STREAMS * 2 * MIB + 64 * MIB


TestReading = Reading.TestCase
TestReading.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
