"""What botocore makes of a listing or a HEAD, as the types of our own protocol."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tigrismount.core.types import ObjectId
from tigrismount.errors import ObjectProtocolError
from tigrismount.objects.client import ListPage, ObjectInfo
from tigrismount.objects.responses import bare_etag

if TYPE_CHECKING:
    from tigrismount.objects.responses import Target


def page_of(answer: dict[str, Any], query: dict[str, Any], target: Target) -> ListPage:
    """Return a parsed listing; anything that is not one must not pass for an empty bucket."""
    if "IsTruncated" not in answer:
        detail = f"{target.endpoint_url} answered a listing with something else: is it an S3 endpoint?"
        raise ObjectProtocolError(detail, bucket=target.bucket)
    token = answer.get("NextContinuationToken") if answer["IsTruncated"] else None
    if answer["IsTruncated"] and (not token or token == query.get("ContinuationToken")):
        raise ObjectProtocolError("the listing says there is more but not where to go on", bucket=target.bucket)
    bucket = query["Bucket"]
    rows = answer.get("Contents", ())
    return ListPage(
        tuple(info_of(bucket, row["Key"], row, size_bytes=row["Size"]) for row in rows),
        tuple(row["Prefix"] for row in answer.get("CommonPrefixes", ())),
        token,
    )


def info_of(bucket: str, key: str, row: dict[str, Any], *, size_bytes: int) -> ObjectInfo:
    """Return the answer of a HEAD, or a row of a listing, as ours."""
    if size_bytes < 0:
        raise ObjectProtocolError(f"the store says that it has {size_bytes} bytes", bucket=bucket, key=key)
    modified = row.get("LastModified")
    mtime_s = modified.timestamp() if modified is not None else 0.0
    obj = ObjectId(bucket, key, bare_etag(row.get("ETag")), size_bytes)
    return ObjectInfo(
        obj if obj.cacheable else replace(obj, modified_s=int(mtime_s)),
        mtime_s=mtime_s,
        storage_class=row.get("StorageClass") or "STANDARD",
        version_id=row.get("VersionId"),
    )
