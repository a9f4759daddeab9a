"""What an installation runs besides our own code: the licence of each package, and a pin for each.

``make licences`` fails on a licence that nobody has agreed to, and on a package without a pin in ``constraints.txt``,
which images are built with. ``--write`` pins what is installed here. Nothing is asked of the network.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ALLOWED = re.compile(
    r"(Apache([- ]Software)?([- ]License)?,?( Version)?[- ]?(2(\.0)?)?"
    r"|(3-Clause )?BSD([- ]\d-Clause)?( License)?|MIT(-0| License)?"
    r"|OLDAP-2\.8|LGPL-2\.1-or-later|PSF-2\.0|Zlib|Dual License)"
)
"""Permissive licences, and the LGPL of pyfuse3, which is a library of its own that anybody can exchange."""
PROJECT = Path(__file__).parent.parent / "pyproject.toml"
CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
HEADER = "# What the image is built with: pip install -c constraints.txt. Made by: docs/audit_dependencies.py --write\n"


def runtime() -> dict[str, metadata.Distribution]:
    """Return what the image runs, directly or not, by normalised name: the package and its extra ``csi``."""
    found: dict[str, metadata.Distribution] = {}
    project = tomllib.loads(PROJECT.read_text())["project"]
    todo = _names([*project["dependencies"], *project["optional-dependencies"]["csi"]])
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        # A marker with a version or a platform is for another interpreter: what is not installed is not needed here.
        needed = _names(need for need in found[name].requires or () if "extra ==" not in need)
        todo += [name for name in needed if _is_installed(name)]
    return dict(sorted(found.items()))


def _names(requirements: Iterable[str]) -> list[str]:
    return [match[0] for match in map(re.compile(r"[\w.-]+").match, requirements) if match is not None]


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def licence(distribution: metadata.Distribution) -> str:
    """Return the licence that a package says it has, in its own words."""
    about = distribution.metadata
    classified = [line for line in about.get_all("Classifier", []) if line.startswith("License :: OSI Approved ::")]
    said = about.get("License-Expression") or about.get("License") or ""
    return said if said and "\n" not in said else " OR ".join(line.rpartition(":: ")[2] for line in classified)


def is_allowed(text: str) -> bool:
    """Tell whether somebody has agreed to every licence that *text* names."""
    return bool(text) and all(ALLOWED.fullmatch(part) for part in re.split(r" (?:OR|AND) ", text))


def faults(packages: dict[str, metadata.Distribution], constraints: str) -> list[str]:
    """Return what is wrong, a line each."""
    pinned = dict(line.split("==", 1) for line in constraints.splitlines() if "==" in line)
    strange = [f"{name}: licence {licence(of)!r} is on no list" for name, of in packages.items() if not _is_agreed(of)]
    return strange + [f"{name}: has no pin in constraints.txt" for name in packages if name not in pinned]


def _is_agreed(distribution: metadata.Distribution) -> bool:
    return is_allowed(licence(distribution))


def main() -> int:
    """Print every package with its licence; return 1 where something is wrong."""
    packages = runtime()
    if "--write" in sys.argv:
        CONSTRAINTS.write_text(HEADER + "".join(f"{name}=={of.version}\n" for name, of in packages.items()))
    for name, of in packages.items():
        sys.stdout.write(f"{name:20} {of.version:14} {licence(of)}\n")
    found = faults(packages, CONSTRAINTS.read_text())
    for line in found:
        sys.stderr.write(f"audit: {line}\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
