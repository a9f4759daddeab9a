"""What a HEAD says beyond size and version: a symbolic link's target, a checksum of the whole object.

S3 has no symbolic links. TigrisFS keeps one as an empty object with the target in the user metadata
``--symlink-target``, percent-escaped, and trees made through it (Hugging Face's hub cache) are full of them. A value
that no link can have is ignored, and the object is the empty file that it is.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

SYMLINK_METADATA = "--symlink-target"
"""User metadata in which TigrisFS keeps the target of a link."""

_CHECKSUM_BYTES = {"crc64nvme": 8, "crc32c": 4, "crc32": 4, "sha1": 20}
"""Checksums beside SHA-256 that S3 keeps, and their lengths."""

TARGET_MAX_BYTES = 4095
"""Longest target that Linux follows (PATH_MAX without its NUL)."""


def symlink_target(answer: Mapping[str, Any]) -> bytes:
    """Return the target where the answer to a HEAD describes a symbolic link, else nothing.

    Args:
        answer: As boto3 gives it.
    """
    if answer.get("ContentLength", 0) != 0:
        return b""
    value = _user_metadata(answer).get(SYMLINK_METADATA, "")
    # Header values reach us as Latin-1, whatever they were.
    target = unquote_to_bytes(value.encode("latin-1", "replace"))
    return target if len(target) <= TARGET_MAX_BYTES and b"\0" not in target else b""


def sha256_of(answer: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the whole object in hexadecimal where the answer to a HEAD names it, else nothing.

    Args:
        answer: As boto3 gives it; a checksum of an upload's parts is not the object's.
    """
    if answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        try:
            digest = base64.b64decode(answer.get("ChecksumSHA256", ""), validate=True)
        except (binascii.Error, ValueError):
            digest = b""
        if len(digest) == 32:
            return digest.hex()
    recorded = _user_metadata(answer).get("sha256", "").lower()
    return recorded if re.fullmatch(r"[0-9a-f]{64}", recorded) else ""


def checksums_of(answer: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the other checksums of the whole object that the answer to a HEAD names: algorithm and hexadecimal sum.

    Args:
        answer: As boto3 gives it; checksums of an upload's parts are not the object's.
    """
    if answer.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return ()
    found = []
    for algorithm, size_bytes in _CHECKSUM_BYTES.items():
        try:
            value = base64.b64decode(answer.get(f"Checksum{algorithm.upper()}", ""), validate=True)
        except (binascii.Error, ValueError):
            continue  # one of several parts has their number behind it
        if len(value) == size_bytes:
            found.append((algorithm, value.hex()))
    return tuple(found)


def _user_metadata(answer: Mapping[str, Any]) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.get("Metadata", {}).items()}
