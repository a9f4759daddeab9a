from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.loadpreview import HEADER, IN_FILE_ORDER, LEARNED, PlannedExtent, PreviewFile, extents_of, preview
from tigrismount.core.types import Extent

BLOCK = 10


def file_of(size: int, *, header: int = 1, data: tuple[int, int] | None = None, **more) -> PreviewFile:
    start, stop = data or (header, size)
    return PreviewFile(size, (Extent(0, header),), Extent(start, stop), BLOCK, **more)


def test_headers_of_all_files_come_first_and_then_file_after_file():
    assert preview([file_of(35), file_of(20)]) == [
        PlannedExtent(0, 0, 10, HEADER, False),
        PlannedExtent(1, 0, 10, HEADER, False),
        PlannedExtent(0, 10, 35, IN_FILE_ORDER, False),
        PlannedExtent(1, 10, 20, IN_FILE_ORDER, False),
    ]


def test_a_learned_order_is_followed_and_what_it_leaves_out_is_not_fetched():
    assert preview([file_of(50, order=(0, 4, 2, 3))]) == [
        PlannedExtent(0, 0, 10, HEADER, False),
        PlannedExtent(0, 40, 50, LEARNED, False),
        PlannedExtent(0, 20, 40, LEARNED, False),
    ]


def test_what_is_cached_is_said_and_blocks_half_cached_are_fetched():
    assert preview([file_of(40, cached=(Extent(0, 25),))]) == [
        PlannedExtent(0, 0, 10, HEADER, True),
        PlannedExtent(0, 10, 20, IN_FILE_ORDER, True),
        PlannedExtent(0, 20, 40, IN_FILE_ORDER, False),
    ]


def test_a_directory_at_the_end_is_a_header_and_a_hole_is_not_fetched():
    file = PreviewFile(100, (Extent(95, 100), Extent(0, 5)), Extent(40, 60), BLOCK)
    assert [(e.start, e.stop, e.reason) for e in preview([file])] == [
        (90, 100, HEADER),
        (0, 10, HEADER),
        (40, 60, IN_FILE_ORDER),
    ]


def test_an_empty_file_has_no_plan():
    assert preview([PreviewFile(0, (Extent(0, 0),), Extent(0, 0), BLOCK)]) == []


@given(st.lists(st.tuples(st.integers(0, 60), st.lists(st.integers(0, 9), max_size=5) | st.none()), max_size=3))
def test_each_block_comes_once_and_within_its_file(drawn):
    files = [file_of(size, header=min(1, size), order=None if order is None else tuple(order)) for size, order in drawn]
    seen = set()
    for extent in preview(files):
        assert 0 <= extent.start < extent.stop <= files[extent.file].size_bytes
        blocks = {(extent.file, index) for index in range(extent.start // BLOCK, -(-extent.stop // BLOCK))}
        assert not seen & blocks
        seen |= blocks


def test_blocks_are_extents_with_neighbours_joined_and_the_last_one_short():
    assert extents_of([3, 0, 1, 9], BLOCK, 35) == (Extent(0, 20), Extent(30, 35))
