"""From a file to its layout by any means of reading it: what the probe of a mount and ``inspect`` have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from tigrismount.errors import ForeignFormatError
from tigrismount.formats.parsing import FIRST_READ_BYTES
from tigrismount.formats.registry import format_of, format_of_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tigrismount.core.layout import Layout
    from tigrismount.core.types import Extent
    from tigrismount.formats.parsing import Parsing

    Read = Callable[[int, int], Awaitable[bytes]]

THREAD_BYTES = FIRST_READ_BYTES
"""Bytes of header above which parsing moves to a thread: what is within the first look is about 600 tensors, or
3 ms."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a file turned out to be."""

    format: str
    """Name of its format."""
    layout: Layout
    """Where its tensors lie."""
    header: tuple[Extent, ...]
    """What had to be read to know that, in that order."""


async def drive(parsing: Parsing, read: Read) -> tuple[Extent, ...]:
    """Feed *parsing* until it has its layout; return what was read.

    Args:
        parsing: A parser, from ``TensorFormat.begin``.
        read: Returns exactly the bytes ``[start, stop)`` of the file, in memory of their own.

    Raises:
        FormatError: A rule of the format is broken, or the header is longer than granted.
    """
    reads = []
    while (wanted := parsing.wanted) is not None:
        data = await read(wanted.start, wanted.stop)
        reads.append(wanted)
        if len(data) <= THREAD_BYTES:
            parsing.feed(data)
        else:
            await trio.to_thread.run_sync(parsing.feed, data)
    return tuple(reads)


async def describe(name: str, size_bytes: int, read: Read) -> Description:
    """Return what a file is and where its tensors lie, reading as little of it as that takes.

    The first bytes decide about the format, the name only where they say nothing. A header of up to 100 MB is read.

    Args:
        name: The file's name.
        size_bytes: Its size.
        read: Returns exactly the bytes ``[start, stop)`` of it.

    Raises:
        ForeignFormatError: It is no tensor file, as far as we know.
        FormatError: It is one, and is damaged.
    """
    head = await read(0, min(FIRST_READ_BYTES, size_bytes))

    async def read_rest(start: int, stop: int) -> bytes:
        return head[start:stop] if stop <= len(head) else await read(start, stop)

    known = format_of_bytes(head) or format_of(name)
    if known is None:
        raise ForeignFormatError("is no tensor file: it is neither safetensors nor GGUF nor a PyTorch checkpoint")
    parsing = known.begin(size_bytes)
    header = await drive(parsing, read_rest)
    return Description(known.name, parsing.layout, header)
