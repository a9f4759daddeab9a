from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.blockorder import BlockOrder, decode
from tigrismount.core.types import Extent
from tigrismount.errors import FormatError

BLOCK = 4096

orders = st.permutations(range(12)).flatmap(lambda p: st.integers(0, 12).map(lambda n: p[:n]))


@given(orders, st.integers(1, 12 * BLOCK))
def test_a_record_gives_back_the_order(blocks, size_bytes):
    order = BlockOrder(blocks, BLOCK, size_bytes)
    again = decode(order.encode(), size_bytes)
    assert (again.blocks, again.block_bytes) == (order.blocks, BLOCK)


@given(st.binary(max_size=40), st.integers(0, 1 << 28))
def test_whatever_a_record_holds_it_is_an_order_or_refused(data, size_bytes):
    for record in (data, b"\x01\x0c" + data):
        try:
            order = decode(record, size_bytes)
        except FormatError:
            continue
        assert all(0 <= index * order.block_bytes < size_bytes for index in order.blocks)
        assert len(set(order.blocks)) == len(order.blocks)


@given(orders, st.integers(0, 12 * BLOCK), st.integers(0, 3 * BLOCK))
def test_ranges_lie_in_the_virtual_file_and_lead_back(blocks, start, length):
    order = BlockOrder(blocks, BLOCK, 12 * BLOCK)
    stop = min(start + length, 12 * BLOCK)
    virtual = list(order.ranges(start, stop))
    assert all(0 <= a < b <= order.size_bytes for a, b in virtual)
    back = order.extents([Extent(a, b) for a, b in virtual])
    wanted = {i for i in range(start // BLOCK, -(-stop // BLOCK)) if i in order.blocks and start < stop}
    assert {i for e in back for i in range(e.start // BLOCK, -(-e.stop // BLOCK))} == wanted


@given(
    orders,
    st.lists(st.tuples(st.integers(0, 12 * BLOCK), st.integers(0, 3 * BLOCK)), max_size=4),
    st.integers(1, 12 * BLOCK),
)
def test_extents_are_inside_the_object_and_each_byte_is_there_once(blocks, windows, size_bytes):
    order = BlockOrder(blocks, BLOCK, size_bytes)
    extents = order.extents([Extent(a, a + n) for a, n in windows])
    seen: set[int] = set()
    for extent in extents:
        assert 0 <= extent.start < extent.stop <= size_bytes
        covered = set(range(extent.start, extent.stop))
        assert not seen & covered
        seen |= covered


def test_a_file_read_from_front_to_back_is_a_few_bytes():
    assert len(BlockOrder(range(100_000), 8 << 20, 1 << 50).encode()) <= 8


@pytest.mark.parametrize(
    "record", [b"", b"\x01", b"\x02\x17\x00\x01", b"\x01\x17\x00", b"\x01\x17\x80", b"\x01\x17\x01\x01"]
)
def test_a_broken_record_is_refused(record):
    with pytest.raises(FormatError):
        decode(record, 1 << 30)
