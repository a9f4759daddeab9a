"""The book of a bounded cache: the bound, the pins and the sums hold whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tigrismount.core import eviction
from tigrismount.core.eviction import Eviction, Occupancy, Usage

NAMES = st.sampled_from("abcdefgh")
CAPACITY_BYTES = 100
SLACK_BYTES = 10


class OccupancyMachine(RuleBasedStateMachine):
    """A cache that asks before it adds and does what it is told; the model is a dict of sizes and a list of uses."""

    def __init__(self) -> None:
        super().__init__()
        self.occupancy: Occupancy[str] = Occupancy(CAPACITY_BYTES, slack_bytes=SLACK_BYTES)
        self.sizes: dict[str, int] = {}
        self.pins: list[str] = []
        self.uses: list[str] = []

    def use(self, name: str) -> int:
        self.uses.append(name)
        return len(self.uses)

    @rule(name=NAMES, size_bytes=st.integers(1, 60), busy=st.frozensets(NAMES, max_size=2))
    def write(self, name: str, size_bytes: int, busy: frozenset[str]) -> None:
        """A write makes room first, and does not happen when there is none."""
        self.occupancy.pin(name)
        plan = self.occupancy.plan(size_bytes, busy=busy)
        self.occupancy.unpin(name)
        assert not set(plan.victims) & {name, *self.pins, *busy}
        assert plan.freed_bytes == sum(self.sizes[victim] for victim in plan.victims)
        self.check_order(plan.victims, busy | {name})
        self.check_slack(plan, self.occupancy.total_bytes + size_bytes - CAPACITY_BYTES)
        movable = sum(size for other, size in self.sizes.items() if other not in {name, *self.pins, *busy})
        assert plan.enough == (sum(self.sizes.values()) - movable + size_bytes <= CAPACITY_BYTES)
        if plan.enough:
            for victim in plan.victims:
                self.occupancy.remove(victim)
                del self.sizes[victim]
            self.occupancy.add(name, size_bytes, self.use(name))
            self.sizes[name] = self.sizes.get(name, 0) + size_bytes

    def check_order(self, victims: tuple[str, ...], kept: frozenset[str]) -> None:
        last = {name: position for position, name in enumerate(self.uses)}
        order = [last[victim] for victim in victims]
        assert order == sorted(order)
        spared = [last[n] for n in self.sizes if n not in {*victims, *kept, *self.pins}]
        assert not (order and spared) or order[-1] < min(spared)

    def check_slack(self, plan: Eviction[str], excess_bytes: int) -> None:
        """Beyond what is needed only small versions go, and no more of them than the slack."""
        needed_bytes = 0
        if plan.victims:
            *others, last = (self.sizes[victim] for victim in plan.victims)
            assert 0 < plan.last_bytes <= last
            assert not plan.enough or sum(others) + plan.last_bytes >= excess_bytes
            assert plan.last_bytes == last or sum(others) + plan.last_bytes == excess_bytes
        for victim in plan.victims:
            assert needed_bytes < excess_bytes or needed_bytes + self.sizes[victim] <= excess_bytes + SLACK_BYTES
            needed_bytes += self.sizes[victim]

    @rule(name=NAMES)
    def touch(self, name: str) -> None:
        self.occupancy.touch(name, self.use(name))

    @rule(name=NAMES)
    def pin(self, name: str) -> None:
        self.occupancy.pin(name)
        self.pins.append(name)

    @rule()
    def unpin(self) -> None:
        if self.pins:
            self.occupancy.unpin(self.pins.pop())

    @rule(name=NAMES, size_bytes=st.integers(1, 60))
    def trim(self, name: str, size_bytes: int) -> None:
        """A version that lost a part is as old as before."""
        if self.sizes.get(name, 0) >= size_bytes:
            self.occupancy.shrink(name, size_bytes)
            self.sizes[name] -= size_bytes

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        self.occupancy.remove(name)
        self.sizes.pop(name, None)

    @rule()
    def survey(self) -> None:
        """Reading everything anew from the index changes nothing."""
        last = {name: position + 1 for position, name in enumerate(self.uses)}
        self.occupancy.replace({name: Usage(size, last[name]) for name, size in self.sizes.items()})

    @invariant()
    def sums_and_bound_hold(self) -> None:
        self.occupancy.check_invariants()
        assert self.occupancy.total_bytes == sum(self.sizes.values()) <= CAPACITY_BYTES
        assert len(self.occupancy) == len(self.sizes)


TestOccupancy = OccupancyMachine.TestCase
TestOccupancy.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def filled(**sizes: int) -> Occupancy[str]:
    """A cache of 100 bytes whose versions were used in the order given."""
    occupancy: Occupancy[str] = Occupancy(100)
    for tick, (name, size_bytes) in enumerate(sizes.items()):
        occupancy.add(name, size_bytes, tick)
    return occupancy


def test_nothing_goes_while_there_is_room() -> None:
    assert filled(a=40, b=40).plan(20).victims == ()


def test_least_recently_used_goes_first_and_no_more_than_needed() -> None:
    occupancy = filled(a=40, b=30, c=30)
    occupancy.touch("a", 9)
    assert occupancy.plan(1).victims == ("b",)


def test_only_as_much_of_the_last_one_as_is_needed() -> None:
    assert (filled(a=40, b=60).plan(50).last_bytes, filled(a=40, b=60).plan(40).last_bytes) == (10, 40)


def test_free_disk_space_counts_like_the_bound() -> None:
    occupancy = filled(a=10, b=10)
    assert occupancy.plan(5, disk_room_bytes=0).victims == ("a",)
    assert occupancy.plan(0, disk_room_bytes=-15).victims == ("a", "b")
    assert not occupancy.plan(5, disk_room_bytes=-100).enough


def test_a_lowered_bound_is_reached_again() -> None:
    occupancy = filled(a=40, b=40)
    occupancy.capacity_bytes = 50
    assert occupancy.plan(0).victims == ("a",)


def test_time_does_not_go_back() -> None:
    occupancy = filled(a=50, b=50)
    occupancy.touch("b", 0)
    assert occupancy.plan(1).victims == ("a",)


def test_unpin_without_pin_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        filled(a=1).unpin("a")


def test_the_order_is_the_same_however_many_are_sorted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: pieces that are not merged evict what was used last of the first piece."""
    occupancy: Occupancy[int] = Occupancy(0)
    for name in range(50):
        occupancy.add(name, 1, name * 17 % 50)
    expected = sorted(range(50), key=lambda name: name * 17 % 50)
    for count in (1, 7, 50, 51):
        monkeypatch.setattr(eviction, "SORTED_AT_ONCE", count)
        assert list(occupancy.plan(0).victims) == expected
