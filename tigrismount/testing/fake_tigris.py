"""Tigris as a mount sees it, in memory: versions in time, snapshots, its own headers, and its quirks.

What it does beyond plain S3, and what tests use it for:

- objects have a history, and ``X-Tigris-Snapshot-Version`` on GET, HEAD and LIST reads it at any nanosecond, in
  buckets that keep snapshots; in others the header means nothing;
- in such buckets ``versionId`` on GET and HEAD reads any version, and answers name the id of theirs;
- ``ListBuckets`` with ``X-Tigris-Snapshot`` lists snapshots, ``HeadBucket`` tells whether there can be any;
- a *lagging* key shows its version before the last to everybody who does not send ``X-Tigris-Consistent: true``: a
  GET with ``If-Match`` then ends in 412, as from a region that has not heard of the write;
- asked with ``X-Tigris-List-Content: true``, a listing carries the bytes of tiny objects, and asked with
  ``X-Tigris-List-Metadata: true`` the user metadata of all, where the test lets it;
- a 304 has no ETag;
- keys are accepted or refused by their id, with the code of the test's choice; signatures are not computed.

Source: Tigris documentation, "Snapshots and forks", "Consistency"; quirks as observed by its own test suites.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import quote
from xml.sax.saxutils import escape

from tigrismount.testing.fake_http import HttpAnswer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tigrismount.testing.fake_http import HttpRequest

_SECOND_NS = 10**9
_INLINED_BYTES = 16 << 10
_EMPTY = {"Content-Length": "0"}


@dataclass(frozen=True, slots=True)
class _Version:
    """What a key held from a moment on."""

    from_ns: int
    body: bytes | None
    """None once it was deleted."""
    metadata: tuple[tuple[str, str], ...] = ()
    """User metadata."""

    @property
    def etag(self) -> str:
        return hashlib.md5(self.body or b"", usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class _Bucket:
    snapshots_kept: bool
    public: bool
    history: dict[str, list[_Version]] = field(default_factory=dict)
    snapshots: list[tuple[int, str]] = field(default_factory=list)


class FakeTigris:
    """A store whose ``answer`` is served by ``fake_http.serving``.

    Attributes:
        requests: Every request, oldest first.
        keys: Ids of the keys that are accepted.
        refusal: Status and S3 code for other keys.
        lagging: Keys of objects whose last version is not everywhere yet.
        page_size: Most rows of a listing.
        lists_metadata: Whether listings carry user metadata when asked to.
    """

    def __init__(self, *keys: str) -> None:
        self.requests: list[HttpRequest] = []
        self.keys = set(keys)
        self.refusal = (403, "InvalidAccessKeyId")
        self.lagging: set[str] = set()
        self.page_size = 1000
        self.lists_metadata = True
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()
        self._moment_ns = 0

    # -- what tests do -----------------------------------------------------------------------------------------

    def create_bucket(self, name: str, *, snapshots: bool = True, public: bool = False) -> None:
        """Make a bucket; a public one is read, but not listed, by everybody."""
        self._buckets[name] = _Bucket(snapshots, public)

    def put(self, bucket: str, key: str, body: bytes, metadata: Mapping[str, str] | None = None) -> str:
        """Store an object, with user metadata, and return its ETag."""
        version = _Version(self._tick_ns(), body, tuple((metadata or {}).items()))
        self._buckets[bucket].history.setdefault(key, []).append(version)
        return version.etag

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object."""
        self._buckets[bucket].history[key].append(_Version(self._tick_ns(), None))

    def purge(self, bucket: str, key: str) -> None:
        """Delete every version of an object but the last one."""
        del self._buckets[bucket].history[key][:-1]

    def take_snapshot(self, bucket: str, name: str = "") -> str:
        """Take a snapshot and return its version."""
        moment_ns = self._tick_ns()
        self._buckets[bucket].snapshots.append((moment_ns, name))
        return str(moment_ns)

    def operations(self, operation: str) -> list[HttpRequest]:
        """Return the requests of one kind so far."""
        return [request for request in self.requests if request.operation == operation]

    # -- what clients see --------------------------------------------------------------------------------------

    def answer(self, request: HttpRequest) -> HttpAnswer:
        """Answer one request."""
        with self._lock:
            self.requests.append(request)
            reply = self._answer(request)
        reply.headers |= {"Server": "Tigris OS", "Date": formatdate(time.time(), usegmt=True)}
        return reply

    def _answer(self, request: HttpRequest) -> HttpAnswer:
        bucket = self._buckets.get(request.bucket)
        if refusal := self._refusal(request, bucket):
            return error_answer(*refusal)
        if not request.bucket:
            return self._list_buckets(request)
        if request.operation == "CreateBucket":
            return self._create_bucket(request, bucket)
        if bucket is None:
            return error_answer(404, "NoSuchBucket")
        if request.operation == "HeadBucket":
            kept = "true" if bucket.snapshots_kept else "false"
            return HttpAnswer(200, {"X-Tigris-Enable-Snapshot": kept, **_EMPTY})
        if request.operation == "ListObjectsV2":
            return self._list_objects(request, bucket)
        if request.operation == "PutObject":
            return HttpAnswer(200, {"ETag": f'"{self.put(request.bucket, request.key, request.body)}"', **_EMPTY})
        return self._object(request, bucket)

    def _refusal(self, request: HttpRequest, bucket: _Bucket | None) -> tuple[int, str] | None:
        if request.access_key:
            return None if request.access_key in self.keys else self.refusal
        return None if request.key and bucket is not None and bucket.public else (403, "AccessDenied")

    def _create_bucket(self, request: HttpRequest, bucket: _Bucket | None) -> HttpAnswer:
        """Make a bucket, or take a snapshot of one that there is: Tigris has one request for both."""
        if bucket is None:
            self.create_bucket(request.bucket, snapshots=request.headers.get("x-tigris-enable-snapshot") == "true")
            return HttpAnswer(200, dict(_EMPTY))
        asked, _, name = request.headers.get("x-tigris-snapshot", "").partition("; name=")
        if asked != "true" or not bucket.snapshots_kept:
            return HttpAnswer(200, dict(_EMPTY))
        return HttpAnswer(200, {"X-Tigris-Snapshot-Version": self.take_snapshot(request.bucket, name), **_EMPTY})

    def _list_buckets(self, request: HttpRequest) -> HttpAnswer:
        subject = self._buckets.get(request.headers.get("x-tigris-snapshot", ""))
        names = list(self._buckets)
        if subject is not None:
            names = [f"{moment}; name={name}" if name else str(moment) for moment, name in subject.snapshots]
        date = "<CreationDate>2026-07-01T00:00:00.000Z</CreationDate>"
        rows = "".join(f"<Bucket><Name>{escape(name)}</Name>{date}</Bucket>" for name in names)
        return xml_answer(f"<ListAllMyBucketsResult><Buckets>{rows}</Buckets></ListAllMyBucketsResult>")

    def _list_objects(self, request: HttpRequest, bucket: _Bucket) -> HttpAnswer:
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
        after = request.query.get("continuation-token", request.query.get("start-after", ""))
        limit = min(int(request.query.get("max-keys", "1000")), self.page_size)
        rows: dict[str, str] = {}
        for key in sorted(bucket.history, key=lambda text: text.encode("utf-8", "surrogateescape")):
            version = self._version(request, bucket, key)
            if version is None or not key.startswith(prefix):
                continue
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key[: cut + 1] if cut >= 0 else key
            if name > after:
                rows.setdefault(name, _prefix_row(name) if cut >= 0 else self._object_row(request, name, version))
        shown = list(rows)[:limit]
        more = len(rows) > limit
        token = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        body = "".join(rows[name] for name in shown)
        return xml_answer(
            f"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{body}</ListBucketResult>"
        )

    def _object_row(self, request: HttpRequest, name: str, version: _Version) -> str:
        inlined = request.headers.get("x-tigris-list-content") == "true"
        told = self.lists_metadata and request.headers.get("x-tigris-list-metadata") == "true"
        return _object_row(name, version, inlined=inlined, metadata=version.metadata if told else ())

    def _object(self, request: HttpRequest, bucket: _Bucket) -> HttpAnswer:
        version_id = request.query.get("versionId", "") if bucket.snapshots_kept else ""
        if version_id:
            history = bucket.history.get(request.key, [])
            version = next((version for version in history if str(version.from_ns) == version_id), None)
        else:
            version = self._version(request, bucket, request.key)
        if version is None or version.body is None:
            return error_answer(404, "NoSuchVersion" if version_id else "NoSuchKey")
        etag = f'"{version.etag}"'
        if request.headers.get("if-match", etag) != etag:
            return error_answer(412, "PreconditionFailed")
        if request.headers.get("if-none-match") == etag:
            return HttpAnswer(304)
        reply = object_answer(request, version.etag, version.from_ns // _SECOND_NS, version.body)
        if bucket.snapshots_kept:
            reply.headers["x-amz-version-id"] = str(version.from_ns)
        reply.headers |= {f"x-amz-meta-{name}": value for name, value in version.metadata}
        return reply

    def _version(self, request: HttpRequest, bucket: _Bucket, key: str) -> _Version | None:
        """Return the version of *key* that *request* sees, None where it sees none."""
        history = bucket.history.get(key, [])
        moment = request.headers.get("x-tigris-snapshot-version") if bucket.snapshots_kept else None
        if moment is not None:
            history = [version for version in history if version.from_ns <= int(moment)]
        elif key in self.lagging and request.headers.get("x-tigris-consistent") != "true":
            history = history[:-1]
        return history[-1] if history and history[-1].body is not None else None

    def _tick_ns(self) -> int:
        """Return the present moment; no two are equal."""
        self._moment_ns = max(time.time_ns(), self._moment_ns + 1)
        return self._moment_ns


def object_answer(request: HttpRequest, etag: str, modified_s: int, body: bytes) -> HttpAnswer:
    """Return the answer to a GET or HEAD of an object, with the range that was asked for."""
    headers = {"ETag": f'"{etag}"', "Last-Modified": formatdate(modified_s, usegmt=True), "Accept-Ranges": "bytes"}
    status, wanted = 200, request.headers.get("range", "")
    if wanted and request.method == "GET":
        first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
        if first >= len(body):
            return error_answer(416, "InvalidRange")
        last = min(last, len(body) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        status, body = 206, body[first : last + 1]
    return HttpAnswer(status, {**headers, "Content-Length": str(len(body))}, body)


def error_answer(status: int, code: str) -> HttpAnswer:
    """Return an S3 error."""
    reply = xml_answer(f"<Error><Code>{code}</Code><Message>said the fake</Message></Error>")
    return HttpAnswer(status, reply.headers, reply.body)


def xml_answer(text: str) -> HttpAnswer:
    """Return an XML document."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()
    return HttpAnswer(200, {"Content-Type": "application/xml", "Content-Length": str(len(body))}, body)


def _prefix_row(name: str) -> str:
    return f"<CommonPrefixes><Prefix>{_url(name)}</Prefix></CommonPrefixes>"


def _object_row(name: str, version: _Version, *, inlined: bool, metadata: Iterable[tuple[str, str]]) -> str:
    body = version.body or b""
    data = f"<Data>{base64.b64encode(body).decode()}</Data>" if inlined and len(body) <= _INLINED_BYTES else ""
    data += "".join(
        f"<Metadata><Name>{escape(key)}</Name><Value>{escape(value)}</Value></Metadata>" for key, value in metadata
    )
    modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(version.from_ns // _SECOND_NS))
    return (
        f"<Contents><Key>{_url(name)}</Key><LastModified>{modified}</LastModified><ETag>&quot;{version.etag}&quot;</ETag>"
        f"<Size>{len(body)}</Size><StorageClass>STANDARD</StorageClass>{data}</Contents>"
    )


def _url(name: str) -> str:
    return quote(name, errors="surrogateescape")
