"""Says what keeps this commit from being the release that its tag names: ``make release-check``, before it is pushed.

The number of a version stands in one place, ``tigrismount/__init__.py``, so that it is the same in a clone without
tags, in an sdist, and in an installed wheel. A release is the commit with the tag of that number, and whatever shows
it agrees: the changelog and the built files.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tigrismount import __version__

ROOT = Path(__file__).resolve().parent.parent
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Tree:
    """What is looked at."""

    version: str
    """As the code says it."""
    tags: tuple[str, ...]
    """Of this commit."""
    changelog: str
    """Whole text."""
    changed: tuple[str, ...]
    """Files that differ from the commit."""
    built: tuple[str, ...]
    """Names of the files in ``dist/``."""


def faults(tree: Tree) -> list[str]:
    """Return one line for each thing that is not as a release has it."""
    wanted = f"v{tree.version}"
    found = [f"tag {tag}: the code says {tree.version}" for tag in tree.tags if tag != wanted]
    if wanted not in tree.tags:
        found.append(f"no tag {wanted} on this commit: git tag -s {wanted}")
    if not re.fullmatch(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?", tree.version):
        found.append(f"version {tree.version}: is no X.Y.Z, X.Y.ZaN, X.Y.ZbN or X.Y.ZrcN")
    headings = _HEADING.findall(tree.changelog)
    dated = [
        title for title in headings if re.fullmatch(rf"\[?{re.escape(tree.version)}\]? - \d{{4}}-\d\d-\d\d", title)
    ]
    if not dated:
        found.append(f"CHANGELOG.md: no heading '## {tree.version} - YYYY-MM-DD'")
    if "Unreleased" in headings and _section(tree.changelog, "Unreleased"):
        found.append("CHANGELOG.md: something is still under Unreleased")
    found += [f"{name}: is not committed" for name in tree.changed]
    names = {f"tigrismount-{tree.version}-py3-none-any.whl", f"tigrismount-{tree.version}.tar.gz"}
    found += [f"dist/{name}: is missing; make clean dist" for name in sorted(names - set(tree.built))]
    found += [f"dist/{name}: is of another version; make clean dist" for name in sorted(set(tree.built) - names)]
    return found


def _section(changelog: str, title: str) -> str:
    """Return what stands under a heading."""
    return changelog.partition(f"## {title}\n")[2].partition("\n## ")[0].strip()


def _git(*arguments: str) -> tuple[str, ...]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    return tuple(done.stdout.splitlines())


def main() -> int:
    """Look at this checkout; return 0 where it may be published."""
    tree = Tree(
        version=__version__,
        tags=tuple(tag for tag in _git("tag", "--points-at", "HEAD") if tag.startswith("v")),
        changelog=(ROOT / "CHANGELOG.md").read_text(),
        changed=tuple(line[3:] for line in _git("status", "--porcelain")),
        built=tuple(sorted(path.name for path in ROOT.glob("dist/*") if path.suffix in (".whl", ".gz"))),
    )
    found = faults(tree)
    for fault in found:
        sys.stderr.write(f"release: {fault}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
