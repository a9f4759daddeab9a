"""Bodies that are no object's bytes, each as long as an honest one may be.

botocore reads whatever comes to its end before anybody looks at it, and the endpoint of a volume may be anybody's: an
answer that goes on for ever would take all the memory there is, and the mounts beside this one with it. So botocore's
session is asked for every body as a stream, and gives on no more than the bound of its kind. What is short can still
grow when it is parsed: by elements of four bytes and attributes of six, which are objects of a hundred and more, and by
entities, which stand for as many as they like. The former are counted, and nothing of S3's declares the latter.

A listing beyond its bound is a wrong answer. An error beyond it is judged by its status: a page of somebody's on the
way may be of any length.

Source: Amazon S3 API reference, ListObjectsV2: a thousand rows, keys of 1,024 bytes, 2 KB of user metadata.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTING_BYTES = 32 << 20
"""A page of a listing, or of buckets: keys and metadata of a thousand rows, all of it escaped, take half of that."""
CONTENT_LISTING_BYTES = 64 << 20
"""The same where Tigris was asked for the bytes of small objects: 18 KB at most in each row, in base64, beside it."""
ERROR_BYTES = 256 << 10
"""An error: the longest of S3's say a request's headers twice, once as numbers, which is an eighth of that."""
TAGS_MAX = 1 << 20
"""Tags in a body, of which a thousand rows with a hundred metadata each have 600,000."""

ATTRIBUTES_MAX = 1 << 20
"""Attributes: S3 has few, and were all user metadata of a thousand rows made of what looks like one, it held fewer."""

_ATTRIBUTE = re.compile(rb"=\s*[\"']")
_CONTENT_WANTED = "X-Tigris-List-Content"
_DECLARATION = b"<!DOCTYPE"


class ForeignBodyError(Exception):
    """A body is nothing that S3 answers; the text says why."""


def bound_bodies(client: Any) -> None:
    """Let a boto3 client read bodies up to their bounds, except for those of objects."""
    session = client._endpoint.http_session
    send = session.send

    def send_bounded(request: Any) -> Any:
        is_stream, request.stream_output = request.stream_output, True
        answer = send(request)
        if answer.status_code >= 300:
            answer.raw = _Bounded(answer.raw, ERROR_BYTES, is_error=True)
        elif not is_stream:
            limit_bytes = CONTENT_LISTING_BYTES if _CONTENT_WANTED in request.headers else LISTING_BYTES
            answer.raw = _Bounded(answer.raw, limit_bytes, is_error=False)
        if not is_stream:
            _ = answer.content  # here, as the session itself does where no stream is wanted
        return answer

    session.send = send_bounded


class _Bounded:
    """The body of one answer; what botocore wants of urllib3's.

    Args:
        raw: urllib3's.
        limit_bytes: Most bytes.
        is_error: Whether a body that is nothing of S3's may as well be none.
    """

    def __init__(self, raw: Any, limit_bytes: int, *, is_error: bool) -> None:
        self._raw = raw
        self._limit_bytes = limit_bytes
        self._is_error = is_error

    def stream(self) -> Iterator[bytes]:
        """Yield the body.

        Raises:
            ForeignBodyError: It is nothing that S3 answers.
            Exception: Whatever urllib3 raises.
        """
        try:
            yield self._read()
        except ForeignBodyError:
            if not self._is_error:
                raise

    def _read(self) -> bytes:
        pieces: list[bytes] = []
        count = 0
        for piece in self._raw.stream():
            count += len(piece)
            if count > self._limit_bytes:
                self._raw.close()  # with the connection, as the rest is still on the way
                raise ForeignBodyError(f"it has more than {self._limit_bytes:,} bytes")
            pieces.append(piece)
        body = b"".join(pieces)
        if body.count(b"<") > TAGS_MAX:
            raise ForeignBodyError(f"it has more than {TAGS_MAX:,} tags")
        if body.count(b"=") > ATTRIBUTES_MAX and any(islice(_ATTRIBUTE.finditer(body), ATTRIBUTES_MAX, None)):
            raise ForeignBodyError(f"it has more than {ATTRIBUTES_MAX:,} attributes")
        if _DECLARATION in body:
            raise ForeignBodyError("it declares a document type")
        return body
