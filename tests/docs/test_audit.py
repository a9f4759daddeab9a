"""The audit of what is installed: it passes here, and finds what it is for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))

import audit_dependencies as audit  # noqa: E402


def test_every_package_has_a_licence_we_know_and_a_pin():
    done = subprocess.run([sys.executable, DOCS / "audit_dependencies.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pyfuse3" in done.stdout


@pytest.mark.parametrize("text", ["", "UNKNOWN", "GPL-3.0-only", "MIT OR Commons Clause", "AGPL-3.0-or-later", "MITX"])
def test_other_licences_are_refused(text):
    assert not audit.is_allowed(text)


def test_a_pin_that_is_missing_is_found():
    constraints = audit.CONSTRAINTS.read_text().replace("boto3==", "boto2==")
    assert audit.faults(audit.runtime(), constraints) == ["boto3: has no pin in constraints.txt"]
