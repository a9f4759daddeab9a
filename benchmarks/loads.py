"""What is timed, each in a fresh process: ``python -m benchmarks.loads load|download|read``.

A process of its own gives each variant the same empty heap and its own CPU account. The last line of its output is one
JSON object: seconds, bytes and CPU seconds, imports and clients excluded.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RANGE_BYTES = 8 << 20
"""One GET of the download and one read of the disk: the block size of the mount."""
DISK_THREADS = 4
"""Reads in flight on the disk: where ours stopped gaining."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one process took."""

    seconds: float
    """Wall clock."""
    size_bytes: int
    """Bytes delivered."""
    cpu_s: float
    """User and system time of the process itself."""

    @property
    def rate_mb_s(self) -> float:
        """10^6 bytes per second."""
        return self.size_bytes / self.seconds / 1e6


def measured(work: Callable[[], int]) -> Measurement:
    """Return what *work*, which returns the bytes it delivered, took."""
    cpu_before_s, before_s = cpu_seconds(), time.perf_counter()
    size_bytes = work()
    return Measurement(time.perf_counter() - before_s, size_bytes, cpu_seconds() - cpu_before_s)


def cpu_seconds() -> float:
    """Return user and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def in_own_process(*arguments: str, environment: dict[str, str] | None = None) -> Measurement:
    """Run this module with *arguments* in a new process and return its measurement."""
    command = [sys.executable, "-m", "benchmarks.loads", *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return Measurement(**json.loads(output.splitlines()[-1]))


def load(paths: Sequence[Path]) -> Measurement:
    """Take every tensor of the safetensors files *paths* into memory of our own, one after the other."""
    from safetensors import safe_open

    def work() -> int:
        total = 0
        for path in paths:
            with safe_open(path, framework="numpy") as shard:
                total += sum(shard.get_tensor(name).nbytes for name in shard.offset_keys())
        return total

    return measured(work)


def download(endpoint_url: str, bucket: str, keys: Sequence[str], directory: Path | None, jobs: int) -> Measurement:
    """Fetch *keys* by range GETs in threads into files under *directory*; None drops the bytes."""
    import boto3
    from botocore.config import Config

    config = Config(
        max_pool_connections=jobs,
        s3={"addressing_style": "path"},
        response_checksum_validation="when_required",
        request_checksum_calculation="when_required",
    )
    client = boto3.client("s3", endpoint_url=endpoint_url, region_name="auto", config=config)
    sizes = {key: client.head_object(Bucket=bucket, Key=key)["ContentLength"] for key in keys}
    files = {}
    for key, size_bytes in sizes.items():
        if directory is not None:
            files[key] = os.open(directory / Path(key).name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            os.ftruncate(files[key], size_bytes)

    def fetch(part: tuple[str, int, int]) -> int:
        key, start, stop = part
        answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}")
        body = answer["Body"].read()
        if key in files:
            os.pwrite(files[key], body, start)
        return len(body)

    parts = [
        (key, start, min(start + RANGE_BYTES, size_bytes))
        for key, size_bytes in sizes.items()
        for start in range(0, size_bytes, RANGE_BYTES)
    ]
    with ThreadPoolExecutor(jobs) as pool:
        return measured(lambda: sum(pool.map(fetch, parts)))


def read(paths: Sequence[Path]) -> Measurement:
    """Read the files *paths* past the page cache, in whole ranges by several threads: what the disk can give."""

    def read_range(part: tuple[int, int]) -> int:
        descriptor, offset = part
        with mmap.mmap(-1, RANGE_BYTES) as buffer:
            return os.preadv(descriptor, [buffer], offset)

    descriptors = {os.open(path, os.O_RDONLY | os.O_DIRECT): path.stat().st_size for path in paths}
    parts = [(fd, offset) for fd, size_bytes in descriptors.items() for offset in range(0, size_bytes, RANGE_BYTES)]
    with ThreadPoolExecutor(DISK_THREADS) as pool:
        return measured(lambda: sum(pool.map(read_range, parts)))


def main() -> None:
    """Run one of the above and print its measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["load", "download", "read"])
    parser.add_argument("names", nargs="+", help="paths, for download keys")
    parser.add_argument("--endpoint-url", default="")
    parser.add_argument("--bucket", default="")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--jobs", type=int, default=16)
    arguments = parser.parse_args()
    if arguments.what == "download":
        result = download(
            arguments.endpoint_url, arguments.bucket, arguments.names, arguments.directory, arguments.jobs
        )
    else:
        result = {"load": load, "read": read}[arguments.what]([Path(name) for name in arguments.names])
    print(json.dumps({"seconds": result.seconds, "size_bytes": result.size_bytes, "cpu_s": result.cpu_s}))


if __name__ == "__main__":
    main()
