"""Known checksums of whole objects, as people write them down. Pure.

``SHA256SUMS`` (sha256sum's own lines and BSD's), ``name.sha256`` beside a file (a line, a bare sum, or a Git LFS
pointer), and names that are sums: the blobs of a Hugging Face hub cache. Whatever does not read as one of these is
no checksum, never an error: manifests come from anybody.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MANIFEST_NAMES = ("SHA256SUMS", "SHA256SUMS.txt", "sha256sums.txt", "sha256sum.txt")
"""Names of manifests, as they are found in the wild; the first one that is there counts."""
SIDECAR_SUFFIX = ".sha256"
"""What the name of a file with one other file's sum ends with."""

_LINE = re.compile(r"([0-9A-Fa-f]{64})[ \t]+[*]?(.+)")
_BSD_LINE = re.compile(r"SHA256 ?\((.+)\) ?= ?([0-9A-Fa-f]{64})")
_WHOLE = re.DOTALL | re.MULTILINE
_POINTER = re.compile(r"version https://git-lfs\.github\.com/spec/v1$.*^oid sha256:([0-9a-f]{64})$", _WHOLE)
_POINTER_MAX_CHARS = 1024
"""Git LFS takes nothing longer for a pointer; and it bounds what a hostile file can make the search cost."""
_BLOB = re.compile(r"(?:.*/)?blobs/([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class KnownChecksum:
    """What the bytes of an object should come to."""

    algorithm: str
    """``sha256``, ``sha1``, ``crc32``, ``crc32c`` or ``crc64nvme``."""
    expected: str
    """The sum in lower-case hexadecimal."""
    origin: str
    """Who says so, for messages."""


def parse_manifest(data: bytes) -> dict[str, str]:
    """Return the SHA-256 sums in a manifest by file name, as written there, without a leading ``./``.

    A file that is given two different sums has none: who refuses a model must know better than that.

    Args:
        data: The whole file.
    """
    sums: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        if match := _LINE.fullmatch(line.strip()):
            name, found = match[2], match[1].lower()
        elif match := _BSD_LINE.fullmatch(line.strip()):
            name, found = match[1], match[2].lower()
        else:
            continue
        name = name.removeprefix("./")
        sums[name] = found if sums.get(name, found) == found else ""
    return {name: found for name, found in sums.items() if found}


def parse_sidecar(data: bytes, name: str) -> str:
    """Return the SHA-256 that a file beside *name* gives for it; empty where it gives none.

    Args:
        data: The whole file.
        name: Name of the file it stands beside, without directories.
    """
    text = data.decode("utf-8", "replace").strip()
    if re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        return text.lower()
    if pointer := _POINTER.match(text[:_POINTER_MAX_CHARS]):
        return pointer[1]
    found = {known for path, known in parse_manifest(data).items() if path.rpartition("/")[2] == name}
    return found.pop() if len(found) == 1 else ""


def sum_in_name(key: str) -> str:
    """Return the SHA-256 that a key's own name is, as in a Hugging Face hub cache; empty where it is none."""
    match = _BLOB.fullmatch(key)
    return match[1] if match else ""
