"""The results of a run as one picture: each ratio as a bar, its rounds as dots, its target as a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.report import Row


def draw(rows: Sequence[Row], path: Path, caption: str) -> bool:
    """Write the picture; return whether there was matplotlib to draw it with.

    Args:
        rows: What to show; each is scaled to its own target, which lies at 1, and those without one are left out.
        path: PNG file.
        caption: Machine and date.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in rows if row.holds is not None]
    figure, axes = plt.subplots(figsize=(10, 0.5 * len(rows) + 1.5))
    for place, row in enumerate(rows):
        scale = row.limit or 1.0
        axes.barh(place, row.value / scale, color="tab:green" if row.holds else "tab:orange", height=0.6)
        axes.plot([value / scale for value in row.values], [place] * len(row.values), "k.", markersize=4)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [f"{row.name}  {row.value:.2f} ({row.target})" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("times the target; green where it holds")
    figure.suptitle(caption, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True
