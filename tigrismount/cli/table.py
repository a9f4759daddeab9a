"""Tables for people: drawn by rich on a terminal, aligned columns elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table


_WORD = 12
"""The longest header that is not broken where there is little room."""


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", framed: bool = True) -> None:
    """Write *rows* under *headers*.

    Args:
        headers: One per column.
        rows: Text per cell; control characters are made visible, since names come from buckets.
        title: Stands above, when there is one.
        framed: Whether to draw it on a terminal; not where each row would be as wide as that.
    """
    safe = [[printable(cell) for cell in row] for row in rows]
    if framed and sys.stdout.isatty():
        from rich.console import Console

        Console().print(rich_table(headers, rows, title=title))
        return
    if title:
        click.echo(title)
    widths = [max(len(row[column]) for row in [list(headers), *safe]) for column in range(len(headers))]
    for row in [list(headers), *safe]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


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
