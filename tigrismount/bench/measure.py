"""Measuring: through a mount of its own with an empty cache, by parallel GETs to a file, and the disk alone.

The mount goes first, so that what the store's own caches learn from the first to come helps the other one. A second
mount has the first one's disk cache and none of its pages. All that is made is gone afterwards.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

import trio

from tigrismount.bench.reading import read_files
from tigrismount.bench.verdict import COLD, DISK, DOWNLOAD, WARM, Measured
from tigrismount.demo.mounting import DemoMount
from tigrismount.doctor.disk import measure_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tigrismount.bench.sample import Extent, Sample
    from tigrismount.demo.progress import Narrator
    from tigrismount.objects.client import ObjectClient

CONNECTIONS = 16
"""GETs at once of the plain download: more did not help in any measurement of ours."""
PART_BYTES = 8 << 20
"""Bytes of each: the default block of a mount."""
_TIMEOUT_S = 1800.0
"""For one reading; --size at a few Mbit/s."""
_DISK_BYTES = 256 << 20


def measure_mount(
    sample: Sample, source: str, prefix: str, work: str, options: Sequence[str], memory_bytes: int, narrator: Narrator
) -> list[Measured]:
    """Return a cold reading and one from the disk cache.

    Args:
        sample: What to read.
        source: What to mount.
        prefix: Of the keys; the mount's paths are without it.
        work: An empty directory.
        options: Flags of the mount.
        memory_bytes: Its memory limit.
        narrator: Is told what is being measured.

    Raises:
        MountError: It could not be mounted or read.
    """
    for name in ("mnt", "cache"):
        os.mkdir(f"{work}/{name}")
    prefetch = "--prefetch=file" if sample.is_whole else "--prefetch=off"
    mount = DemoMount(
        source, f"{work}/mnt", f"{work}/cache", os.environ, memory_bytes=memory_bytes, options=[*options, prefetch]
    )
    found = []
    with mount:
        for name in (COLD, WARM):
            mount.mount()
            extents = [(f"{mount.path}/{extent.obj.key[len(prefix) :]}", extent.start) for extent in sample.extents]
            with narrator.step(name):  # the reader is a process of its own, and busy
                pieces = read_files(extents, _TIMEOUT_S)
            fetched = mount.status()["bytes"]["remote"]
            found.append(Measured(name, pieces[-1][0], sum(size for _, size in pieces), tuple(pieces), fetched))
            mount.unmount()
    return found


async def measure_download(
    client: ObjectClient, sample: Sample, path: str, advance: Callable[[int], object]
) -> Measured:
    """Return a download of the sample to a file, with as many GETs at once as help.

    Args:
        client: Asks the store.
        sample: What to fetch.
        path: A file that is made.
        advance: Is told how many bytes have come.

    Raises:
        ObjectError: The store refused.
    """
    pieces: list[tuple[float, int]] = []
    limiter = trio.CapacityLimiter(CONNECTIONS)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    began_s = time.perf_counter()

    async def fetch(extent: Extent, start: int, place: int) -> None:
        async with limiter:
            stop = min(start + PART_BYTES, extent.obj.size_bytes)
            part = _Part(stop - start)
            await client.fetch(extent.obj, start, stop, part)
            await trio.to_thread.run_sync(partial(os.pwrite, fd, part.memory, place + start - extent.start))
        pieces.append((time.perf_counter() - began_s, stop - start))
        advance(stop - start)

    try:
        async with trio.open_nursery() as nursery:
            place = 0
            for extent in sample.extents:
                for start in range(extent.start, extent.obj.size_bytes, PART_BYTES):
                    nursery.start_soon(fetch, extent, start, place)
                place += extent.size_bytes
        took_s = time.perf_counter() - began_s
        return Measured(DOWNLOAD, took_s, sample.size_bytes, tuple(pieces), client.statistics().bytes_fetched)
    finally:
        os.close(fd)


def measure_raw_disk(directory: str) -> Measured:
    """Return how fast the disk is read past the page cache.

    Args:
        directory: On the disk.
    """
    rate = measure_disk(directory, _DISK_BYTES).read
    return Measured(DISK, _DISK_BYTES / rate, _DISK_BYTES)


class _Part:
    """A sink that keeps its bytes."""

    def __init__(self, size_bytes: int) -> None:
        self.memory = memoryview(bytearray(size_bytes))
        self._done = 0

    def next_view(self) -> memoryview:
        """Return what is not filled yet."""
        return self.memory[self._done :]

    def wrote(self, count: int) -> None:
        """Count."""
        self._done += count
