"""Each point of the semantics page has a test that names it, and each test names a point that is there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_POINT = re.compile(r'^- (?:<a id="([a-z-]+)"></a>)?', re.MULTILINE)
_CLAIM = re.compile(r"mark\.claim\(([^)]*)\)")


def points_of(root: Path) -> list[str]:
    return _POINT.findall((root / "docs/reference/semantics.md").read_text())


def claimed_in(root: Path) -> set[str]:
    found = set()
    for path in (root / "tests").rglob("test_*.py"):
        for arguments in _CLAIM.findall(path.read_text()):
            found.update(re.findall(r'"([a-z-]+)"', arguments))
    return found


def test_each_point_has_an_anchor_of_its_own(root: Path) -> None:
    points = points_of(root)
    assert len(points) > 40
    assert "" not in points
    assert len(set(points)) == len(points)


def test_each_point_is_executed_by_a_test_and_each_test_by_a_point(root: Path) -> None:
    assert set(points_of(root)) - claimed_in(root) == set(), "without a test"
    assert claimed_in(root) - set(points_of(root)) == set(), "not on the page"
