"""The results of a run as pictures.

One shows how far each target is reached, its rounds as dots, the target as a line; the other the rates of the published
read jobs, a row for each job and a mark for each mount.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.report import Row


MARKS = ("o", "s", "^", "D", "v", "P", "X", "<")
"""One for each mount, so that they differ without colours, too."""


def draw_rates(rates: Mapping[str, Mapping[str, float]], path: Path, caption: str) -> bool:
    """Draw MB/s by job and mount on a logarithmic scale; return whether there was matplotlib to draw it with.

    Args:
        rates: By job, then by mount; nothing is drawn without any.
        path: PNG file.
        caption: Machine and date.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    if not rates:
        return True
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 0.3 * len(rates) + 1.8))
    labels = list(dict.fromkeys(label for found in rates.values() for label in found))
    for label, mark in zip(labels, MARKS, strict=False):
        places = [(found[label], row) for row, found in enumerate(rates.values()) if label in found]
        axes.plot(*zip(*places, strict=True), linestyle="", marker=mark, markersize=7, alpha=0.8, label=label)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rates)), list(rates), fontsize=8)
    axes.grid(axis="both", alpha=0.3)
    axes.invert_yaxis()
    axes.set_xlabel("MB/s, more is better")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0 + 2.2 / (len(rates) + 6)), ncols=len(labels), fontsize=8)
    figure.suptitle(caption, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True


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

    rows = [row for row in rows if row.holds is not None and "fio " not in row.name]
    if not rows:
        return True
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
