"""Draws what ``inspect`` found: each file as a map of its tensors, and the last load of them over time.

A map has three strips per file: the tensors by element type, what is cached, and when a load would fetch what is not,
dark first. In the timeline a load runs from left to right and the model from bottom to top, so a load that goes well
is one steep line: bytes are fetched, pushed, and only then read. What is slow shows as what it is: a flat line is a
slow store, reads on top of the fetches are a plan that came too late, a band is somebody waiting, and its colour says
for what.
"""

from __future__ import annotations

import posixpath
import sys
from typing import TYPE_CHECKING, Any

from tigrismount.cli.failure import FAILED, CommandFailure
from tigrismount.cli.table import visible
from tigrismount.config.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tigrismount.cli.inspect_model import Inspected, InspectedFile

_MIB = 1 << 20
_WIDTH_INCHES, _ROW_INCHES, _TIMELINE_INCHES = 12.0, 0.62, 5.0
_MAX_ROWS = 40
"""Files that are drawn; more would be taller than a screen."""
_MIN_TENSORS_OUTLINED = 400
"""Tensors in a file up to which each gets an outline; beyond, outlines would be all one sees."""
_PALETTE = ("#8da0cb", "#fc8d62", "#e78ac3", "#e5c494", "#b3b3b3", "#ffd92f", "#80b1d3")
"""Element types, the one with most bytes first; no green, which says cached."""
_KINDS = {"fetched": "tab:blue", "pushed": "tab:orange", "read": "black"}
_CAUSES = {
    "plan": ("tab:red", "bytes not asked for yet"),
    "store": ("tab:purple", "bytes on their way"),
    "slow_down": ("tab:pink", "store busy"),
    "memory": ("tab:brown", "--memory-limit"),
    "disk": ("tab:olive", "cache disk"),
}
"""Colour of a wait and what it was for."""


def require_matplotlib() -> None:
    """See that there is something to draw with.

    Raises:
        CommandFailure: There is not.
    """
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError as exc:
        what = f"{sys.executable} -m pip install 'tigrismount[plot]'"
        raise CommandFailure(f"--plot needs matplotlib: {what}", FAILED) from exc


