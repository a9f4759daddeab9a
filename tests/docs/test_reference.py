"""The reference pages say what the code does."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


@pytest.fixture
def generator(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_reference", root / "docs" / "generate_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date(generator: ModuleType) -> None:
    stale = [path.name for path, text in generator.pages().items() if path.read_text() != text]

    assert stale == [], "run make reference"


def test_every_option_is_in_the_configuration_page(generator: ModuleType, root: Path) -> None:
    page = (root / "docs" / "reference" / "config.md").read_text()

    assert [option.name for option in generator.OPTIONS if f"`--{option.name}" not in page] == []
