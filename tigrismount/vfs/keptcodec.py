"""The bytes of kept names: a page of a listing, or what one name stands for, as small as they can cheaply be.

Compressed JSON behind a byte that names the format: keys without the directory they lie in, and nothing for what most
rows have not. A thousand rows take some 40 KiB, most of it entity tags. Bytes that are not this are a ``ValueError``.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

from tigrismount.core.types import ObjectId
from tigrismount.objects.client import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tigrismount.core.inodes import VersionInfo
    from tigrismount.core.names import DirectoryKey

_FORMAT = b"\x01"
_LEVEL = 1
"""Entity tags do not compress better for more effort."""

_STANDARD = "STANDARD"
_ALWAYS = 4
"""Columns that every row has: key, entity tag, size, modification time."""
_USUAL = ("", 0, None, None, "")
"""What most rows have in the columns behind them, where it is left out."""


def encode_page(where: DirectoryKey, objects: Sequence[VersionInfo], prefixes: Sequence[str], *, more: bool) -> bytes:
    """Return the bytes of one page.

    Args:
        where: The directory.
        objects: Keys of the page.
        prefixes: Rolled-up prefixes of the page.
        more: Whether a page follows.
    """
    start = len(where.prefix)
    return _pack([[_row(info, start) for info in objects], [prefix[start:] for prefix in prefixes], int(more)])


def decode_page(where: DirectoryKey, data: bytes) -> tuple[list[ObjectInfo], list[str], bool]:
    """Return what ``encode_page`` was given.

    Raises:
        ValueError: *data* is something else.
    """
    value = _unpack(data)
    try:
        rows, suffixes, more = value
        return [_info(where, row) for row in rows], [where.prefix + suffix for suffix in suffixes], bool(more)
    except (AttributeError, IndexError, TypeError, ValueError) as exc:
        raise ValueError("not a page of names") from exc


def encode_name(where: DirectoryKey, info: VersionInfo | None, *, there: bool) -> bytes:
    """Return the bytes of what one name stands for.

    Args:
        where: The directory it is in.
        info: The object version; None for a directory.
        there: Whether there is such a name.
    """
    return _pack([int(there), None if info is None else _row(info, len(where.prefix))])


def decode_name(where: DirectoryKey, data: bytes) -> tuple[ObjectInfo | None, bool]:
    """Return what ``encode_name`` was given.

    Raises:
        ValueError: *data* is something else.
    """
    value = _unpack(data)
    try:
        there, row = value
        return None if row is None else _info(where, row), bool(there)
    except (AttributeError, IndexError, TypeError, ValueError) as exc:
        raise ValueError("not a name") from exc


def _row(info: VersionInfo, start: int) -> list[Any]:
    """Return a version as a list, without the values at its end that are the usual ones."""
    obj, target = info.id, info.symlink_target
    row: list[Any] = [
        obj.key[start:],
        obj.etag,
        obj.size_bytes,
        info.mtime_s,
        "" if info.storage_class == _STANDARD else info.storage_class,
        obj.modified_s,
        None if target is None else target.decode("latin-1"),
        info.version_id,
        info.sha256,
    ]
    while len(row) > _ALWAYS and row[-1] == _USUAL[len(row) - _ALWAYS - 1]:
        row.pop()
    return row


def _info(where: DirectoryKey, row: list[Any]) -> ObjectInfo:
    columns: list[Any] = row + list(_USUAL[len(row) - _ALWAYS :])
    key, etag, size_bytes, mtime_s, storage_class, modified_s, target, version_id, sha256 = columns
    return ObjectInfo(
        ObjectId(where.bucket, where.prefix + key, etag, size_bytes, modified_s),
        mtime_s,
        storage_class or _STANDARD,
        version_id,
        None if target is None else target.encode("latin-1"),
        sha256,
    )


def _pack(value: Any) -> bytes:
    return _FORMAT + zlib.compress(json.dumps(value, separators=(",", ":")).encode(), _LEVEL)


def _unpack(data: bytes) -> Any:
    if data[:1] != _FORMAT:
        raise ValueError("another format")
    try:
        return json.loads(zlib.decompress(data[1:]))
    except (zlib.error, RecursionError) as exc:
        raise ValueError("not compressed data") from exc
