"""What files look like and how long names are trusted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class VfsConfig:
    """Attributes and freshness."""

    bucket: str
    """Bucket shown at the root; empty shows all buckets, each as a directory."""
    prefix: str = ""
    """Key prefix shown at the root; empty or ending with ``/``."""
    store_id: str = "tigris"
    """Names the store in node ids and cache keys (DESIGN: Identity)."""
    metadata_ttl_s: float = 60.0
    """Seconds a name or a listing is trusted; ``inf`` never asks again."""
    negative_ttl_s: float = 5.0
    """Seconds a missing name stays missing."""
    uid: int = 0
    """Owner of everything."""
    gid: int = 0
    """Group of everything."""
    file_mode: int = 0o444
    """Permission bits of files."""
    dir_mode: int = 0o555
    """Permission bits of directories."""
    dir_mtime_s: float = 0.0
    """Modification time of directories, which the store does not know; the same for all processes of a mount."""
    node_limit: int = 65_536
    """Most nodes kept that the kernel does not refer to."""
    dentry_limit: int = 65_536
    """Most looked-up names remembered, and as many missing ones."""
    listed_limit: int = 250_000
    """Most names of listings kept, about 450 bytes each; open directories are kept whatever they hold."""
