from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *(p for d in (".github", "docs", "examples") for p in ROOT.glob(f"{d}/**/*.md")))
    if "_build" not in page.parts
)


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    """Each page a person reads."""
    return request.param


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT
