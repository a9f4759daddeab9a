"""How a parser gets its bytes: it says which it needs, is given exactly those, and in the end has the layout.

A parser is a generator: it yields the extent of the file that it wants next, is sent the bytes, and returns the
layout. So a format with its directory at the end, or one that says only on the way how long its header is, is read
like one with a length in front; and nobody in here knows whether the bytes come from a block store, a file or a GET.
``Parsing`` drives a parser and holds it to what it may read, so that no header, whatever it says, costs more than
the caller grants:

    parsing = known.begin(size_bytes, max_bytes=16 << 20)
    while (wanted := parsing.wanted) is not None:
        parsing.feed(read(wanted.start, wanted.stop))
    layout = parsing.layout

Bounds: a parser's time and memory grow linearly with the bytes it asked for. Measured on the worst that is accepted,
a safetensors header of ``MAX_HEADER_BYTES`` with a million tensors, they are 13 seconds and 750 MiB of memory; a
header of 600 tensors takes 3 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from tigrismount.core.layout import Layout
from tigrismount.core.types import Extent
from tigrismount.errors import FormatError

Parser = Generator[Extent, bytes, Layout]
"""Yields what it needs, is sent exactly that, returns the layout; raises FormatError."""

MAX_HEADER_BYTES = 100_000_000
"""Most that any format may ask for: the limit of the reference implementation of safetensors, for all of them."""
MAX_TENSORS = 1_000_000
"""Most tensors in one file: ten times the largest models of today in *all* their files; 100 bytes of header each."""
MAX_NUMBER = (1 << 64) - 1
"""Sizes and offsets are unsigned 64-bit numbers in every format."""
FIRST_READ_BYTES = 64 << 10
"""First look into a file: the whole header of a shard with 600 tensors, in one request."""


class Parsing:
    """One parser at work.

    Args:
        parser: The parser, not yet started.
        size_bytes: Size of the file.
        max_bytes: Most bytes it may ask for in all.

    Raises:
        FormatError: The file is too short to be of the format.
    """

    def __init__(self, parser: Parser, size_bytes: int, max_bytes: int = MAX_HEADER_BYTES) -> None:
        self._parser = parser
        self._size_bytes = size_bytes
        self._left_bytes = max_bytes
        self._max_bytes = max_bytes
        self._layout: Layout | None = None
        self._wanted: Extent | None = None
        self._advance(lambda: next(parser))

    @property
    def wanted(self) -> Extent | None:
        """The bytes that ``feed`` is to be given; None when the layout is there."""
        return self._wanted

    @property
    def layout(self) -> Layout:
        """The result, once nothing is wanted any more."""
        assert self._layout is not None, "the parser wants more"
        return self._layout

    def feed(self, data: bytes) -> None:
        """Give the parser the bytes it wanted; takes longer the more they are.

        Raises:
            FormatError: A rule of the format is broken, or more would be needed than was granted.
        """
        assert self._wanted is not None, "nothing was wanted"
        if len(data) != self._wanted.size_bytes:
            raise FormatError(f"the file ends before byte {self._wanted.stop}", offset=self._wanted.start + len(data))
        self._advance(lambda: self._parser.send(data))

    def _advance(self, step: Callable[[], Extent]) -> None:
        try:
            wanted = step()
        except StopIteration as finished:
            self._wanted, self._layout = None, finished.value
            return
        if wanted.stop > self._size_bytes:
            raise FormatError(f"the header reaches beyond the file's {self._size_bytes} bytes", offset=wanted.start)
        self._left_bytes -= wanted.size_bytes
        if self._left_bytes < 0:
            raise FormatError(f"the header is longer than the {self._max_bytes} bytes we parse", offset=wanted.start)
        self._wanted = wanted


def read_first(size_bytes: int, count: int = FIRST_READ_BYTES) -> Generator[Extent, bytes, bytes]:
    """Ask for the first *count* bytes of the file, or all of it where it is shorter."""
    return (yield Extent(0, min(count, size_bytes)))
