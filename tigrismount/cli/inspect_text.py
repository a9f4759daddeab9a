"""What ``inspect`` prints for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tigrismount.cli.table import print_table, print_wrapped, visible
from tigrismount.config.units import format_size

if TYPE_CHECKING:
    from tigrismount.cli.inspect_model import Inspected, InspectedFile
    from tigrismount.core.layout import TensorExtent

_MOST_DTYPES = 6
"""Element types that are named one by one; quantised models have four."""


def print_inspected(inspected: Inspected) -> None:
    """Write a file's tensors, or a model's files, and the plan where there is one."""
    print_wrapped(f"{visible(inspected.title)}: {_what(inspected)}", indent=2)
    if inspected.single:
        (item,) = inspected.files
        _print_tensors(item)
    else:
        _print_files(inspected)
    if inspected.plan is not None:
        click.echo()
        _print_plan(inspected)


def _what(inspected: Inspected) -> str:
    """Return a model in one line."""
    count = sum(len(item.tensors) for item in inspected.files)
    size = format_size(sum(item.file.size_bytes for item in inspected.files))
    files = "" if inspected.single else f"{_count(len(inspected.files), 'file')}, "
    line = f"{inspected.format or 'nothing readable'}, {files}{size}, {_count(count, 'tensor')}"
    dtypes = [f"{dtype} {format_size(size_bytes)}" for dtype, (_, size_bytes) in inspected.dtypes.items()]
    if dtypes:
        more = f" and {len(dtypes) - _MOST_DTYPES} more" if len(dtypes) > _MOST_DTYPES else ""
        line += f" ({', '.join(dtypes[:_MOST_DTYPES])}{more})"
    known = [item for item in inspected.files if item.holding]
    if known:
        cached = sum(item.cached_bytes(0, item.file.size_bytes) for item in known)
        line += f", {format_size(cached)} cached"
    return line


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _print_tensors(item: InspectedFile) -> None:
    headers = ["TENSOR", "DTYPE SHAPE", "START", "SIZE"]
    if item.holding is not None:
        headers.append("CACHED")
    if item.tensors:
        rows = [_tensor_row(item, tensor) for tensor in item.tensors]
        print_table(headers, rows, framed=False, spare="START")


def _tensor_row(item: InspectedFile, tensor: TensorExtent) -> list[str]:
    shape = "x".join(map(str, tensor.shape))
    row = [visible(tensor.name), f"{tensor.dtype} {shape}".strip(), str(tensor.start), format_size(tensor.size_bytes)]
    return [*row, _share(item, tensor.start, tensor.stop)] if item.holding is not None else row


def _print_files(inspected: Inspected) -> None:
    headers = ["FILE", "FORMAT", "TENSORS", "SIZE"]
    shows_cached = any(item.holding for item in inspected.files)
    rows = []
    for item in inspected.files:
        kind = item.description.format if item.description else f"unreadable: {item.error}"
        row = [visible(item.file.name), kind, str(len(item.tensors)), format_size(item.file.size_bytes)]
        rows.append([*row, _share(item, 0, item.file.size_bytes)] if shows_cached else row)
    if shows_cached:
        headers.append("CACHED")
    rows += [[visible(name), "missing", *["-"] * (len(headers) - 2)] for name in inspected.missing]
    if rows:
        print_table(headers, rows, framed=False)
    if inspected.others:
        click.echo(f"not in the index: {', '.join(map(visible, inspected.others))}")


def _share(item: InspectedFile, start: int, stop: int) -> str:
    """Return how much of a range is on disk: nothing, all or per cent."""
    if item.holding is None:
        return "?"
    cached = item.cached_bytes(start, stop)
    if stop == start:
        return "-"
    return "-" if not cached else "all" if cached == stop - start else f"{max(1, 100 * cached // (stop - start))} %"


def _print_plan(inspected: Inspected) -> None:
    """Write what a load would fetch, in order."""
    plan = inspected.plan or []
    rows = []
    for number, extent in enumerate(plan, 1):
        what = "cached" if extent.cached else format_size(extent.stop - extent.start)
        name = visible(inspected.files[extent.file].file.name)
        rows.append([str(number), name, f"{extent.start}-{extent.stop}", extent.reason, what])
    fetched = sum(extent.stop - extent.start for extent in plan if not extent.cached)
    title = f"A load would fetch {format_size(fetched)}, in this order:"
    print_table(("#", "FILE", "BYTES", "WHY", "FETCHES"), rows, title=title, framed=False)
