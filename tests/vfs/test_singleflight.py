from __future__ import annotations

import pytest
import trio
import trio.testing

from tigrismount.errors import ObjectUnavailableError, SlowDownError
from tigrismount.vfs.singleflight import SingleFlight


class Store:
    """Counts calls and answers once told to."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.calls = 0
        self.go = trio.Event()

    async def ask(self):
        self.calls += 1
        await self.go.wait()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def test_askers_at_the_same_time_share_one_call():
    store, flights, answers = Store("yes"), SingleFlight(), []

    async def ask():
        answers.append(await flights.run("key", store.ask))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        store.go.set()
    assert (answers, store.calls) == (["yes"] * 20, 1)


async def test_the_next_asker_makes_a_call_of_its_own_and_other_keys_do_too():
    store, flights = Store(None, "second", "other"), SingleFlight()
    store.go.set()
    assert await flights.run("key", store.ask) is None
    assert await flights.run("key", store.ask) == "second"
    assert await flights.run("other", store.ask) == "other"
    assert store.calls == 3


async def test_none_is_a_result_that_waiters_get():
    store, flights, answers = Store(None), SingleFlight(), []

    async def ask():
        answers.append(await flights.run("key", store.ask))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        store.go.set()
    assert (answers, store.calls) == ([None, None], 1)


async def test_a_failure_is_everybodys_each_with_an_exception_of_its_own():
    cause = SlowDownError("busy", retry_after_s=3.0, bucket="b", key="k")
    store, flights, errors = Store(cause), SingleFlight(), []

    async def ask():
        with pytest.raises(ObjectUnavailableError) as caught:
            await flights.run("key", store.ask)
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        store.go.set()
    assert store.calls == 1
    assert len({id(error) for error in errors}) == 3
    assert {(type(e), e.detail, e.bucket, e.key, e.retry_after_s) for e in errors} == {
        (SlowDownError, "busy", "b", "k", 3.0)
    }
    assert {e.__cause__ for e in errors} == {None, cause}


async def test_when_the_caller_is_cancelled_one_of_the_waiters_calls_again():
    store, flights, answers = Store("late"), SingleFlight(), []
    scopes = []

    async def ask():
        with trio.CancelScope() as scope:
            scopes.append(scope)
            answers.append(await flights.run("key", store.ask))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        await trio.testing.wait_all_tasks_blocked()
        store.go.set()
    assert (answers, store.calls) == (["late", "late"], 2)


async def test_a_waiter_that_is_cancelled_does_not_disturb_the_call():
    store, flights, answers = Store("yes"), SingleFlight(), []

    async def ask():
        answers.append(await flights.run("key", store.ask))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await flights.run("key", store.ask)
        store.go.set()
    assert (answers, store.calls) == (["yes"], 1)
