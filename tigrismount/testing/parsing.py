"""Drives the parsers of tensor files over bytes in memory, for tests and fuzzing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tigrismount.core.layout import Layout
    from tigrismount.formats.parsing import Parsing


def parse_all(parsing: Parsing, content: bytes) -> tuple[Layout, list[tuple[int, int]]]:
    """Feed a parser from *content*; return the layout, and the ranges it read.

    Raises:
        FormatError: The parser refuses the content.
    """
    reads = []
    while (wanted := parsing.wanted) is not None:
        reads.append((wanted.start, wanted.stop))
        parsing.feed(content[wanted.start : wanted.stop])
    return parsing.layout, reads
