"""The suite ``warm``: filling the disk cache on purpose, beside a plain download to files and a load through the mount.

What ``warm`` leaves is checksummed and survives a crash; a download's files are neither. Its start is part of its time.
"""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

from benchmarks.loads import Measurement
from benchmarks.mounts import COMMAND, drop_page_cache, warm_memory
from benchmarks.mounts import run as run_command
from benchmarks.report import Row, ratio_row, value_row
from benchmarks.store import BUCKET, PREFIX

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_WARM, _MOUNT = "warm, empty cache", "mount, empty cache, read"
_DOWNLOADS = {"download to files, boto3": "download", "download to files, plain HTTP": "download-plain"}


def run(bench: Bench) -> None:
    """Fill an empty cache in both ways, and download to files."""
    for name, what in _DOWNLOADS.items():
        bench.download(name, what, to_files=True)
    with bench.mounted(bench.empty_cache()) as mount:
        bench.load(_MOUNT, mount.mountpoint, "read")
    bench.record(_WARM, _warm(bench))


def _warm(bench: Bench) -> Measurement:
    cache = bench.empty_cache()
    drop_page_cache([])
    warm_memory(3 * bench.size_bytes)
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    places = [f"s3://{BUCKET}/{PREFIX}", "--endpoint-url", bench.endpoint_url, "--cache-dir", str(cache)]
    run_command([*COMMAND, "warm", *places])
    took_s, after = time.monotonic() - began_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measurement(took_s, bench.size_bytes, cpu_s)


def rows(bench: Bench) -> list[Row]:
    """Rates of ``warm`` beside the others', and what it cost."""
    ours = bench.rates(_WARM)
    best = [max(rates) for rates in zip(*(bench.rates(name) for name in _DOWNLOADS), strict=True)]
    return [
        ratio_row("warm / best download to files", ours, best, "-"),
        ratio_row("warm / cold load through the mount, read", ours, bench.rates(_MOUNT), ">= 1"),
        value_row("CPU s/GiB, warm", bench.costs(_WARM), "-"),
    ]
