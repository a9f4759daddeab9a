"""What a reader tells whoever pushes, and what it makes of the answers."""

from __future__ import annotations

import pytest
import trio

from tigrismount.core.loadlog import NoLog
from tigrismount.core.types import Extent
from tigrismount.reader.file_reader import FileReader
from tigrismount.reader.options import ReaderConfig

MIB = 1 << 20


class FakePushes:
    """Pushes as the reader sees them: what is in the kernel, and what is about to be."""

    def __init__(self) -> None:
        self.in_kernel: list[Extent] = []
        self.kept: dict[int, bytes] = {}
        self.since = 0
        self.coming: set[int] = set()
        self.waits: list[int] = []
        self.withdrawals = 0

    def planned(self, obj, extents):
        return [extent for extent in extents if extent not in self.in_kernel]

    def withdrawn(self, obj):
        self.withdrawals += 1

    def passed(self, obj, start, stop):
        return min(start, self.since) if self.since else start

    def is_coming(self, obj, position):
        return position in self.coming

    async def wait_for(self, obj, start, stop):
        await trio.lowlevel.checkpoint()
        self.waits.append(stop)

    def held(self, obj, start, stop):
        return self.kept.get(start)


@pytest.fixture
def pushes() -> FakePushes:
    return FakePushes()


def test_what_the_kernel_has_is_not_planned(store, pushes):
    obj = store.put("plain", 64 * MIB)
    reader = FileReader(obj, store, ReaderConfig(), NoLog(), pushes=pushes)
    store.resident = True
    reader.try_read(0, MIB)
    assert store.plans[obj][-1]
    other = FileReader(store.put("other", 64 * MIB), store, ReaderConfig(), NoLog(), pushes=pushes)
    pushes.in_kernel = store.plans[obj][-1]
    other.try_read(0, MIB)
    assert store.plans[other.obj][-1] == []
    other.withdraw()
    assert pushes.withdrawals == 1


def test_pushed_bytes_that_were_passed_count_as_read(store, pushes):
    obj = store.put("plain", 512 * MIB)
    reader = FileReader(obj, store, ReaderConfig(), NoLog(), pushes=pushes)
    store.resident = True
    reader.try_read(0, MIB)
    pushes.since = MIB
    reader.try_read(40 * MIB - 4096, 40 * MIB)
    assert store.plans[obj][-1][0].start == 40 * MIB, "the window moved on with its reader"


async def test_bytes_kept_for_a_tripwire_need_no_block(store, pushes):
    obj = store.put("plain", 64 * MIB)
    reader = FileReader(obj, store, ReaderConfig(), NoLog(), pushes=pushes)
    pushes.kept[8 * MIB - 4096] = b"kept"
    assert reader.try_read(8 * MIB - 4096, 8 * MIB) == b"kept"
    assert reader.try_read(9 * MIB, 10 * MIB) is None


async def test_a_read_waits_for_what_is_about_to_be_pushed_behind_it(store, pushes):
    obj = store.put("plain", 64 * MIB)
    reader = FileReader(obj, store, ReaderConfig(), NoLog(), pushes=pushes)
    store.resident = True
    pushes.coming = {MIB}
    assert reader.try_read(0, MIB) is None
    data = await reader.read(0, MIB)
    assert pushes.waits == [MIB]
    assert isinstance(data, bytes), "a copy: the block may leave memory while its reader waits"
    assert reader.try_read(MIB, 2 * MIB) is not None
