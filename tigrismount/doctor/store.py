"""What a key may do with a bucket, and how fast: a listing, a few HEADs, and some 80 MiB of its largest object.

The rate of one connection and that of several at once are measured apart. Where they are much alike, the network is
the limit and not the store; where one is slow, many make up for it, which is how a mount reads.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import trio

from tigrismount.config.units import format_size
from tigrismount.doctor.findings import Finding
from tigrismount.errors import ObjectAccessError, ObjectError
from tigrismount.objects.firstpage import first_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.core.types import ObjectId
    from tigrismount.objects.client import ListPage, ObjectInfo
    from tigrismount.objects.s3 import S3Client

HEADS = 5
"""HEADs whose median is the latency."""
ONE_BYTES = 16 << 20
"""Bytes fetched over one connection."""
PARTS, PART_BYTES = 8, 8 << 20
"""GETs at once, and bytes of each: parts as a mount asks for them."""
LEAST_BYTES = 1 << 20
"""Smaller objects say nothing about a rate."""
_FAR_S = 0.1
_SLOW_BYTES_S = 100e6
"""Below a gigabit a second a model of 10 GB takes minutes."""


class StoreExam:
    """Looks at one bucket.

    Args:
        client: Signs with the key that a mount would use.
        bucket: The bucket.
        prefix: What would be mounted of it.
        anonymous: Whether nothing is signed.
    """

    def __init__(self, client: S3Client, bucket: str, prefix: str, *, anonymous: bool = False) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._anonymous = anonymous
        self.rate = 0.0
        """Bytes per second of several GETs at once; 0 until measured."""

    async def run(self, add: Callable[[Finding], None]) -> None:
        """Look at everything.

        Args:
            add: Told each finding as it comes.
        """
        try:
            page = await first_page(self._client, self._bucket, self._prefix, delimiter="")
        except ObjectAccessError as exc:
            add(self._unlisted(exc))
            return
        except ObjectError as exc:
            add(Finding("list", "fail", str(exc)))
            return
        add(self._listed(page))
        add(await self._snapshots())
        if not page.objects:
            return
        largest = max(page.objects, key=_worth)
        try:
            add(await self._latency(largest))
            await self._rates(largest, add)
        except ObjectError as exc:
            add(Finding("read", "fail", str(exc), "the key needs s3:GetObject on the bucket"))

    def _unlisted(self, refusal: ObjectAccessError) -> Finding:
        """Return what a refused listing means: a public bucket is mounted all the same."""
        if not self._anonymous:
            return Finding("list", "fail", str(refusal))
        remedy = "files directly under the prefix open by their names; have its owner allow listings to see them"
        return Finding("list", "warn", "the bucket refuses anonymous listings", remedy)

    def _listed(self, page: ListPage) -> Finding:
        where = f"s3://{self._bucket}/{self._prefix}"
        if not page.objects:
            return Finding("list", "fail", f"{where}: nothing lies there", "check the name, or upload something first")
        count = f"{len(page.objects)} keys" if page.next_token is None else f"{len(page.objects)} keys and more"
        via = f", through {self._client.traits.cache}" if self._client.traits.cache else ""
        return Finding("list", "pass", f"{where}: {count}{via}")

    async def _snapshots(self) -> Finding:
        if not self._client.traits.is_tigris:
            return Finding("snapshots", "skip", "not Tigris: --snapshot cannot be used")
        try:
            headers = await self._client.bucket_headers(self._bucket)
        except ObjectError as exc:
            return Finding("snapshots", "warn", str(exc), "without it --snapshot cannot be used")
        if headers.get("x-tigris-enable-snapshot", "").lower() == "true":
            return Finding("snapshots", "pass", "the bucket keeps them: --snapshot can be used")
        return Finding("snapshots", "pass", "the bucket keeps none: --snapshot cannot be used")

    async def _latency(self, info: ObjectInfo) -> Finding:
        took_s = []
        for _ in range(HEADS):
            began_s = time.perf_counter()
            await self._client.head(info.id.bucket, info.id.key)
            took_s.append(time.perf_counter() - began_s)
        median_s = statistics.median(took_s)
        detail = f"{median_s * 1000:.0f} ms to an answer (HEAD, median of {HEADS})"
        if median_s > _FAR_S:
            return Finding("latency", "warn", detail, "run where the bucket's data lies, or see --tigris-prefetch")
        return Finding("latency", "pass", detail)

    async def _rates(self, info: ObjectInfo, add: Callable[[Finding], None]) -> None:
        obj = info.id
        if obj.size_bytes < LEAST_BYTES or info.archived:
            add(Finding("rate", "skip", "there is no object of 1 MiB or more among the first keys"))
            return
        one = await self._measure(obj, [(0, min(obj.size_bytes, ONE_BYTES))])
        add(Finding("read", "pass", f"one connection: {_rate(one)}"))
        step = max(LEAST_BYTES, min(PART_BYTES, obj.size_bytes // PARTS))
        starts = range(0, min(obj.size_bytes, PARTS * step), step)
        self.rate = await self._measure(obj, [(start, min(start + step, obj.size_bytes)) for start in starts])
        detail = f"{len(starts)} connections: {_rate(self.rate)}"
        if self.rate < _SLOW_BYTES_S:
            add(Finding("rate", "warn", detail, "run nearer to the bucket, or behind Tigris's gateway TAG"))
        else:
            add(Finding("rate", "pass", detail))

    async def _measure(self, obj: ObjectId, ranges: list[tuple[int, int]]) -> float:
        """Fetch the ranges at once and throw them away; return bytes per second."""
        failures: list[ObjectError] = []

        async def fetch(start: int, stop: int) -> None:
            try:
                await self._client.fetch(obj, start, stop, _Waste(stop - start))
            except ObjectError as exc:
                failures.append(exc)
                nursery.cancel_scope.cancel()

        began_s = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for start, stop in ranges:
                nursery.start_soon(fetch, start, stop)
        if failures:
            raise failures[0]
        return sum(stop - start for start, stop in ranges) / max(time.perf_counter() - began_s, 1e-6)


class _Waste:
    """A sink that keeps nothing."""

    def __init__(self, size_bytes: int) -> None:
        self._left = size_bytes
        self._memory = memoryview(bytearray(min(size_bytes, 1 << 20)))

    def next_view(self) -> memoryview:
        """Return memory that is written over and over."""
        return self._memory[: self._left]

    def wrote(self, count: int) -> None:
        """Count down."""
        self._left -= count


def _worth(info: ObjectInfo) -> int:
    """Return how much an object says about a rate: archived ones nothing."""
    return -1 if info.archived else info.id.size_bytes


def _rate(rate: float) -> str:
    return f"{format_size(int(rate))}/s"