def draw(path: str, inspected: Inspected, load: dict[str, Any] | None) -> None:
    """Write the picture.

    Args:
        path: Where; the ending says which kind of picture.
        inspected: What is drawn.
        load: Report of a load of it, with its timeline; None where there is none.

    Raises:
        CommandFailure: It cannot be written there.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no state

    rows = inspected.files[:_MAX_ROWS]
    heights = [0.9 + _ROW_INCHES * max(len(rows), 1)] + ([_TIMELINE_INCHES] if load else [])
    figure = Figure(figsize=(_WIDTH_INCHES, sum(heights) + 0.9), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_map(figure, axes[0], inspected, rows)
    if load:
        _draw_timeline(axes[1], inspected, load)
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as exc:
        raise CommandFailure(f"{path}: cannot be drawn: {exc}") from exc


def _draw_map(figure: Any, axes: Any, inspected: Inspected, rows: list[InspectedFile]) -> None:
    from matplotlib.colors import Normalize
    from matplotlib.patches import Patch

    colours = _dtype_colours(inspected)
    for row, item in enumerate(rows):
        top = len(rows) - row
        _draw_tensors(axes, item, top, colours)
        cached = [(start / _MIB, (stop - start) / _MIB) for start, stop in item.cached]
        axes.broken_barh([(0, item.file.size_bytes / _MIB)], (top - 0.62, 0.16), facecolors="0.93")
        axes.broken_barh(cached, (top - 0.62, 0.16), facecolors="tab:green")
    shades = Normalize(0, max(len(inspected.plan or ()) - 1, 1))
    mappable = _draw_plan(axes, inspected, rows, shades)
    names = [_short(item.file.name) for item in rows]
    axes.set_yticks([len(rows) - row - 0.5 for row in range(len(rows))], names)
    axes.set_ylim(0, len(rows) + 0.15)
    axes.set_xlim(0, max((item.file.size_bytes for item in rows), default=1) / _MIB or 1)
    axes.set_xlabel("position in the file, MiB")
    axes.set_title(_title(inspected, len(rows)), loc="left")
    legend = [Patch(color=colour, label=dtype) for dtype, colour in colours.items()]
    legend += [Patch(color="tab:green", label="cached")]
    if any(not extent.cached for extent in inspected.plan or ()):
        legend += [
            Patch(color=mappable.cmap(0.0), label="fetched first"),
            Patch(color=mappable.cmap(0.9), label="last"),
        ]
    axes.legend(handles=legend, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _draw_tensors(axes: Any, item: InspectedFile, top: int, colours: dict[str, Any]) -> None:
    if item.description is None:
        axes.text(0, top - 0.3, f" {visible(item.error)[:100]}", color="tab:red", va="center")
        return
    layout = item.description.layout
    outline = {"edgecolors": "white", "linewidths": 0.4} if len(layout.tensors) < _MIN_TENSORS_OUTLINED else {}
    axes.broken_barh([(0, layout.data_start / _MIB)], (top - 0.44, 0.36), facecolors="0.3")
    for dtype, colour in colours.items():
        bars = [(t.start / _MIB, t.size_bytes / _MIB) for t in layout.tensors if t.dtype == dtype]
        axes.broken_barh(bars, (top - 0.44, 0.36), facecolors=colour, **outline)


def _draw_plan(axes: Any, inspected: Inspected, rows: list[InspectedFile], shades: Any) -> Any:
    from matplotlib.cm import ScalarMappable

    mappable = ScalarMappable(shades, "viridis")
    total = sum(extent.stop - extent.start for extent in inspected.plan or () if not extent.cached) or 1
    before = 0
    for extent in inspected.plan or ():
        if extent.cached or extent.file >= len(rows):
            continue
        size = extent.stop - extent.start
        # Drawn in blocks, so that a long extent shows its direction.
        for start in range(extent.start, extent.stop, step := max(rows[extent.file].block_bytes, size // 64)):
            stop = min(start + step, extent.stop)
            colour = mappable.cmap(0.95 * (before + start - extent.start) / total)
            place = (len(rows) - extent.file - 0.84, 0.16)
            axes.broken_barh([(start / _MIB, (stop - start) / _MIB)], place, facecolors=[colour])
        before += size
    return mappable


def _draw_timeline(axes: Any, inspected: Inspected, load: dict[str, Any]) -> None:
    from matplotlib.patches import Patch

    timeline = load["timeline"]
    bases, sizes = _places(inspected, timeline["files"])
    cell_bytes = timeline["cell_bytes"]
    for cause, stall in _stalls(load):
        axes.axvspan(stall["at_s"], stall["at_s"] + stall["seconds"], color=_CAUSES[cause][0], alpha=0.18, linewidth=0)
    for kind, colour in _KINDS.items():
        bars = []
        for row_kind, file, cell, first_s, last_s, _ in timeline["cells"]:
            if row_kind == kind and file in bases:
                start = cell * cell_bytes
                stop = min(start + cell_bytes, max(sizes[file], start + 1))
                bars.append((first_s, max(last_s, first_s), (bases[file] + start) / _MIB, (bases[file] + stop) / _MIB))
        _draw_spans(axes, bars, colour, thin=kind == "read")
    for base in sorted(bases.values())[1:]:
        axes.axhline(base / _MIB, color="0.8", linewidth=0.6, zorder=0)
    axes.set_ylim(0, max((bases[file] + sizes[file] for file in bases), default=1) / _MIB)
    axes.set_xlim(0, max(load.get("seconds") or 0, 0.001) * 1.02)
    axes.set_xlabel("seconds since the load began")
    axes.set_ylabel("position in the model, MiB")
    axes.set_title(_story(load), loc="left")
    legend = [Patch(color=colour, label=kind) for kind, colour in _KINDS.items()]
    shown = dict.fromkeys(cause for cause, _ in _stalls(load))
    legend += [Patch(color=_CAUSES[cause][0], alpha=0.35, label=f"waited: {_CAUSES[cause][1]}") for cause in shown]
    axes.legend(handles=legend, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _draw_spans(axes: Any, spans: list[tuple[float, float, float, float]], colour: str, *, thin: bool) -> None:
    """Draw boxes from time to time and place to place; a read is a line at its end, so that nothing is hidden."""
    from matplotlib.collections import LineCollection, PolyCollection

    if thin:
        lines = [[(last, low), (last, high)] for _, last, low, high in spans]
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=1.4))
        return
    boxes = [[(first, low), (last, low), (last, high), (first, high)] for first, last, low, high in spans]
    axes.add_collection(PolyCollection(boxes, facecolors=colour, edgecolors=colour, linewidths=0.8, alpha=0.45))


def _places(inspected: Inspected, files: Iterable[str]) -> tuple[dict[int, int], dict[int, int]]:
    """Return where each file of the load begins in the model, and its size, by its number in the timeline."""
    ours = {item.holding.key: item for item in inspected.files if item.holding}
    numbers = {key: number for number, key in enumerate(files) if key in ours}
    bases, sizes, position = {}, {}, 0
    for key, item in ours.items():
        if key in numbers:
            bases[numbers[key]], sizes[numbers[key]] = position, item.file.size_bytes
            position += item.file.size_bytes
    return bases, sizes


def _stalls(load: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for stall in load.get("stalls", {}).get("longest", ()):
        if stall.get("cause") in _CAUSES:
            yield stall["cause"], stall


def _dtype_colours(inspected: Inspected) -> dict[str, str]:
    return {dtype: _PALETTE[number % len(_PALETTE)] for number, dtype in enumerate(inspected.dtypes)}


def _title(inspected: Inspected, rows: int) -> str:
    size = format_size(sum(item.file.size_bytes for item in inspected.files))
    left_out = f", the first {rows} of {len(inspected.files)} files" if rows < len(inspected.files) else ""
    fetched = sum(extent.stop - extent.start for extent in inspected.plan or () if not extent.cached)
    return f"{_short(inspected.title)}: {size}{left_out}; a load would fetch {format_size(fetched)}"


def _story(load: dict[str, Any]) -> str:
    """Return the load in one line: how long, what was fetched, what was waited for."""
    waits = load.get("waits", {})
    causes = {cause: facts.get("seconds", 0) for cause, facts in waits.get("causes", {}).items()}
    worst = max(causes, key=lambda cause: causes[cause], default="")
    line = f"Last load: {load.get('seconds', 0):.1f} s"
    line += (
        f", {format_size(load.get('bytes_fetched') or 0)} fetched, {format_size(load.get('bytes_needed') or 0)} needed"
    )
    if waits.get("seconds") and causes.get(worst):
        line += f"; waited {waits['seconds']:.1f} s, mostly for: {_CAUSES.get(worst, ('', worst))[1]}"
    return line


def _short(name: str) -> str:
    """Return the end of a long name."""
    shown = visible(name)
    last = posixpath.join(*shown.rstrip("/").split("/")[-2:])
    return shown if len(shown) <= 48 else f"…{last[-47:]}"
