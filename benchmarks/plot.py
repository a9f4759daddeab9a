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
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(rates)), list(rates), fontsize=8)
    axes.grid(axis="both", alpha=0.3)
    axes.invert_yaxis()
    axes.set_xlabel("MB/s, more is better")
    figure.legend(loc="lower left", ncols=len(labels), fontsize=8)
    figure.suptitle(caption, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True


def margin(row: Row, value: float) -> float:
    """Return how many times as good as its target *value* of *row* is; above 1 it holds.

    Where either is nothing, or less, there are no times: it holds or fails by a factor of two.
    """
    more_is_better = row.target.startswith(">=")
    if row.limit <= 0 or value <= 0:
        return 2.0 if (value >= row.limit if more_is_better else value <= row.limit) else 0.5
    return value / row.limit if more_is_better else row.limit / value


def draw(rows: Sequence[Row], path: Path, caption: str) -> bool:
    """Draw how far each target is reached; return whether there was matplotlib to draw it with.

    Args:
        rows: What to show, from the target's line to the right where it is reached; those without one are left out.
        path: PNG file.
        caption: Machine and date.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    rows = [row for row in rows if row.holds is not None and "fio " not in row.name]
    if not rows:
        return True
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 0.3 * len(rows) + 1.5))
    for place, row in enumerate(rows):
        reached = margin(row, row.value)
        axes.barh(place, reached - 1, left=1, color="tab:green" if row.holds else "tab:orange", height=0.6)
        axes.plot([margin(row, value) for value in row.values], [place] * len(row.values), "k.", markersize=4)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="x", alpha=0.3)
    axes.set_yticks(range(len(rows)), [f"{row.name}: {row.value:.2f} ({row.target})" for row in rows], fontsize=8)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlabel("times as good as the target; dots are rounds")
    figure.suptitle(caption, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True
