from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.blockorder import BlockOrder, decode
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


@given(orders, st.integers(1, 12 * BLOCK), st.sampled_from([BLOCK // 4, BLOCK, 4 * BLOCK]))
def test_an_order_in_blocks_of_another_size_has_the_same_bytes_in_the_same_sequence(blocks, size_bytes, other_bytes):
    order = BlockOrder(blocks, BLOCK, size_bytes)
    other = order.in_blocks_of(other_bytes)
    small = min(BLOCK, other_bytes)

    def pieces(of: BlockOrder) -> list[int]:
        starts = [index * of.block_bytes + at for index in of.blocks for at in range(0, of.block_bytes, small)]
        return [start for start in starts if start < size_bytes]

    assert set(pieces(order)) <= set(pieces(other))
    if other_bytes <= BLOCK:
        assert pieces(order) == pieces(other)
    else:
        assert list(other.blocks) == list(dict.fromkeys(index * BLOCK // other_bytes for index in order.blocks))


def test_a_file_read_from_front_to_back_is_a_few_bytes():
    assert len(BlockOrder(range(100_000), 8 << 20, 1 << 50).encode()) <= 8


@pytest.mark.parametrize(
    "record", [b"", b"\x01", b"\x02\x17\x00\x01", b"\x01\x17\x00", b"\x01\x17\x80", b"\x01\x17\x01\x01"]
)
def test_a_broken_record_is_refused(record):
    with pytest.raises(FormatError):
        decode(record, 1 << 30)
