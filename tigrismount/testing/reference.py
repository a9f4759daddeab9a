"""What a bucket should look like, said as simply as possible: the reference that the filesystem is compared with.

It knows nothing of pages, TTLs or nodes, looks at every key for every answer, and shares no code with what it judges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME_MAX_BYTES = 255
"""Longest name of a file."""


class Link(NamedTuple):
    """What an empty object holds that stands for a symbolic link."""

    target: bytes
    """Where it leads."""


Content = bytes | Link
"""What a key holds."""

Path = tuple[bytes, ...]
"""Names from the root down."""


def is_possible(component: str) -> bool:
    """Tell whether a file can have this component of a key as its name."""
    name = component.encode("utf-8", "surrogateescape")
    return name not in (b"", b".", b"..") and b"\0" not in name and len(name) <= NAME_MAX_BYTES


def path_of(components: Sequence[str]) -> Path:
    """Return *components* of a key as names."""
    return tuple(component.encode("utf-8", "surrogateescape") for component in components)


def tree_of(bucket: Mapping[str, Content]) -> dict[Path, Content | None]:
    """Return the tree that a bucket should be shown as.

    Args:
        bucket: What each key holds.

    Returns:
        What each path holds, None for a directory; the root is the empty path.
    """
    tree: dict[Path, Content | None] = {(): None}
    for key, content in bucket.items():
        *parents, leaf = key.split("/")
        if all(map(is_possible, [*parents, leaf])):
            tree[path_of([*parents, leaf])] = content
    for key in bucket:  # after the files, since directories overwrite those of their names
        *parents, _ = key.split("/")
        for count in range(1, len(parents) + 1):
            if all(map(is_possible, parents[:count])):
                tree[path_of(parents[:count])] = None
    return tree
