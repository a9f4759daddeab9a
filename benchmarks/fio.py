"""Running fio, and what it found."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.jobs import Job

GRACE_S = 60.0
"""How much longer than its own limit fio may take: it waits for reads that have begun."""


class FioFailedError(subprocess.SubprocessError):
    """fio did not run, or a read failed."""


class FioHangsError(FioFailedError):
    """fio does not end: what it reads from does not answer."""


@dataclass(frozen=True, slots=True)
class FioResult:
    """What all readers of one job did together."""

    seconds: float
    """How long they read."""
    size_bytes: int
    """Bytes they read."""
    rate_mb_s: float
    """10^6 bytes per second, as fio counts it."""
    p50_ms: float
    """Half of the reads took no longer."""
    p99_ms: float
    """99 of 100 reads took no longer."""
    cpu_s: float
    """User and system time of the readers."""


def fio() -> str | None:
    """Return fio's executable, None without one."""
    return shutil.which("fio")


def version(executable: str) -> str:
    """Return what ``fio --version`` says."""
    return subprocess.run([executable, "--version"], check=True, capture_output=True, text=True).stdout.strip()


def run_job(executable: str, job: Job, directory: Path, limit_s: float) -> FioResult:
    """Run one job on the files that it names, which exist.

    Raises:
        FioHangsError: It does not end.
        FioFailedError: It did not run, or a read failed.
    """
    command = [executable, *job.arguments(str(directory), limit_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        output, complaints = process.communicate(timeout=limit_s + job.ramp_s + GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()  # and not waited for: a reader that the kernel holds ends with the mount
        raise FioHangsError(f"fio hangs at {job.label}") from None
    if process.returncode:
        said = " ".join((complaints or output).split())[-300:]
        raise FioFailedError(f"fio fails at {job.label}: {said}")
    return parse(output)


def parse(output: str) -> FioResult:
    """Return what fio's JSON says; lines before it are remarks.

    Raises:
        FioFailedError: There is no JSON, a reader failed, or nothing was read.
    """
    begin = output.find("{")
    if begin < 0:
        raise FioFailedError(f"fio says no JSON: {output[-200:]}")
    try:
        (job,) = json.loads(output[begin:])["jobs"]
    except ValueError as exc:
        raise FioFailedError(f"fio's JSON cannot be read: {exc}") from exc
    if job["error"]:
        raise FioFailedError(f"a read failed with errno {job['error']}")
    read = job["read"]
    if not read["io_bytes"]:
        raise FioFailedError("nothing was read")
    seconds = read["runtime"] / 1e3 or read["lat_ns"]["mean"] / 1e9
    rate_mb_s = read["bw_bytes"] / 1e6 or read["io_bytes"] / seconds / 1e6
    cpu_s = (job["usr_cpu"] + job["sys_cpu"]) / 100 * seconds
    return FioResult(seconds, read["io_bytes"], rate_mb_s, _percentile(read, "50"), _percentile(read, "99"), cpu_s)


def _percentile(read: dict[str, Any], which: str) -> float:
    """Return a percentile of the time a read took, in milliseconds."""
    found: dict[str, float] = read["clat_ns"].get("percentile", {})
    return found.get(f"{which}.000000", 0.0) / 1e6
