"""When each extent of a model was fetched, pushed and read, in bounded memory.

Files are divided into cells, and a cell remembers when something happened to it first and last. When there are too
many, cells become twice as large: a large model is drawn more coarsely, never longer.
"""

from __future__ import annotations

from typing import Any

MAX_CELLS = 2048
"""Cells of all files and kinds: more than a plot has pixels across, 20 KiB when kept."""
FIRST_CELL_BYTES = 1 << 20
"""Smallest cell: one READ of the kernel at its largest."""
COLUMNS = ("kind", "file", "cell", "first_s", "last_s", "bytes")
"""What a row of :meth:`Timeline.to_json` says."""


class Timeline:
    """Cells by kind, file and place.

    Args:
        max_cells: Most of them.
    """

    def __init__(self, max_cells: int = MAX_CELLS) -> None:
        self.cell_bytes = FIRST_CELL_BYTES
        self._max_cells = max_cells
        self._cells: dict[tuple[str, int, int], list[float]] = {}

    def __len__(self) -> int:
        return len(self._cells)

    def add(self, kind: str, file: int, start: int, stop: int, since_s: float, until_s: float) -> None:
        """Note that something happened to bytes ``[start, stop)`` of a file.

        Args:
            kind: ``fetched``, ``pushed`` or ``read``.
            file: Number of the file.
            start: First byte.
            stop: One past the last byte.
            since_s: When it began.
            until_s: When it was done.
        """
        size = self.cell_bytes
        while start < stop:
            cell = start // size
            cell_stop = min(stop, (cell + 1) * size)
            self._merge((kind, file, cell), since_s, until_s, cell_stop - start)
            start = cell_stop
        while len(self._cells) > self._max_cells:
            if not self._coarsen():
                return

    def to_json(self, origin_s: float) -> dict[str, Any]:
        """Return it as plain data.

        Args:
            origin_s: The moment that is 0.
        """
        rows = [
            [kind, file, cell, round(first - origin_s, 3), round(last - origin_s, 3), int(size)]
            for (kind, file, cell), (first, last, size) in sorted(self._cells.items())
        ]
        return {"cell_bytes": self.cell_bytes, "columns": list(COLUMNS), "cells": rows}

    def _merge(self, key: tuple[str, int, int], first_s: float, last_s: float, size_bytes: float) -> None:
        cell = self._cells.get(key)
        if cell is None:
            self._cells[key] = [first_s, last_s, size_bytes]
            return
        cell[0] = min(cell[0], first_s)
        cell[1] = max(cell[1], last_s)
        cell[2] += size_bytes

    def _coarsen(self) -> bool:
        """Double the cells; return whether that made fewer."""
        before, self._cells = self._cells, {}
        self.cell_bytes *= 2
        for (kind, file, cell), (first_s, last_s, size_bytes) in before.items():
            self._merge((kind, file, cell // 2), first_s, last_s, size_bytes)
        return any(cell for _, _, cell in self._cells)
