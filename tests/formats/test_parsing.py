from __future__ import annotations

import pytest

from tigrismount.core.layout import Layout
from tigrismount.core.types import Extent
from tigrismount.errors import FormatError
from tigrismount.formats.parsing import Parsing, read_first

EMPTY = Layout(0, ())


def parser_of(*extents: tuple[int, int]):
    def parse():
        for start, stop in extents:
            data = yield Extent(start, stop)
            assert len(data) == stop - start
        return EMPTY

    return parse()


def test_a_parser_gets_what_it_asks_for_in_its_order_and_then_has_the_layout():
    parsing = Parsing(parser_of((90, 100), (0, 5)), 100)
    assert parsing.wanted == Extent(90, 100)
    parsing.feed(bytes(10))
    assert parsing.wanted == Extent(0, 5)
    parsing.feed(bytes(5))
    assert parsing.wanted is None
    assert parsing.layout is EMPTY


def test_a_parser_that_needs_nothing_has_its_layout_at_once():
    parsing = Parsing(parser_of(), 0)
    assert (parsing.wanted, parsing.layout) == (None, EMPTY)


def test_nothing_beyond_the_file_is_asked_for():
    with pytest.raises(FormatError, match="beyond the file's 100 bytes"):
        Parsing(parser_of((90, 101)), 100)


def test_all_reads_together_stay_within_the_grant():
    parsing = Parsing(parser_of((0, 60), (0, 40), (0, 1)), 1000, max_bytes=100)
    parsing.feed(bytes(60))
    with pytest.raises(FormatError, match="longer than the 100 bytes"):
        feed_twice(parsing)


def feed_twice(parsing: Parsing) -> None:
    parsing.feed(bytes(40))
    parsing.feed(bytes(1))


def test_bytes_that_do_not_come_are_a_format_error():
    """A local file may shrink while it is looked at."""
    parsing = Parsing(parser_of((0, 60)), 100)
    with pytest.raises(FormatError, match="ends before byte 60"):
        parsing.feed(bytes(59))


def test_a_first_look_stays_in_the_file():
    assert next(read_first(10)) == Extent(0, 10)
    assert next(read_first(10, 4)) == Extent(0, 4)
