"""The suite ``warm``: filling the disk cache on purpose, beside a plain download to files and loads through the mount.

What ``warm`` leaves is checksummed and survives a crash; a download's files are neither. Its start is part of its time;
so that it is not the story, the time from the first GET to the last block on the disk stands beside it, and ``--size``
takes a larger model. The loads end with the last byte read, their last blocks may come to the disk later.
"""

from __future__ import annotations

import json
import resource
import subprocess
import time
from typing import TYPE_CHECKING

from benchmarks.measuring import Measurement
from benchmarks.mounts import COMMAND, drop_page_cache, warm_memory
from benchmarks.mounts import run as run_command
from benchmarks.report import Row, ratio_row, value_row
from benchmarks.store import BUCKET, PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.bench import Bench
    from benchmarks.mounts import Mount

_WARM, _WARM_MOUNTED = "warm, empty cache", "warm through a mount, empty cache"
_FETCH, _FETCH_MOUNTED = f"{_WARM}, without its start", f"{_WARM_MOUNTED}, without its start"
_LOAD, _COPY = "mount, empty cache, read", "mount, empty cache, cat"
_DOWNLOADS = {"download to files, boto3": "download", "download to files, plain HTTP": "download-plain"}


def run(bench: Bench) -> None:
    """Fill an empty cache in all ways, and download to files."""
    for name, what in _DOWNLOADS.items():
        bench.download(name, what, to_files=True)
    with bench.mounted(bench.empty_cache()) as mount:
        bench.load(_LOAD, mount.mountpoint, "read")
    with bench.mounted(bench.empty_cache()) as mount:
        bench.record(_COPY, _copy(bench, mount))
    with bench.mounted(bench.empty_cache()) as mount:
        before_s = mount.cpu_seconds()
        taken, fetch_s = _warm(bench, [str(mount.mountpoint)])
        daemon_s = mount.cpu_seconds() - before_s
        bench.record(_WARM_MOUNTED, Measurement(taken.seconds, taken.size_bytes, taken.cpu_s + daemon_s))
        bench.record(_FETCH_MOUNTED, Measurement(fetch_s, taken.size_bytes, daemon_s), quiet=True)
    places = [f"s3://{BUCKET}/{PREFIX}", "--endpoint-url", bench.endpoint_url, "--cache-dir", str(bench.empty_cache())]
    taken, fetch_s = _warm(bench, places)
    bench.record(_WARM, taken)
    bench.record(_FETCH, Measurement(fetch_s, taken.size_bytes, taken.cpu_s), quiet=True)


def _warm(bench: Bench, places: Sequence[str]) -> tuple[Measurement, float]:
    """Return what the command took, and its seconds from the first GET to the last block on the disk."""
    _prepare(bench)
    cpu_before_s, began_s = _children_cpu_s(), time.monotonic()
    output = run_command([*COMMAND, "warm", *places, "--json"])
    took_s = time.monotonic() - began_s
    (report,) = json.loads(output)["runs"]
    return Measurement(took_s, bench.size_bytes, _children_cpu_s() - cpu_before_s), report["fetch_seconds"]


def _copy(bench: Bench, mount: Mount) -> Measurement:
    """Read all shards as ``cp`` would, one after the other."""
    _prepare(bench)
    paths: list[Path] = [mount.mountpoint / shard for shard in bench.shards]
    cpu_before_s, began_s = _children_cpu_s(), time.monotonic()
    subprocess.run(["cat", *paths], check=True, stdout=subprocess.DEVNULL)
    took_s = time.monotonic() - began_s
    return Measurement(took_s, bench.size_bytes, _children_cpu_s() - cpu_before_s)


def _prepare(bench: Bench) -> None:
    drop_page_cache([])
    warm_memory(3 * bench.size_bytes)


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def rows(bench: Bench) -> list[Row]:
    """Rates of ``warm`` beside the others', and what it cost."""
    downloads = [max(rates) for rates in zip(*(bench.rates(name) for name in _DOWNLOADS), strict=True)]
    others = [max(rates) for rates in zip(bench.rates(_LOAD), bench.rates(_COPY), strict=True)]
    table = []
    for name in (_WARM, _FETCH, _WARM_MOUNTED, _FETCH_MOUNTED):
        table.append(ratio_row(f"{name} / best download to files", bench.rates(name), downloads, "-"))
        table.append(ratio_row(f"{name} / best cold load through the mount", bench.rates(name), others, ">= 1"))
    costs = [value_row(f"CPU s/GiB, {name}", bench.costs(name), "-") for name in (_WARM, _WARM_MOUNTED)]
    return [*table, *costs]
