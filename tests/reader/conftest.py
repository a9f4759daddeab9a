from __future__ import annotations

import json
import struct
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
import trio

from tigrismount.core.types import Extent, ObjectId, Priority
from tigrismount.reader.options import ReaderConfig
from tigrismount.reader.readers import Readers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tigrismount.errors import ObjectError

MIB = 1 << 20


class FakeStore:
    """A block source that holds sparse objects, records what is asked of it, and can hold or fail reads."""

    def __init__(self) -> None:
        self.heads: dict[ObjectId, bytes] = {}
        self.plans: dict[ObjectId, list[list[Extent]]] = defaultdict(list)
        self.later: dict[ObjectId, list[Extent]] = {}
        self.cuts = 0
        self.priority: dict[ObjectId, Priority] = {}
        self.priorities: list[Priority] = []
        self.reads: list[tuple[ObjectId, int, int, Priority]] = []
        self.events: list[str] = []
        self.resident = False
        self.retained: dict[ObjectId, int] = defaultdict(int)
        self.errors: dict[Priority, ObjectError] = {}
        self.gates: dict[Priority, trio.Event] = {}

    def retain(self, obj: ObjectId) -> None:
        self.retained[obj] += 1

    def release(self, obj: ObjectId) -> None:
        self.retained[obj] -= 1

    def put(self, key: str, size_bytes: int, head: bytes = b"") -> ObjectId:
        obj = ObjectId("bucket", key, "etag", size_bytes)
        self.heads[obj] = head
        return obj

    def put_tensors(self, key: str, *sizes_bytes: int) -> ObjectId:
        """Store a safetensors file with tensors of these sizes, in this order."""
        entries, position = {}, 0
        for number, size in enumerate(sizes_bytes):
            offsets = [position, position + size]
            entries[f"t{number:05}"] = {"dtype": "U8", "shape": [size], "data_offsets": offsets}
            position += size
        text = json.dumps(entries).encode()
        return self.put(key, 8 + len(text) + position, struct.pack("<Q", len(text)) + text)

    def content(self, obj: ObjectId, start: int, stop: int) -> bytes:
        head = self.heads[obj][start:stop]
        return head + bytes(stop - start - len(head))

    def try_read(self, obj: ObjectId, start: int, stop: int) -> memoryview | None:
        return memoryview(self.content(obj, start, stop)) if self.resident else None

    async def read(self, obj: ObjectId, start: int, stop: int, priority: Priority) -> memoryview:
        assert 0 <= start <= stop <= obj.size_bytes
        self.reads.append((obj, start, stop, priority))
        self.events.append(f"read {priority.name}")
        await trio.lowlevel.checkpoint()
        if priority in self.gates:
            await self.gates[priority].wait()
        if priority in self.errors:
            raise self.errors[priority]
        return memoryview(self.content(obj, start, stop))

    def plan(
        self,
        obj: ObjectId,
        extents: Sequence[Extent],
        priority: Priority,
        *,
        later: Sequence[Extent] | None = (),
        cut: bool = False,
    ) -> None:
        self.plans[obj].append(list(extents))
        if later is not None:
            self.later[obj] = list(later)
        self.cuts += cut
        self.priorities.append(priority)
        self.priority[obj] = priority
        self.events.append("plan")

    def planned_bytes(self, obj: ObjectId) -> int:
        """Bytes of the plan that holds now."""
        return sum(extent.size_bytes for extent in self.plans[obj][-1]) if self.plans[obj] else 0

    def probe_reads(self) -> list[tuple[ObjectId, int, int]]:
        return [(obj, start, stop) for obj, start, stop, priority in self.reads if priority is Priority.PREFETCH]


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
async def readers(store: FakeStore, nursery: trio.Nursery) -> Readers:
    """Readers in their default configuration, running."""
    made = Readers(store, ReaderConfig())
    await nursery.start(made.run)
    return made
