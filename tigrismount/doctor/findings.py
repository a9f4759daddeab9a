"""What a check found, and what it all comes to: how long 10 GB would take to load here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "warn", "fail", "skip"]
"""``fail``: a mount would not work; ``warn``: it would, slower or with less; ``skip``: could not be looked at."""

MODEL_BYTES = 10 * 10**9
"""The model of the last line: 10 GB, a common size of weights in half precision."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result."""

    check: str
    """What was looked at, in one or two words."""
    verdict: Verdict
    """How it is."""
    detail: str
    """What was seen, one line."""
    remedy: str = ""
    """What to do about it; empty where nothing is to be done."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured, bytes per second; 0 where it was not."""

    store: float = 0.0
    """Several GETs at once."""
    disk: float = 0.0
    """Reading the cache's disk."""


def failed(findings: list[Finding]) -> bool:
    """Tell whether a mount would not work."""
    return any(finding.verdict == "fail" for finding in findings)


def summary(findings: list[Finding], rates: Rates) -> str:
    """Return the one line that it all comes to.

    Args:
        findings: Of all checks.
        rates: What they measured.
    """
    if failed(findings):
        count = sum(finding.verdict == "fail" for finding in findings)
        return f"a mount would not work here: {count} {'check fails' if count == 1 else 'checks fail'}"
    times = []
    if rates.store:
        times.append(f"in about {_duration(MODEL_BYTES / rates.store)} from the store")
    if rates.disk:
        times.append(f"in about {_duration(MODEL_BYTES / rates.disk)} from the cache")
    warnings = sum(finding.verdict == "warn" for finding in findings)
    better = f"; {warnings} {'thing' if warnings == 1 else 'things'} could be better" if warnings else ""
    if not times:
        return f"a mount should work here; name a bucket to measure it{better}"
    return f"10 GB should load {' and '.join(times)}{better}"


def _duration(seconds: float) -> str:
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
