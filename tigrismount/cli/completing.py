"""What a shell offers after TAB for arguments that name a mount or a place in one.

The kernel's list is read, and nothing that is mounted is touched: TAB must not hang on a dead mount. Shells complete
other paths themselves, by the item of type ``file`` or ``dir``.
"""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from tigrismount.holder.mountinfo import read_mounts


def mountpoints(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return our mountpoints that begin with what was typed."""
    points = {entry.mountpoint: entry.source for entry in read_mounts() if entry.is_ours}
    return [CompletionItem(point, help=source) for point, source in points.items() if point.startswith(incomplete)]


def places(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the same while they are more than what was typed; below a mountpoint, what the shell finds there."""
    found = [item for item in mountpoints(context, parameter, incomplete) if item.value != incomplete]
    return found or [CompletionItem(incomplete, type="file")]


def values(_context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return what the parameter's own metavar tells: its words, or files or directories that the shell finds."""
    kinds = (parameter.metavar or "").split("|")
    words = [CompletionItem(word) for word in kinds if word.islower() and word.startswith(incomplete)]
    if any(kind.startswith("FILE") for kind in kinds):
        return [CompletionItem(incomplete, type="file")]
    # One kind of answer at a time: a shell that is told of directories forgets the words.
    return [CompletionItem(incomplete, type="dir")] if "DIR" in kinds and not (incomplete and words) else words


def directories(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return what the shell finds, directories alone."""
    return [CompletionItem(incomplete, type="dir")]
