"""What the filesystem answers with, in our own types: the FUSE adapter translates them, tests compare them."""

from __future__ import annotations

import math
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tigrismount.core.inodes import Node
    from tigrismount.core.types import NodeId
    from tigrismount.vfs.options import VfsConfig

BLOCK_SIZE_BYTES = 4096
"""``st_blksize``: with a larger one ``cp`` and NumPy ask in pieces the kernel's read-ahead does not like."""

SECTOR_BYTES = 512
"""Unit of ``st_blocks``, whatever the filesystem."""


LINK_MODE = 0o777
"""Permission bits of a symbolic link, which nobody looks at."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What ``stat`` shows of a node; never changes while the node lives."""

    node_id: NodeId
    """``st_ino``."""
    mode: int
    """Type and permission bits."""
    size_bytes: int
    """Length of a file or of a link's target, 0 for a directory."""
    mtime_ns: int
    """Modification time, which serves as access and change time too; nanoseconds since the epoch."""
    uid: int
    """Owner."""
    gid: int
    """Group."""

    @property
    def sectors(self) -> int:
        """``st_blocks``; enough for all bytes, so that nobody takes the file for a sparse one."""
        return -(-self.size_bytes // SECTOR_BYTES)

    @property
    def nlink(self) -> int:
        """``st_nlink``; 1 for a directory too, which tells ``find`` not to count subdirectories by it."""
        return 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A name that is there."""

    attributes: Attributes
    """The node's attributes, with its id."""
    entry_ttl_s: float
    """Seconds the kernel may believe that the name stands for this node; ``inf`` is possible."""
    attr_ttl_s: float = math.inf
    """Seconds the kernel may keep the attributes: for ever, as a node never changes."""


@dataclass(frozen=True, slots=True)
class NegativeEntry:
    """A name that is not there; an answer and not an exception, because the kernel may remember it."""

    entry_ttl_s: float
    """Seconds the kernel may believe that there is no such name; 0 means not to remember it."""


@dataclass(frozen=True, slots=True)
class FilesystemInfo:
    """What ``statfs`` shows. A bucket has no size, no free space and no count of files: those fields are 0."""

    block_size_bytes: int = BLOCK_SIZE_BYTES
    """``f_bsize`` and ``f_frsize``."""
    blocks: int = 0
    """``f_blocks``, ``f_bfree`` and ``f_bavail``."""
    files: int = 0
    """``f_files``, ``f_ffree`` and ``f_favail``."""
    name_max_bytes: int = 255
    """``f_namemax``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VfsStatistics:
    """Counters since start; gauges say so."""

    nodes: int
    """Nodes known now, a gauge."""
    nodes_unreferenced: int
    """Nodes among them that nobody refers to, a gauge."""
    open_files: int
    """Object versions that are open now, a gauge."""
    dentries: int
    """Looked-up names remembered now, a gauge."""
    negative_dentries: int
    """Missing names remembered now, a gauge."""
    listed_names: int
    """Names in the newest listing of each directory, a gauge."""
    hidden_keys: int
    """Rows of those listings that no path can express, a gauge."""
    shadowed_keys: int
    """Files in those listings that a directory of the same name hides, a gauge."""
    lookups: int
    """Look-ups answered or refused."""
    lookups_asked: int
    """Look-ups for which the store was asked."""
    listings: int
    """Listings begun."""


def attributes_of(node: Node, config: VfsConfig) -> Attributes:
    """Return the attributes of *node*."""
    if node.obj is None:
        mode, size_bytes, mtime_s = stat.S_IFDIR | config.dir_mode, 0, config.dir_mtime_s
    elif node.target:
        mode, size_bytes, mtime_s = stat.S_IFLNK | LINK_MODE, len(node.target), node.mtime_s
    else:
        mode, size_bytes, mtime_s = stat.S_IFREG | config.file_mode, node.obj.size_bytes, node.mtime_s
    # Stores speak in milliseconds at best; rounding there keeps the float's noise out of what people compare.
    mtime_ns = round(mtime_s * 1000) * 1_000_000
    return Attributes(node.id, mode, size_bytes, mtime_ns, config.uid, config.gid)
