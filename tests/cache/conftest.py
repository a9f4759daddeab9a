"""A cache directory, and other processes that use it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tigrismount.cache import claims, disk, kept
from tigrismount.cache.disk import DiskBlockCache
from tigrismount.cache.options import DiskCacheConfig
from tigrismount.testing.cache_contract import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence


class Place:
    """A cache directory that can be opened again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = DiskCacheConfig(
            directory=str(path), size_bytes=1 << 30, free_floor_fraction=0.0, block_bytes=BLOCK_BYTES
        )
        self._ticks = itertools.count(1)

    def clock(self) -> float:
        """Seconds that pass by one at every look, so that recency has an order."""
        return float(next(self._ticks))

    async def start(self, *, store_id: str = "test", boot_id: str = "boot", **changes: Any) -> DiskBlockCache:
        """Open the cache without ``run``."""
        config = replace(self.config, **changes)
        return await DiskBlockCache.open(config, store_id=store_id, boot_id=boot_id, clock=self.clock)

    @asynccontextmanager
    async def open(self, **how: Any) -> AsyncIterator[DiskBlockCache]:
        """Open the cache as a daemon does, and end cleanly."""
        cache = await self.start(**how)
        async with trio.open_nursery() as nursery:
            await nursery.start(cache.run)
            yield cache
            nursery.cancel_scope.cancel()
        await cache.aclose()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what ``run`` does by itself."""
        while not condition():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.02)

    def data_files(self) -> list[Path]:
        return sorted(self.path.glob("objects/*/*"))

    def flip(self, offset: int) -> None:
        """Change one bit of the only data file, as a disk does it: nobody has written to it."""
        (path,) = self.data_files()
        was = path.stat()
        data = bytearray(path.read_bytes())
        data[offset] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


@pytest.fixture(autouse=True)
def _patient_with_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everything is busy, two seconds without an answer are no disk that hangs."""
    monkeypatch.setattr(disk, "_PATIENCE_S", 120.0)
    monkeypatch.setattr(claims, "_ANSWER_S", 120.0)
    monkeypatch.setattr(kept, "_PATIENCE_S", 120.0)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "cache")


@pytest.fixture
def children(place: Place) -> Iterator[Any]:
    """Start other daemons on the same directory; killed at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(
        action: str, name: str, *, size_bytes: int = 1 << 30, prefix: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        program = str(Path(__file__).with_name("child.py"))
        child = subprocess.Popen(
            [*prefix, sys.executable, program, str(place.path), str(size_bytes), action, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        started.append(child)
        return child

    yield start
    for child in started:
        with child:
            child.kill()
