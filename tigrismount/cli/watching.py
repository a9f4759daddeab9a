"""``status --watch``: a look, rates since the look before, and the same again, until somebody presses Ctrl-C.

On a terminal the view is redrawn in place; elsewhere each look adds a line per mount, or one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from tigrismount.cli.rates import with_rates
from tigrismount.cli.status_text import watch_line, watch_rows
from tigrismount.cli.table import printable, visible

if TYPE_CHECKING:
    from rich.console import RenderableType

Mount = dict[str, Any]
Show = Callable[[list[Mount]], None]


def watch(look: Callable[[], list[Mount]], show: Show, pause: Callable[[], None], clock: Callable[[], float]) -> None:
    """Look and show until Ctrl-C, which is how watching ends and no fault.

    Args:
        look: Returns what is mounted.
        show: Shows one look.
        pause: Waits for the next.
        clock: Seconds; does not go backwards.
    """
    before: list[Mount] = []
    before_s = 0.0
    with suppress(KeyboardInterrupt):
        while True:
            mounts, now_s = look(), clock()
            show(with_rates(mounts, before, now_s - before_s))
            before, before_s = mounts, now_s
            pause()


@contextmanager
def shown(*, as_json: bool) -> Iterator[Show]:
    """Give a function that shows a look, for a ``with`` block.

    Args:
        as_json: As one JSON object per line.
    """
    if as_json:
        yield _write_json
    elif not sys.stdout.isatty():
        yield _write_lines
    else:
        from rich.live import Live

        with Live(auto_refresh=False) as live:
            yield lambda mounts: live.update(view(mounts), refresh=True)


def view(mounts: Sequence[Mount]) -> RenderableType:
    """Return one look as a picture for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    for mount in mounts:
        heading, *rows = watch_rows(mount)
        # A line of its own: as the head of a column, a long mountpoint would push the figures off the screen.
        parts.append(Text("  ".join(map(printable, heading)), style="bold"))
        table = Table.grid(padding=(0, 3, 0, 1))
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))  # Text: brackets in a key are no markup
        parts += [table, Text()]
    return Group(*parts[:-1]) if parts else Text("nothing is mounted")


def _write_json(mounts: list[Mount]) -> None:
    click.echo(json.dumps({"time": round(time.time(), 3), "mounts": mounts}))


def _write_lines(mounts: list[Mount]) -> None:
    moment = time.strftime("%H:%M:%S")
    for line in [watch_line(mount) for mount in mounts] or ["nothing is mounted"]:
        click.echo(f"{moment} {visible(line)}")
