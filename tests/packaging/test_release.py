"""What would be published under a tag is what the tag says."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import check_release  # noqa: E402

READY = check_release.Tree(
    version="1.2.3",
    tags=("v1.2.3",),
    changelog="# Changelog\n\n## Unreleased\n\n## 1.2.3 - 2027-01-02\n\n- Something.\n",
    changed=(),
    built=("tigrismount-1.2.3-py3-none-any.whl", "tigrismount-1.2.3.tar.gz"),
)


def test_a_release_that_agrees_with_its_tag_has_no_fault():
    assert check_release.faults(READY) == []
    first = "# Changelog\n\n## 1.2.3 - 2027-01-02\n\n- Something.\n"
    assert check_release.faults(dataclasses.replace(READY, changelog=first)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tags": ()}, "no tag v1.2.3"),
        ({"tags": ("v1.2.3", "v1.2.4")}, "tag v1.2.4: the code says 1.2.3"),
        ({"changelog": "## Unreleased\n\n- Something.\n"}, "no heading '## 1.2.3"),
        ({"changelog": READY.changelog.replace("## Unreleased\n", "## Unreleased\n\n- New.\n")}, "under Unreleased"),
        ({"changed": ("README.md",)}, "README.md: is not committed"),
        ({"built": ()}, "dist/tigrismount-1.2.3.tar.gz: is missing"),
        ({"built": (*READY.built, "tigrismount-1.2.2.tar.gz")}, "1.2.2.tar.gz: is of another version"),
    ],
)
def test_whatever_does_not_agree_is_named(changes, said):
    found = check_release.faults(dataclasses.replace(READY, **changes))
    assert any(said in fault for fault in found)


def test_a_version_that_no_index_takes_is_named():
    odd = dataclasses.replace(READY, version="1.2.3-final", tags=("v1.2.3-final",))
    assert any("is no X.Y.Z" in fault for fault in check_release.faults(odd))


def test_a_tag_on_this_commit_is_that_of_the_version():
    """In a clone without tags, and in an sdist, there is nothing to disagree with."""
    command = ["git", "tag", "--points-at", "HEAD"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if shown.returncode != 0:
        pytest.skip("this is no clone, or not ours to ask")
    tags = [tag for tag in shown.stdout.split() if tag.startswith("v")]
    assert tags in ([], [f"v{check_release.__version__}"])
