"""The workflows, read and not run."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PYTHON_OF = {"bookworm": "3.11", "trixie": "3.13"}
"""Debian's releases and the Python that each has."""


def test_the_units_are_tested_with_the_python_of_the_root_tree():
    """Mutation: the runner's own is another one, each test of the units is skipped, and the job is green."""
    (suite,) = re.findall(r"--include=systemd,\S+ \\\n\s+(\w+) \$@", (ROOT / "Makefile").read_text())
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())
    steps = workflow["jobs"]["systemd"]["steps"]
    wanted = PYTHON_OF[suite]
    assert [step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", "")] == [wanted]
    (command,) = [step["run"] for step in steps if "make test-systemd" in step.get("run", "")]
    assert f'PYTHON="$(command -v python{wanted})"' in command
