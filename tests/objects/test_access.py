from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.errors import ObjectUnavailableError
from tigrismount.objects.access import AccessWatch
from tigrismount.objects.client import ObjectStatistics


class Store:
    """Refuses while told so."""

    def __init__(self, *, refuses: bool) -> None:
        self.refuses = refuses
        self.asked: list[tuple[str, str]] = []
        self.counts = ObjectStatistics()

    def statistics(self) -> ObjectStatistics:
        return self.counts

    async def check_access(self, bucket: str, prefix: str) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append((bucket, prefix))
        if self.refuses:
            raise ObjectUnavailableError("refuses connections")


async def test_access_that_is_there_is_looked_at_once(autojump_clock):
    store = Store(refuses=False)
    watch = AccessWatch(store, "models", "llama/")
    with trio.move_on_after(3600):
        await watch.run()
    assert (watch.degraded, store.asked) == ("", [("models", "llama/")])


async def test_nobody_looks_while_all_goes_well(autojump_clock):
    store = Store(refuses=False)
    with trio.move_on_after(3600):
        await AccessWatch(store, "models", "", proved=True).run()
    assert store.asked == []


@pytest.mark.parametrize("what", ["retries", "refusals"])
async def test_a_store_that_goes_away_while_it_serves_is_noticed_by_what_fails(autojump_clock, what):
    store = Store(refuses=True)
    watch = AccessWatch(store, "models", "", proved=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.sleep(15)
        assert (watch.degraded, store.asked) == ("", [])
        store.counts = ObjectStatistics(**{what: 3})
        await trio.sleep(10)
        assert watch.degraded == "refuses connections"
        store.refuses = False
        await trio.sleep(10)
        assert watch.degraded == ""
        asked = len(store.asked)
        await trio.sleep(600)
        assert len(store.asked) == asked
        nursery.cancel_scope.cancel()


async def test_what_is_wrong_is_said_until_it_is_right(autojump_clock):
    store = Store(refuses=True)
    watch = AccessWatch(store, "models", "")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.sleep(35)
        assert watch.degraded == "refuses connections"
        assert len(store.asked) == 4
        store.refuses = False
        await trio.sleep(10)
        await wait_all_tasks_blocked()
        assert watch.degraded == ""
        nursery.cancel_scope.cancel()
    assert len(store.asked) == 5
