"""The suite ``fio``: the read jobs that other mounts publish, through ours and through every peer that is installed.

All jobs of one publisher run on one mount, each on files of its own, so that each finds them cold; then comes the next
mount. Rates are compared with those of the fastest peer, and what ours fetched with what was read.
"""

from __future__ import annotations

import shlex
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING

from benchmarks import fio
from benchmarks.loads import Measurement
from benchmarks.report import Row, ratio_row, value_row
from benchmarks.store import FIO_PREFIX

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.bench import Bench
    from benchmarks.jobs import Job

OURS = "ours"


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
        for installed in bench.plan.peers:
            for variant in installed.peer.variants:
                label = installed.label(variant)

                def work(directory: Path, label: str = label, jobs: list[tuple[Job, float]] = jobs) -> None:
                    for job, limit_s in jobs:
                        _run_job(bench, executable, job, limit_s, directory, label)

                bench.with_peer(installed, variant, FIO_PREFIX, work)


def _through_ours(bench: Bench, executable: str, jobs: list[tuple[Job, float]]) -> None:
    with bench.mounted(bench.empty_cache(), prefix=FIO_PREFIX) as mount:
        for job, limit_s in jobs:
            name = _name(job, OURS)

            def work(job: Job = job, limit_s: float = limit_s) -> None:
                _run_job(bench, executable, job, limit_s, mount.mountpoint, OURS)

            counted = bench.counted(name, mount, work)
            read_bytes = bench.rounds[name][-1].size_bytes
            bench.value(f"amplification, {job.label}", counted["fetched_bytes"] / read_bytes)


def _run_job(bench: Bench, executable: str, job: Job, limit_s: float, directory: Path, label: str) -> None:
    if job.again:
        fio.run_job(executable, job, directory, limit_s)
    bench.commands[f"fio {job.label}"] = shlex.join([executable, *job.arguments("DIRECTORY", limit_s)])
    bench.settle()
    found = fio.run_job(executable, job, directory, limit_s)
    name = _name(job, label)
    bench.record(name, Measurement(found.size_bytes / found.rate_mb_s / 1e6, found.size_bytes, found.cpu_s))
    bench.value(f"p50 ms, {name}", found.p50_ms, quiet=True)
    bench.value(f"p99 ms, {name}", found.p99_ms, quiet=True)


def rows(bench: Bench) -> list[Row]:
    """Rates beside the fastest peer's, job by job, and what ours fetched for each byte read."""
    rows = []
    for job, _ in bench.plan.fio_jobs:
        ours = bench.rounds.get(_name(job, OURS))
        if not ours:
            continue
        rates = [measurement.rate_mb_s for measurement in ours]
        others = [bench.rounds.get(_name(job, label)) for label in labels(bench)]
        found = [[measurement.rate_mb_s for measurement in other] for other in others if other]
        if found:
            best = [max(together) for together in zip_longest(*found, fillvalue=0.0)]
            rows.append(ratio_row(f"fio {job.label} / fastest peer", rates, best, ">= 1"))
        amplification = bench.values[f"amplification, {job.label}"]
        rows.append(value_row(f"fetched / read, fio {job.label}", amplification, "-"))
    return rows


def labels(bench: Bench) -> list[str]:
    """Return what every way of every peer is called."""
    return [installed.label(variant) for installed in bench.plan.peers for variant in installed.peer.variants]


def _name(job: Job, label: str) -> str:
    return f"fio {job.label} | {label}"
