from __future__ import annotations

import pytest
import trio
import trio.testing

from tigrismount.errors import ObjectArchivedError, ObjectUnavailableError, StaleObjectError
from tigrismount.objects.memory import MemoryObjectClient


class Collect:
    """A sink that offers views of a fixed size and stops wanting bytes after a limit."""

    def __init__(self, size_bytes: int, *, view_bytes: int = 1 << 20, wanted_bytes: int | None = None) -> None:
        self.data = bytearray(size_bytes)
        self.received = 0
        self.view_bytes = view_bytes
        self.wanted_bytes = size_bytes if wanted_bytes is None else wanted_bytes

    def next_view(self) -> memoryview:
        stop = min(self.received + self.view_bytes, self.wanted_bytes)
        return memoryview(self.data)[self.received : stop]

    def wrote(self, count: int) -> None:
        self.received += count


async def test_every_request_is_recorded_in_order():
    client = MemoryObjectClient()
    obj = client.put("a/b", b"12345678")
    await client.head("bucket", "a/b")
    await client.list_page("bucket", "a/")
    await client.fetch(obj, 2, 6, Collect(4))
    assert client.requests == [("HEAD", "a/b"), ("LIST", "a/", None), ("GET", "a/b", 2, 6)]


async def test_a_held_get_stops_after_exactly_the_bytes_asked_for(autojump_clock):
    client = MemoryObjectClient()
    obj = client.put("k", bytes(range(100)))
    gate = client.hold("GET", after_bytes=10)
    sink = Collect(90, view_bytes=7)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.fetch, obj, 10, 100, sink)
        await trio.testing.wait_all_tasks_blocked()
        assert (sink.received, client.in_flight) == (10, 1)
        gate.set()
    assert bytes(sink.data) == bytes(range(10, 100))
    assert (client.in_flight, client.peak_in_flight) == (0, 1)


async def test_a_failure_is_used_up_and_may_come_in_the_middle_of_a_body():
    client = MemoryObjectClient()
    obj = client.put("k", bytes(100))
    client.fail(ObjectUnavailableError("broken"), "GET", "k", after_bytes=30)
    sink = Collect(100)
    with pytest.raises(ObjectUnavailableError):
        await client.fetch(obj, 0, 100, sink)
    assert sink.received == 30
    await client.fetch(obj, 0, 100, Collect(100))
    assert client.statistics().errors == 1


async def test_several_failures_come_one_request_at_a_time():
    client = MemoryObjectClient()
    client.put("k", b"")
    client.fail(ObjectUnavailableError("first"), "HEAD")
    client.fail(StaleObjectError("second"), "HEAD")
    with pytest.raises(ObjectUnavailableError):
        await client.head("bucket", "k")
    with pytest.raises(StaleObjectError):
        await client.head("bucket", "k")
    await client.head("bucket", "k")


async def test_archived_objects_cannot_be_fetched():
    client = MemoryObjectClient()
    obj = client.put("k", b"x", storage_class="GLACIER")
    with pytest.raises(ObjectArchivedError):
        await client.fetch(obj, 0, 1, Collect(1))


async def test_a_closed_client_refuses():
    client = MemoryObjectClient()
    await client.aclose()
    with pytest.raises(RuntimeError):
        await client.head("bucket", "k")
