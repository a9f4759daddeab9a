"""Draws what ``bench`` measured: bytes over time, one line for each way; the steeper, the faster."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from tigrismount.cli.failure import FAILED, CommandFailure
from tigrismount.config.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tigrismount.bench.verdict import Measured

_COLOURS = ("tab:blue", "tab:green", "tab:orange", "tab:gray")


def draw(path: str, measured: Sequence[Measured]) -> None:
    """Write the picture.

    Args:
        path: Where; the ending says which kind of picture.
        measured: What is drawn.

    Raises:
        CommandFailure: It cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.0), layout="constrained")
    axes = figure.subplots()
    for each, colour in zip(measured, _COLOURS, strict=False):
        pieces = sorted(each.pieces)
        times_s = [0.0, *(at_s for at_s, _ in pieces), each.seconds]
        moved = [0, *accumulate(size_bytes for _, size_bytes in pieces), each.size_bytes]
        label = f"{each.name}: {format_size(int(each.rate))}/s"
        axes.plot(times_s, [count / (1 << 20) for count in moved], color=colour, label=label)
    axes.set(xlabel="seconds", ylabel="MiB", xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as exc:
        raise CommandFailure(f"{path}: cannot be written: {exc}", FAILED) from exc
