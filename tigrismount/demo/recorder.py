"""What the embedded S3 server was asked: one record per request, for tests that assert counts.

A record is made *before* the first byte of the answer leaves, with the length the answer announces. So a client that
has its last byte finds everything it received in the book, and "not one byte was fetched again" can be asserted
without waiting for the server to settle. Where the body is cut on purpose, ``bytes`` still says what was announced.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import parse_qs

_KEPT_RECORDS = 200_000
"""Records kept; the oldest go first. A test makes thousands, and a forgotten server must not grow for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One answered request."""

    operation: str
    """Name as in the S3 API: ``GetObject``, ``ListObjectsV2``, …; else the HTTP method."""
    bucket: str
    """Bucket of the request, empty for the service itself."""
    key: str
    """Key of the request, empty for the bucket itself."""
    status: int
    """HTTP status of the answer; 0 when the connection was cut before any."""
    bytes: int
    """Length of the body that the answer announces."""
    range: str
    """``Range`` header, empty without."""
    if_match: str
    """``If-Match`` header, empty without."""
    query: str
    """Query string."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return asdict(self)


class Recorder:
    """The book of requests; safe to write from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: list[RequestRecord] = []

    def add(self, record: RequestRecord) -> None:
        """Append *record*."""
        with self._lock:
            self._records.append(record)
            if len(self._records) > _KEPT_RECORDS:
                del self._records[: _KEPT_RECORDS // 2]

    def clear(self) -> None:
        """Forget every record."""
        with self._lock:
            self._records.clear()

    def records(self) -> list[RequestRecord]:
        """Return the records, oldest first."""
        with self._lock:
            return list(self._records)


_BUCKET_OPERATIONS = {"GET": "ListObjects", "HEAD": "HeadBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}
_KEY_OPERATIONS = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}


def operation_of(method: str, bucket: str, key: str, query: str) -> str:
    """Return the S3 name of a request, as far as tests tell them apart; else *method* with the subresource.

    Args:
        method: HTTP method.
        bucket: Bucket, empty for the service itself.
        key: Key, empty for the bucket itself.
        query: Query string.
    """
    names = set(parse_qs(query, keep_blank_values=True)) - {"x-id", "versionId", "partNumber"}
    if not bucket:
        return "ListBuckets"
    if not key:
        if "list-type" in names:
            return "ListObjectsV2"
        listing = {"prefix", "delimiter", "marker", "max-keys", "encoding-type"}
        return _BUCKET_OPERATIONS.get(method, method) if names <= listing else f"{method}?{min(names)}"
    if names == {"uploadId"}:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload"}.get(method, method)
    if names == {"uploads"} and method == "POST":
        return "CreateMultipartUpload"
    signature = {name for name in names if name.startswith(("X-Amz-", "response-"))}
    return _KEY_OPERATIONS.get(method, method) if names <= signature else f"{method}?{min(names - signature)}"
