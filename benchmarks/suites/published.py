"""The suite ``fio``: the read jobs that other mounts publish, through ours and through every peer that is installed.

All jobs of one publisher run on one mount, each on files of its own, so that each finds them cold; then comes the next
mount. Rates are compared with those of the fastest peer, and what ours fetched with what was read.
"""

from __future__ import annotations

import shlex
from functools import partial
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING

from benchmarks import fio
from benchmarks.bench import counters_of
from benchmarks.measuring import Measurement
from benchmarks.report import Row, ratio_row, value_row
from benchmarks.store import FIO_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.bench import Bench
    from benchmarks.jobs import Job

OURS = "ours"
COUNTED_BYTES = 1 << 20
"""A job that reads less is about time: to fetch megabytes for a byte says nothing."""
MEMORY_BYTES = 1 << 30
"""What is touched before each job: more than one reads."""


def run(bench: Bench) -> None:
    """Run the jobs, one publisher after the other, on each mount in turn."""
    executable = fio.fio()
    if executable is None or not bench.plan.fio_jobs:
        bench.note("fio: absent" if executable is None else "fio: its files are served by nginx alone")
        return
    bench.note(fio.version(executable))
    for _, group in groupby(bench.plan.fio_jobs, lambda found: found[0].publisher):
        jobs = list(group)
        _through_ours(bench, executable, jobs)
        for installed, variant in bench.ways():
            work = partial(_run_jobs, bench, executable, jobs, installed.label(variant))
            bench.with_peer(installed, variant, FIO_PREFIX, work)


def _through_ours(bench: Bench, executable: str, jobs: list[tuple[Job, float]]) -> None:
    with bench.mounted(bench.empty_cache(), prefix=FIO_PREFIX) as mount:
        for job, limit_s in jobs:
            name = _name(job, OURS)
            before = counters_of(mount.status())
            if not _run_job(bench, executable, job, limit_s, mount.mountpoint, OURS):
                continue
            after = counters_of(mount.status())
            bench.counters.setdefault(name, []).append({key: after[key] - before[key] for key in after})
            read_bytes = bench.rounds[name][-1].size_bytes
            if read_bytes >= COUNTED_BYTES:
                fetched_bytes = bench.counters[name][-1]["fetched_bytes"]
                bench.value(f"amplification, {job.label}", fetched_bytes / read_bytes)


def _run_jobs(bench: Bench, executable: str, jobs: Sequence[tuple[Job, float]], label: str, directory: Path) -> None:
    for job, limit_s in jobs:
        _run_job(bench, executable, job, limit_s, directory, label)


def _run_job(bench: Bench, executable: str, job: Job, limit_s: float, directory: Path, label: str) -> bool:
    """Run one job and book it; return whether it could be read."""
    bench.commands[f"fio {job.label}"] = shlex.join([executable, *job.arguments("DIRECTORY", limit_s)])
    try:
        if job.again:
            fio.run_job(executable, job, directory, limit_s)
        bench.settle(MEMORY_BYTES)
        found = fio.run_job(executable, job, directory, limit_s)
    except fio.FioHangsError:
        raise  # this mount answers nothing any more
    except fio.FioFailedError as exc:
        bench.note(f"{label}: {exc}")
        return False
    name = _name(job, label)
    bench.record(name, Measurement(found.size_bytes / found.rate_mb_s / 1e6, found.size_bytes, found.cpu_s))
    bench.value(f"p50 ms, {name}", found.p50_ms, quiet=True)
    bench.value(f"p99 ms, {name}", found.p99_ms, quiet=True)
    return True


def rows(bench: Bench) -> list[Row]:
    """Rates beside the fastest peer's, job by job, and what ours fetched for each byte read."""
    rows = []
    labels = [installed.label(variant) for installed, variant in bench.ways()]
    for job, _ in bench.plan.fio_jobs:
        ours = bench.rounds.get(_name(job, OURS))
        if not ours:
            continue
        rates = [measurement.rate_mb_s for measurement in ours]
        others = [bench.rounds.get(_name(job, label)) for label in labels]
        found = [[measurement.rate_mb_s for measurement in other] for other in others if other]
        if found:
            best = [max(together) for together in zip_longest(*found, fillvalue=0.0)]
            rows.append(ratio_row(f"fio {job.label} / fastest peer", rates, best, ">= 1"))
        if amplification := bench.values.get(f"amplification, {job.label}"):
            rows.append(value_row(f"fetched / read, fio {job.label}", amplification, "-"))
    return rows


def _name(job: Job, label: str) -> str:
    return f"fio {job.label} | {label}"
