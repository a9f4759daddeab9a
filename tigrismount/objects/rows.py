"""What botocore makes of a HEAD, as the types of our own protocol; rows of listings are ``listings``' business."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tigrismount.core.types import ObjectId
from tigrismount.errors import ObjectProtocolError
from tigrismount.objects.client import ObjectInfo, RestoredInfo
from tigrismount.objects.responses import WORD_MAX_CHARACTERS, bare_etag, is_version_id


def info_of(bucket: str, key: str, row: dict[str, Any], *, size_bytes: int) -> ObjectInfo:
    """Return the answer of a HEAD as ours.

    Raises:
        ObjectProtocolError: It is no answer of a store: nothing tells one version from another.
    """
    if size_bytes < 0:
        raise ObjectProtocolError(f"the store says that it has {size_bytes} bytes", bucket=bucket, key=key)
    modified = row.get("LastModified")
    if modified is None and not row.get("ETag"):
        detail = "the answer has neither ETag nor Last-Modified, as if it were not S3's"
        raise ObjectProtocolError(detail, bucket=bucket, key=key)
    mtime_s = modified.timestamp() if modified is not None else 0.0
    etag, storage_class = bare_etag(row.get("ETag")), row.get("StorageClass") or "STANDARD"
    if len(etag) > WORD_MAX_CHARACTERS or len(storage_class) > WORD_MAX_CHARACTERS:
        detail = "the answer has an entity tag or a storage class that is longer than any"
        raise ObjectProtocolError(detail, bucket=bucket, key=key)
    obj = ObjectId(bucket, key, etag, size_bytes)
    version_id = row.get("VersionId")
    kind = RestoredInfo if 'ongoing-request="false"' in (row.get("Restore") or "") else ObjectInfo
    return kind(
        obj if obj.cacheable else replace(obj, modified_s=int(mtime_s)),
        mtime_s=mtime_s,
        storage_class=storage_class,
        version_id=version_id if is_version_id(version_id) else None,
    )
