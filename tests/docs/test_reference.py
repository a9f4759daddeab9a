"""The reference pages say what the code does."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
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


def test_the_manual_page_has_every_command_and_option(generator: ModuleType) -> None:
    page = generator.MAN_PAGE.read_text().replace("\\-", "-")

    assert [option.name for option in generator.OPTIONS if f"\n.B --{option.name}" not in page] == []
    assert "\n.SS tigrismount cache evict\n" in page
    assert "\n.SS tigrismount status\n" in page


def test_the_manual_page_of_the_helper_has_every_option_and_status(generator: ModuleType) -> None:
    page = generator.HELPER_PAGE.read_text().replace("\\-", "-")

    assert [option.key for option in generator.OPTIONS if f"\n.B {option.key}" not in page] == []
    assert "\n.B 32\n" in page
    assert "_netdev" in page


@pytest.mark.parametrize(("page", "said"), [("MAN_PAGE", "tigrismount status"), ("HELPER_PAGE", "mount -t tigris")])
def test_a_manual_page_can_be_set_without_a_warning(generator: ModuleType, page: str, said: str) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not installed")
    arguments = [groff, "-man", "-Kutf8", "-Tutf8", "-ww", "-rLL=80n", str(getattr(generator, page))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)

    assert done.stderr == ""
    assert said in done.stdout


def test_nothing_in_a_text_is_a_request_to_groff(generator: ModuleType) -> None:
    assert generator.roff(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert generator.roff("\\fB--x") == "\\efB\\-\\-x"
