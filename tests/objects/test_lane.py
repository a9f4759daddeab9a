"""The data lane with threads that do nothing."""

from __future__ import annotations

import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.errors import ObjectUnavailableError, SlowDownError
from tigrismount.objects.lane import DataLane
from tigrismount.testing.waiting import until

PART_BYTES = 8 << 20


class Fetch:
    """One GET that waits until it may end."""

    def __init__(self, error=None):
        self.error = error
        self.began, self.may_end = threading.Event(), threading.Event()
        self.bytes = 0

    def get(self):
        self.began.set()
        assert self.may_end.wait(20)
        if self.error is not None:
            raise self.error
        self.bytes += PART_BYTES


def make(ceiling=8, start=32):
    return DataLane(ceiling, start=start, draw=lambda: 0.5)


async def run(lane, error=None):
    fetch = Fetch(error)
    fetch.may_end.set()
    await lane.run(fetch.get, lambda: fetch.bytes)


async def test_as_many_run_as_the_limit_says_and_an_eighth():
    lane, fetches = make(ceiling=40, start=16), [Fetch() for _ in range(20)]
    async with trio.open_nursery() as nursery:
        for fetch in fetches:
            nursery.start_soon(lane.run, fetch.get, lambda: PART_BYTES)
        await until(lambda: sum(fetch.began.is_set() for fetch in fetches) == 18)
        assert (lane.limit, lane.has_room) == (16, False)
        for fetch in fetches:
            fetch.may_end.set()
    assert all(fetch.began.is_set() for fetch in fetches)


async def test_a_refusal_halves_it_and_takes_the_eighth_away():
    lane = make(ceiling=40, start=16)
    with pytest.raises(SlowDownError):
        await run(lane, SlowDownError("full"))
    assert (lane.limit, lane.reason, lane.places.total_tokens) == (8, "the store asked for fewer", 8)


async def test_other_failures_change_nothing():
    lane = make(ceiling=40, start=16)
    with pytest.raises(ObjectUnavailableError):
        await run(lane, ObjectUnavailableError("broken"))
    assert (lane.limit, lane.places.total_tokens) == (16, 18)


async def test_a_look_up_that_is_refused_halves_it_too():
    lane = make(ceiling=40, start=16)
    lane.refused(lane.aside(), SlowDownError("full"))
    assert (lane.limit, lane.places.total_tokens) == (8, 8)


async def test_a_thread_that_was_left_behind_keeps_its_place_until_it_ends():
    lane, fetch = make(ceiling=1), Fetch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lane.run, fetch.get, lambda: 0)
        await until(fetch.began.is_set)
        nursery.cancel_scope.cancel()
    assert not lane.has_room
    fetch.may_end.set()
    await until(lambda: lane.has_room)
    await run(lane)


async def refused_at_one(lane):
    for _ in range(3):
        lane.refused(lane.aside(), SlowDownError("full"))


async def test_where_one_is_too_much_the_next_waits_for_its_turn():
    lane = make(ceiling=2)
    await refused_at_one(lane)
    assert not lane.has_room
    began_s = trio.current_time()
    await run(lane)
    assert trio.current_time() - began_s > 0.3


async def test_who_gives_up_while_it_waits_leaves_its_place_to_the_next():
    lane = make(ceiling=1)
    await refused_at_one(lane)
    fetch = Fetch()
    with trio.move_on_after(0.05):
        await lane.run(fetch.get, lambda: 0)
    assert not fetch.began.is_set()
    assert lane.places.available_tokens == 1
    await run(lane)


async def test_a_get_for_which_the_system_has_no_thread_fails_in_a_way_that_is_tried_again():
    lane, fetches, failures = make(ceiling=256, start=256), [Fetch() for _ in range(256)], []

    async def fly(fetch):
        try:
            await lane.run(fetch.get, lambda: fetch.bytes)
        except ObjectUnavailableError as exc:
            failures.append(exc.detail)

    threading.stack_size(1 << 46)  # more than there are addresses for: only threads that idle are left
    try:
        async with trio.open_nursery() as nursery:
            for fetch in fetches:
                nursery.start_soon(fly, fetch)
            await wait_all_tasks_blocked()  # waiting for it by time would take a thread
            for fetch in fetches:
                fetch.may_end.set()
    finally:
        threading.stack_size(0)
    assert "no thread" in failures[0]
    await run(lane)
    assert lane.places.borrowed_tokens == 0
