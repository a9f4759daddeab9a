"""A disk that loses its power: what reached it is kept apart from what was only written.

``Recorder`` watches one cache at work through its own operations: every sync of a data file, every commit and sync of
the index. At such a moment it can be asked for an image of the directory as it would be found

- after ``kill -9``: everything written is there, because the kernel has it;
- after a power cut: of what was not synced any 512-byte sector has reached the disk or not, files that were never
  synced may be missing, files that were removed may be back.

LMDB syncs the pages of a commit before it writes the root, which the next sync brings to the disk; so an image has
either all pages of the last commit and its root or the one before, or some sectors of the pages that a commit is just
writing and an older root.

Source: LMDB documentation, MDB_NOMETASYNC; liblmdb ``mdb_txn_commit``.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tigrismount.cache.environment import Environment

if TYPE_CHECKING:
    from tigrismount.cache.index import CacheIndex

SECTOR_BYTES = 512
META_BYTES = 2 * 4096
Image = dict[str, bytes]


def torn(draw: random.Random, old: bytes, new: bytes) -> bytes:
    """Return *old* with any of the sectors in which *new* differs, and any length between the two."""
    share = draw.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    size_bytes = max(len(old), len(new)) if draw.random() < 0.8 else len(old)
    result = bytearray(old.ljust(size_bytes, b"\0")[:size_bytes])
    for start in range(0, min(size_bytes, len(new)), SECTOR_BYTES):
        sector = new[start : start + SECTOR_BYTES]
        if sector != old[start : start + SECTOR_BYTES] and draw.random() < share:
            result[start : start + len(sector)] = sector[: size_bytes - start]
    return bytes(result)


class Recorder:
    """What has reached the disk under one cache directory.

    Args:
        path: The directory.
        draw: Decides what is lost.
        monkeypatch: Hooks the operations in, until the test ends.
        cut_every: About every how many operations an image is made.
    """

    def __init__(self, path: Path, draw: random.Random, monkeypatch: pytest.MonkeyPatch, *, cut_every: int) -> None:
        self._path = path
        self._draw = draw
        self._cut_every = cut_every
        self._durable: dict[str, bytes] = {}
        self._index: list[bytes] = [b""] * 3
        self._synced: list[set[tuple[bytes, int]]] = [set()] * 3
        self.images: list[tuple[str, Image, set[tuple[bytes, int]]]] = []
        """How it ended, what is found afterwards, and the blocks (digest, index) that must have survived."""
        self.index: CacheIndex | None = None
        """Set by the test once the cache is open: from then on images are made."""
        fdatasync, transact, sync = os.fdatasync, Environment.transact, Environment.sync

        def recorded_fdatasync(fd: int) -> None:
            self.cut()
            name = os.readlink(f"/proc/self/fd/{fd}")
            fdatasync(fd)
            if name.startswith(str(path)) and not name.endswith(" (deleted)"):
                self._durable[os.path.relpath(name, path)] = Path(name).read_bytes()

        def recorded_transact(environment: Environment, work: Any, *, write: bool) -> Any:
            result = transact(environment, work, write=write)
            if write:
                self._index = [*self._index[1:], self._read_index()]
                self._synced = [*self._synced[1:], self._read_synced()]
                self.cut()
            return result

        def recorded_sync(environment: Environment) -> None:
            sync(environment)
            self._index = [self._read_index()] * 3
            self.cut()

        monkeypatch.setattr(os, "fdatasync", recorded_fdatasync)
        monkeypatch.setattr(Environment, "transact", recorded_transact)
        monkeypatch.setattr(Environment, "sync", recorded_sync)

    def _read_synced(self) -> set[tuple[bytes, int]]:
        """Return the blocks whose records claim that their data is on the disk."""
        if self.index is None:
            return set()
        found = {digest: self.index.blocks(digest) for digest in self.index.objects()}
        return {(digest, index) for digest, blocks in found.items() for index, block in blocks.items() if block.synced}

    def _read_index(self) -> bytes:
        return (self._path / "index/data.mdb").read_bytes()

    def cut(self) -> None:
        """Perhaps make an image of this moment."""
        if self.index is not None and self._draw.random() < 1 / self._cut_every:
            promised = set.intersection(*self._synced)
            self.images.append(("killed", self._killed(), promised))
            self.images.append(("cut", self._powerless(), promised))

    def _files(self) -> dict[str, bytes]:
        return {
            os.path.relpath(file, self._path): file.read_bytes()
            for file in [self._path / "VERSION", *self._path.glob("objects/*/*")]
        }

    def _killed(self) -> Image:
        return {**self._files(), "index/data.mdb": self._read_index()}

    def _powerless(self) -> Image:
        image: Image = {"index/data.mdb": self._powerless_index()}
        now = self._files()
        for name in now.keys() | self._durable.keys():
            old, new = self._durable.get(name), now.get(name)
            if new is None:  # removed, which may not have reached the disk
                if self._draw.random() < 0.5:
                    image[name] = old or b""
            elif name == "VERSION":
                image[name] = new
            elif old is not None or self._draw.random() < 0.7:
                image[name] = torn(self._draw, old or b"", new)
        return image

    def _powerless_index(self) -> bytes:
        before, last, new = self._index
        if self._draw.random() < 0.5:  # between two commits: only the root may be missing
            roots = self._draw.choice((last, new))[:META_BYTES]
            return roots.ljust(META_BYTES, b"\0") + new[META_BYTES:]
        roots = self._draw.choice((before, last))[:META_BYTES]
        return (roots + torn(self._draw, last, new)[META_BYTES:]) if roots else new


def restore(path: Path, image: Image) -> None:
    """Make *path* the directory that *image* shows."""
    for name, data in {"lock": b"", **image}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    path.chmod(0o700)
