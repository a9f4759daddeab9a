"""Tables for people: drawn by rich on a terminal, aligned columns elsewhere.

A table that does not fit a terminal is no table any more: with cells folded to a few letters nobody reads it, and what
is cut off is lost. Tables of several columns become a paragraph per row there. Whether there are colours is rich's and
click's to say: none off a terminal, and none where ``NO_COLOR`` is set.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table


_WORD = 12
"""The longest header that is not broken where there is little room."""
_PAIR = 3
"""Columns of a table that is folded where it does not fit: it has a name and little more in a row."""


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    framed: bool = True,
    spare: str = "",
) -> None:
    """Write *rows* under *headers*.

    Args:
        headers: One per column.
        rows: Text per cell; control characters are made visible, since names come from buckets.
        title: Stands above, when there is one.
        framed: Whether to draw it on a terminal; not where each row would be as wide as that.
        spare: Header of the column that is left out where a terminal is too narrow for all; empty for none.
    """
    safe = [[printable(cell) for cell in row] for row in rows]
    if framed and sys.stdout.isatty():
        _draw(headers, rows, title)
        return
    if title:
        click.echo(title)
    for line in _aligned([list(headers), *safe], spare):
        click.echo(line)


def _aligned(rows: list[list[str]], spare: str) -> list[str]:
    """Return a line per row, without the column that is headed *spare* where a terminal has no room for it."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if spare in rows[0] and sys.stdout.isatty() and max(map(len, lines)) > shutil.get_terminal_size().columns:
        left_out = rows[0].index(spare)
        return _aligned([row[:left_out] + row[left_out + 1 :] for row in rows], spare="")
    return lines


def print_wrapped(text: str, *, indent: int = 0, taken: int = 0) -> None:
    """Write a line of prose, broken between words where a terminal is narrower.

    Args:
        text: Without control characters.
        indent: Blanks before the lines after the first.
        taken: Columns of the first line that are written on already.
    """
    if not sys.stdout.isatty():
        click.echo(text)
        return
    width = max(20 + indent, shutil.get_terminal_size().columns)
    begun = f"{'':{taken}}{text}" if taken else text
    wrapped = textwrap.fill(
        begun, width, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )
    click.echo(wrapped[taken:])


def _draw(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.text import Text

    console = Console()
    table = rich_table(headers, rows, title=title)
    unbounded = console.options.update(max_width=sys.maxsize)
    if len(headers) <= _PAIR or Measurement.get(console, unbounded, table).maximum <= console.width:
        console.print(table)
        return
    if title:
        console.print(Text(title, style="italic"))
    for row in rows:
        console.print(Text(printable(row[0]), style="bold"), soft_wrap=True)
        facts = (f"{header.lower()} {printable(cell)}" for header, cell in zip(headers[1:], row[1:], strict=True))
        print_wrapped(f"  {', '.join(facts)}", indent=2)


def rich_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> Table:
    """Return the same for a terminal.

    Args:
        headers: One per column.
        rows: Text per cell.
        title: Stands above, when there is one.
    """
    from rich.box import SIMPLE_HEAD  # rich costs as much as the rest of the command; not needed in scripts
    from rich.table import Table
    from rich.text import Text

    # Few lines: they cost width, and a terminal has 80 columns.
    table = Table(title=title or None, title_justify="left", header_style="bold", box=SIMPLE_HEAD, show_edge=False)
    for header in headers:
        table.add_column(Text(printable(header)), overflow="fold", min_width=min(len(header), _WORD))
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # Text: brackets in a key are no markup
    return table


def visible(text: str) -> str:
    """Return *text* so that nothing in it can steer a terminal and no other text looks the same: with escapes."""
    return "".join(map(_escape, text))


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte that is not UTF-8
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printable(text: str) -> str:
    """Return *text* with control characters made visible."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
