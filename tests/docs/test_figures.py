"""README has the figures of the page that it points to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("what", "result"),
    [
        ("cold load through the mount", "P1 cold {} / best download"),
        ("load from NVMe, page cache dropped", "P3 warm NVMe {} / same load of the cache files"),
    ],
)
def test_readme_has_the_medians_of_the_newest_run(root: Path, what: str, result: str):
    """Mutation: the page shows another run, and README goes on with the figures of the one before."""
    rows = re.findall(r"^\| (.+?) \| ([\d.]+) \|", (root / "docs" / "benchmarks.md").read_text(), re.MULTILINE)
    medians = {name: float(median) for name, median in reversed(rows)}  # the targets come first
    row = next(line for line in (root / "README.md").read_text().splitlines() if line.startswith(f"| {what} |"))
    told = re.findall(r"([\d.]+) by `(\w+)`", row)
    assert [kind for _, kind in told] == ["mmap", "read"]
    for figure, kind in told:
        digits = len(figure.partition(".")[2])
        assert figure == f"{medians[result.format(kind)]:.{digits}f}"
