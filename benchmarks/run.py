"""``python -m benchmarks.run``: the rounds.

Each round runs every variant once, one after the other, so that neighbours in time are compared; what the machine does
besides then hits all of them. Ratios are taken per round, and the table shows their medians.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import report
from benchmarks.loads import Measurement, in_own_process
from benchmarks.mounts import Mount, drop_page_cache, mounted
from benchmarks.store import BUCKET, StoreUnavailableError, nginx_store, scratch_in_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

# nginx checks no signature, but boto3 wants to make one.
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret"}

Rounds = dict[str, list[Measurement]]


class Bench:
    """One endpoint, one model, one scratch directory on the cache disk.

    Args:
        endpoint_url: The store.
        keys: The shards, in loading order.
        size_bytes: Bytes of all shards.
        disk: Scratch directory on the cache disk.
        jobs: GETs in flight of the plain download.
        flags: Further flags of ``mount``.
    """

    def __init__(
        self, endpoint_url: str, keys: Sequence[str], size_bytes: int, disk: Path, jobs: int, flags: Sequence[str]
    ) -> None:
        self.endpoint_url = endpoint_url
        self.keys = keys
        self.size_bytes = size_bytes
        self.disk = disk
        self.jobs = jobs
        self.flags = flags
        self.rounds: Rounds = {}
        self.fetched_bytes: list[float] = []
        self.refetched_bytes: list[float] = []

    def run_round(self) -> None:
        """Run every variant once: download, cold and warm mount, and the cache disk by itself."""
        cache = self.disk / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        self._download("download, bytes dropped", None)
        plain = self.disk / "plain"
        plain.mkdir()
        self._download("download to a file", plain)
        shutil.rmtree(plain)
        with self._mounted(cache) as mount:
            self._load("mount, cold", "daemon, cold", mount)
            self.fetched_bytes.append(mount.status()["bytes"]["remote"] / self.size_bytes)
        # A new process: nothing in the daemon's memory, nothing in the kernel's.
        with self._mounted(cache) as mount:
            self._load("mount, warm NVMe", "daemon, warm NVMe", mount)
            self.refetched_bytes.append(mount.status()["bytes"]["remote"] / self.size_bytes)
        files = [str(path) for path in cached_files(cache, self.size_bytes // len(self.keys) // 2)]
        drop_page_cache([Path(file) for file in files])
        self._record("cache files, same loader", in_own_process("load", *files))
        drop_page_cache([Path(file) for file in files])
        self._record("cache files, O_DIRECT", in_own_process("read", *files))

    def rows(self) -> list[report.Row]:
        """Return what the rounds so far say."""
        rate = {name: [m.rate_mb_s for m in measured] for name, measured in self.rounds.items()}
        cost = {name: [report.cost_s_per_gib(m) for m in measured] for name, measured in self.rounds.items()}
        return [
            report.ratio_row("cold load / plain download", rate["mount, cold"], rate["download to a file"], ">= 0.90"),
            report.ratio_row(
                "warm NVMe load / same load of the cache's files",
                rate["mount, warm NVMe"],
                rate["cache files, same loader"],
                ">= 0.90",
            ),
            report.value_row("daemon CPU s/GiB, cold, disk cache", cost["daemon, cold"], "<= 1.1"),
            report.value_row("daemon CPU s/GiB, warm NVMe", cost["daemon, warm NVMe"], "<= 0.45"),
            report.value_row("bytes fetched / model, cold", self.fetched_bytes, "<= 1.01"),
            report.value_row("bytes fetched / model, after remount", self.refetched_bytes, "0"),
        ]

    def _mounted(self, cache: Path):  # noqa: ANN202 - a context manager of ours
        return mounted(f"s3://{BUCKET}", self.disk / "mount", self.endpoint_url, cache, self.flags)

    def _download(self, name: str, directory: Path | None) -> None:
        arguments = ["--endpoint-url", self.endpoint_url, "--bucket", BUCKET, "--jobs", str(self.jobs)]
        if directory is not None:
            arguments += ["--directory", str(directory)]
        self._record(name, in_own_process("download", *self.keys, *arguments))

    def _load(self, name: str, daemon: str, mount: Mount) -> None:
        drop_page_cache([])
        cpu_before_s = mount.cpu_seconds()
        loaded = in_own_process("load", *(str(mount.mountpoint / key) for key in self.keys))
        self._record(name, loaded)
        mount.wait_until_cached(self.size_bytes)  # what is still on its way to the disk is part of the price
        cpu_s = mount.cpu_seconds() - cpu_before_s
        self._record(daemon, Measurement(loaded.seconds, loaded.size_bytes, cpu_s))

    def _record(self, name: str, measurement: Measurement) -> None:
        self.rounds.setdefault(name, []).append(measurement)
        print(f"  {name:28} {measurement.seconds:6.2f} s {measurement.rate_mb_s:7.0f} MB/s", flush=True)


def cached_files(cache: Path, least_bytes: int) -> list[Path]:
    """Return the cache's copies of the shards: all its object files of *least_bytes* and more."""
    return sorted(path for path in cache.rglob("objects/*/*") if path.stat().st_size >= least_bytes)
