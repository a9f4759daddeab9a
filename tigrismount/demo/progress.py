"""Telling a person what is going on: bars on a terminal, a line per step elsewhere, nothing when nobody looks."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

from tigrismount.demo.report import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console


class Narrator:
    """Shows the steps of the demo as they run.

    Args:
        console: Where; None shows nothing.
    """

    def __init__(self, console: Console | None) -> None:
        self._console = console

    @contextmanager
    def step(self, name: str, total_bytes: int | None = None) -> Iterator[Callable[[int], object]]:
        """Show that a step runs, for a ``with`` block.

        Args:
            name: What is done.
            total_bytes: Bytes that will be moved; None where bytes mean nothing.

        Returns:
            A function to call, from any thread, with the bytes moved since its last call.
        """
        if self._console is None:
            yield lambda _bytes: None
        elif self._console.is_terminal:
            with self._bar(self._console, name, total_bytes) as advance:
                yield advance
        else:
            # The line comes first: whoever watches a log wants to know what takes so long.
            amount = "" if total_bytes is None else f" ({size(total_bytes)})"
            self._console.print(f"{name}{amount} …", highlight=False)
            yield lambda _bytes: None

    @contextmanager
    def _bar(self, console: Console, name: str, total_bytes: int | None) -> Iterator[Callable[[int], object]]:
        columns = [SpinnerColumn(), TextColumn("{task.description}")]
        if total_bytes is not None:
            columns += [BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn()]
        lock = threading.Lock()
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(name, total=total_bytes)

            def advance(moved_bytes: int) -> None:
                with lock:
                    progress.advance(task, moved_bytes)

            yield advance
