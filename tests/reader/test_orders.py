"""Whether only a part of a file was read when it was read last, as far as the records of a cache say so."""

from __future__ import annotations

import struct

import pytest
from trio.testing import wait_all_tasks_blocked

from tigrismount.cache.memory import MemoryRecords
from tigrismount.core.blockorder import BlockOrder
from tigrismount.core.layout import Layout, TensorExtent
from tigrismount.core.types import ObjectId
from tigrismount.reader.options import ReaderConfig
from tigrismount.reader.orders import TABLE, Orders
from tigrismount.reader.readers import Readers

MIB = 1 << 20
BLOCK = 8 * MIB
OBJ = ObjectId("bucket", "m/a.safetensors", "etag", 20 * BLOCK)


@pytest.fixture
def records() -> MemoryRecords:
    return MemoryRecords()


@pytest.fixture
def orders(records) -> Orders:
    return Orders(records)


def order(blocks, obj: ObjectId = OBJ) -> BlockOrder:
    return BlockOrder(blocks, BLOCK, obj.size_bytes)


@pytest.mark.parametrize(
    ("blocks", "partial"),
    [(range(20), False), (range(19, -1, -1), False), (range(2, 20), False), (range(17), True), (range(10), True)],
    ids=["all", "backwards", "nine tenths", "less", "half"],
)
async def test_a_file_was_read_in_part_where_its_order_lacks_much_of_it(orders, blocks, partial):
    await orders.keep(OBJ, None, order(blocks))
    assert await orders.was_partial(OBJ) is partial


async def test_what_was_read_last_counts(orders):
    await orders.keep(OBJ, None, order(range(20)))
    await orders.keep(OBJ, None, order(range(10)))
    assert await orders.was_partial(OBJ)
    await orders.keep(OBJ, None, order(range(20)))
    assert not await orders.was_partial(OBJ)


async def test_a_short_last_block_counts_as_one(orders):
    obj = ObjectId("bucket", "m/b.safetensors", "etag", 20 * BLOCK + 1)
    await orders.keep(obj, None, order(range(21), obj))
    assert not await orders.was_partial(obj)


async def test_of_what_nothing_was_kept_nothing_is_known(orders, records):
    assert not await orders.was_partial(OBJ)
    await orders.keep(OBJ, None, order(range(10)))
    for other in (
        ObjectId("bucket", OBJ.key, "other", OBJ.size_bytes),
        ObjectId("bucket", "m/b.safetensors", OBJ.etag, OBJ.size_bytes),
        ObjectId("other", OBJ.key, OBJ.etag, OBJ.size_bytes),
    ):
        assert not await orders.was_partial(other)
    records.refuse = True
    assert not await orders.was_partial(OBJ), "a disk that fails"


async def test_a_file_of_the_same_shape_was_not_read_itself(orders):
    """Its order is one to follow, and says nothing of how much is read of it. Mutation: asking by shape as well."""
    layout = Layout(8, tuple(TensorExtent(f"t{n}", "U8", (BLOCK,), 8 + n * BLOCK, 8 + (n + 1) * BLOCK) for n in (0, 1)))
    await orders.keep(OBJ, layout, order(range(10)))
    sibling = ObjectId("bucket", "m/b.safetensors", "etag", OBJ.size_bytes)
    assert await orders.find(sibling, layout) is not None
    assert not await orders.was_partial(sibling)


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
async def test_what_has_no_name_that_lasts_was_never_read(orders, etag):
    obj = ObjectId("bucket", OBJ.key, etag, OBJ.size_bytes)
    await orders.keep(obj, None, order(range(10)))
    assert not await orders.was_partial(obj)


@pytest.mark.parametrize("record", [b"", b"nonsense", b"\1\27\0", struct.pack("<QQ", 1, 2), b"\1\27" + b"\xff" * 20])
async def test_a_damaged_record_says_nothing(orders, records, record):
    await orders.keep(OBJ, None, order(range(10)))
    ((key, _),) = await records.items(TABLE)
    await records.put(TABLE, key, record)
    assert not await orders.was_partial(OBJ)


async def test_asking_is_no_order_followed(orders):
    await orders.keep(OBJ, None, order(range(20)))
    await orders.was_partial(OBJ)
    assert orders.found == 0


@pytest.mark.parametrize(("read_blocks", "likely"), [(20, True), (10, False), (0, True)])
async def test_what_was_read_in_part_will_be_again_and_the_rest_whole(store, nursery, records, read_blocks, likely):
    obj = store.put("m/a.bin", 20 * BLOCK)
    first = Readers(store, ReaderConfig(), records=records)
    await nursery.start(first.run)
    reader = first.open(obj, obj.key)
    for position in range(0, read_blocks * BLOCK, MIB):
        await reader.read(position, position + MIB)
    first.close(reader)
    await wait_all_tasks_blocked()
    assert await Readers(store, ReaderConfig(), records=records).likely_whole(obj) is likely


async def test_without_plans_nothing_is_read_whole_that_anybody_knows_of(store, records):
    assert await Readers(store, ReaderConfig(), records=records).likely_whole(OBJ)
    assert not await Readers(store, ReaderConfig()).likely_whole(OBJ)
    assert not await Readers(store, ReaderConfig(prefetch="file"), records=records).likely_whole(OBJ)
