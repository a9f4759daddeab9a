"""The page at the metrics address: what a mount does now and how its last loads went, for a person with a browser.

One document without scripts and without anything from elsewhere: it reloads itself, and its pictures are inline SVG.
Names come from the bucket, so every text is escaped, and a policy of the answer forbids what escaping should miss.
"""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, Any

from tigrismount.config.units import format_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Facts = Mapping[str, Any]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of the page: it needs its own style and nothing else."""
MOST_LOADS = 5
"""Last loads that are shown; a screen holds two or three."""
_RELOAD_S = 5
_WIDTH, _HEIGHT = 720, 140
"""Of a timeline, in pixels."""
_COLOURS = {"fetched": "#3b82f6", "pushed": "#f59e0b", "read": "#111827"}
_SOURCES = {
    "remote": "from the store",
    "nvme": "from NVMe",
    "ram": "read at once",
    "flight": "read after waiting",
    "pushed": "pushed to the kernel",
}
_STYLE = """
:root{color-scheme:light}
body{font:14px/1.5 system-ui,sans-serif;max-width:760px;margin:2em auto;padding:0 1em}
h1{font-size:1.3em}h2{font-size:1.1em;margin-top:2em}h3{font-size:1em}
table{border-collapse:collapse}td{padding:.1em 1.5em .1em 0;vertical-align:top}
progress{width:16em}.bad{color:#dc2626}svg{background:#f3f4f6;max-width:100%;height:auto}
"""


def page(status: Facts, reports: Sequence[Facts]) -> bytes:
    """Return the document.

    Args:
        status: Of the mount, as ``status --json`` has it.
        reports: Its load reports, newest last.
    """
    title = _text(f"{status.get('source')} on {status.get('mountpoint')}")
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="refresh" content="{_RELOAD_S}"><title>{title}</title><style>{_STYLE}</style></head><body>',
        f"<h1>{title}</h1>",
        *(f'<p class="bad">degraded: {_text(reason)}</p>' for reason in status.get("degraded", ())),
        _table(_rows(status)),
        "<h2>Loading now</h2>",
        *(_progress(load) for load in status.get("loads", ())),
        "" if status.get("loads") else "<p>nothing</p>",
        "<h2>Last loads</h2>",
        *(_report(report) for report in list(reports)[: -MOST_LOADS - 1 : -1]),
        "" if reports else "<p>none yet</p>",
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part).encode()


def _rows(status: Facts) -> list[tuple[str, str]]:
    cache, hits, moved = status.get("cache", {}), status.get("hits", {}), status.get("bytes", {})
    rows = [("version", f"{status.get('version')}, up for {float(status.get('uptime_s') or 0):.0f} s")]
    if status.get("snapshot"):
        rows.append(("snapshot", str(status["snapshot"])))
    if cache.get("capacity_bytes"):
        filled = f"{format_size(cache.get('bytes_cached', 0))} of {format_size(cache['capacity_bytes'])}"
        rows.append(("cache", filled))
    if hits.get("ratio") is not None:
        rows.append(("reads answered from memory", f"{hits['ratio']:.1%}"))
    names = [name for name in _SOURCES if name in moved]
    return rows + [(_SOURCES[name], format_size(moved[name])) for name in names]


def _progress(load: Facts) -> str:
    done, total = load.get("bytes_needed", 0), load.get("bytes_total", 0)
    bar = f'<progress max="{int(total) or 1}" value="{int(done)}"></progress>'
    return f"<p>{_text(load.get('model'))}<br>{bar} {format_size(done)} of {format_size(total)}</p>"


def _report(report: Facts) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report["started"]))
    waits = report.get("waits", {})
    rows = [
        ("began", began),
        (
            "took",
            f"{float(report.get('seconds') or 0):.1f} s, {float(waits.get('seconds') or 0):.1f} s of them waiting",
        ),
        ("needed", format_size(report.get("bytes_needed", 0))),
        ("fetched", format_size(report.get("bytes_fetched", 0))),
    ]
    heading = _text(f"{report.get('model')}{' (so far)' if report.get('state') == 'loading' else ''}")
    return f"<h3>{heading}</h3>{_table(rows)}{timeline(report.get('timeline', {}))}"


def timeline(facts: Facts) -> str:
    """Return when each part of a model was fetched, pushed and read: time to the right, place in the model upwards.

    Args:
        facts: As a load report has it.
    """
    cells = [cell for cell in facts.get("cells", ()) if len(cell) >= _LAST_S + 1 and cell[0] in _COLOURS]
    if not cells:
        return ""
    heights: dict[int, int] = {}
    for _, file, cell, *_rest in cells:
        heights[file] = max(heights.get(file, 0), cell + 1)
    bases, total = {}, 0
    for file in sorted(heights):
        bases[file], total = total, total + heights[file]
    longest_s = max(max(cell[_LAST_S] for cell in cells), 1e-3)
    first_s = min(0.0, *(cell[_LAST_S - 1] for cell in cells))  # what was fetched ahead of the first read
    scale, row = _WIDTH / (longest_s - first_s), _HEIGHT / total
    shapes = []
    for kind, file, cell, began_s, ended_s, *_rest in cells:
        x, y = (began_s - first_s) * scale, _HEIGHT - (bases[file] + cell + 1) * row
        width = max(2.0, (ended_s - began_s) * scale)
        shape = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(row, 1.0):.1f}" fill="{_COLOURS[kind]}"'
        shapes.append(f'<rect {shape} fill-opacity=".7"/>')
    legend = ", ".join(f'<span style="color:{colour}">■</span> {kind}' for kind, colour in _COLOURS.items())
    label = "place in the model over time"
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{label}">'
    return f"{svg}{''.join(shapes)}</svg><p>{label}, {longest_s - first_s:.1f} s: {legend}</p>"


_LAST_S = 4
"""Place of ``last_s`` in a cell of a timeline."""


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return (
        f"<table>{''.join(f'<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>' for name, value in rows)}</table>"
    )


def _text(value: object) -> str:
    """Return *value* for a document: nothing in it is markup, and bytes that are no UTF-8 can be encoded."""
    return escape(str(value)).encode("utf-8", "backslashreplace").decode()
