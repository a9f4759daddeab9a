from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from tigrismount.errors import ObjectUnavailableError
from tigrismount.objects.access import AccessWatch


class Store:
    """Refuses while told so."""

    def __init__(self, *, refuses: bool) -> None:
        self.refuses = refuses
        self.asked: list[tuple[str, str]] = []

    async def check_access(self, bucket: str, prefix: str) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append((bucket, prefix))
        if self.refuses:
            raise ObjectUnavailableError("refuses connections")


async def test_access_that_is_there_is_looked_at_once():
    store = Store(refuses=False)
    watch = AccessWatch(store, "models", "llama/")
    await watch.run()
    assert (watch.degraded, store.asked) == ("", [("models", "llama/")])


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
    assert len(store.asked) == 5
