"""Whether Python finds its modules compiled, or compiles them anew in each process that it starts.

pip compiles what it installs; uv does not unless it is told to, and a daemon that may not write beside the sources, or
was told not to (``PYTHONDONTWRITEBYTECODE``), never makes up for it.

Source: Python's reference on the import system (cached bytecode invalidation); PEP 552 for the bytes of a file.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tigrismount.doctor.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGES = ("tigrismount", "boto3", "botocore", "urllib3", "trio")
"""What most of a start goes to."""
_HEADER_BYTES = 16


def check_bytecode(packages: Sequence[str] = PACKAGES) -> Finding:
    """Return whether each start has to compile.

    Args:
        packages: Names of what is imported.
    """
    slow = [directory for directory in map(_directory, packages) if directory is not None and not _is_ready(directory)]
    if not slow:
        return Finding("start-up", "pass", "Python finds its modules compiled")
    detail = f"each start, and each takeover, compiles anew what lies in {slow[0]}"
    more = f" and {len(slow) - 1} other directories" if len(slow) > 1 else ""
    remedy = f"as their owner: {shlex.quote(sys.executable)} -m compileall -q {shlex.join(map(str, slow))}"
    return Finding("start-up", "warn", f"{detail}{more}: up to a second longer", remedy)


def _directory(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _is_ready(directory: Path) -> bool:
    """Tell whether all modules are compiled, or will be in passing."""
    if not sys.dont_write_bytecode and os.access(directory, os.W_OK):
        return True
    return all(map(is_compiled, directory.glob("*.py")))


def is_compiled(source: Path) -> bool:
    """Tell whether this interpreter takes the bytecode that is there for *source*."""
    try:
        with open(importlib.util.cache_from_source(str(source)), "rb") as file:
            header = file.read(_HEADER_BYTES)
        facts = source.stat()
    except (OSError, NotImplementedError):  # the latter where the interpreter keeps none
        return False
    if header[:4] != importlib.util.MAGIC_NUMBER:
        return False
    by_hash = int.from_bytes(header[4:8], "little") & 1
    words = [int.from_bytes(header[8:12], "little"), int.from_bytes(header[12:16], "little")]
    return bool(by_hash) or words == [int(facts.st_mtime) & 0xFFFFFFFF, facts.st_size & 0xFFFFFFFF]
