"""Links between our pages and files hold; Sphinx checks only those inside docs/."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")


def local_links(page: Path) -> list[str]:
    return [target for target, _ in LINK.findall(page.read_text()) if "://" not in target and ":" not in target]


def test_links_to_our_own_files_lead_somewhere(page: Path) -> None:
    assert [target for target in local_links(page) if not (page.parent / target).exists()] == []


def test_the_readme_has_links_to_check(root: Path) -> None:
    """The pattern above still finds links."""
    assert "docs/benchmarks.md" in local_links(root / "README.md")


def test_the_readme_stays_short_and_opens_with_the_two_commands(root: Path) -> None:
    lines = (root / "README.md").read_text().splitlines()

    assert len(lines) < 150
    opening = "\n".join(lines[:12])
    assert "$ make demo" in opening
    assert "$ make test" in opening
