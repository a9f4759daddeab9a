"""How far warming is, for who waits: a bar with rate and time left on a terminal, a line now and then elsewhere.

Both go to standard error, so that standard output has the result alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tigrismount.cli.failure import print_note
from tigrismount.config.units import format_size

_MEASURED = ("fetching", "checking", "verifying")
"""Phases that say how many bytes they have to do."""
LINE_INTERVAL_S = 10.0
"""How often a line is written where there is no terminal: six a minute in a container's log."""


@contextmanager
def shown_progress(*, quiet: bool = False) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Give a function that shows progress, for a ``with`` block.

    Args:
        quiet: Show nothing.
    """
    if quiet:
        yield lambda _progress: None
    elif sys.stderr.isatty():
        with _bar() as tell:
            yield tell
    else:
        yield _Lines().tell


@contextmanager
def _bar() -> Iterator[Callable[[dict[str, Any]], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )

    class Rate(ProgressColumn):
        """Bytes a second, in the units of everything else here."""

        def render(self, task: Task) -> str:
            return f"{format_size(int(task.speed))}/s" if task.speed else ""

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        Rate(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("listing", total=None)

        def tell(progress: dict[str, Any]) -> None:
            if progress["phase"] in _MEASURED:
                files = f"{progress['phase']} {progress['objects_done']}/{progress['objects']} files"
                bars.update(task, description=files, total=progress["wanted_bytes"], completed=progress["done_bytes"])
            else:
                bars.update(task, description=f"{progress['phase']} {progress['objects']} files", total=None)

        yield tell


class _Lines:
    """A line now and then."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()
        self._last_bytes = 0

    def tell(self, progress: dict[str, Any]) -> None:
        """Write a line if it is time for one."""
        elapsed_s = time.monotonic() - self._last_s
        if elapsed_s < LINE_INTERVAL_S:
            return
        done_bytes, wanted_bytes = progress["done_bytes"], progress["wanted_bytes"]
        # The next run, and the next phase, begin anew.
        rate = (done_bytes - (self._last_bytes if done_bytes >= self._last_bytes else 0)) / elapsed_s
        self._last_s, self._last_bytes = time.monotonic(), done_bytes
        if progress["phase"] not in _MEASURED:
            print_note(f"{progress['phase']} {progress['objects']} files")
            return
        left = f", {(wanted_bytes - done_bytes) / rate:.0f} s left" if rate else ""
        print_note(
            f"{progress['phase']}: {format_size(done_bytes)} of {format_size(wanted_bytes)}, "
            f"{progress['objects_done']} of {progress['objects']} files, {format_size(int(rate))}/s{left}"
        )
