"""The libraries that our parsers are compared with: large, so that only those who run the loader tests have them."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType


def require(name: str) -> ModuleType:
    """Return the module *name*; skip the test where it is not installed, except in CI, where it must be."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{name} is not installed: pip install --group loaders")
