"""What an answer of the store means: is it the range that was asked for, and if it is an error, which of ours.

Nothing a store or a proxy says is believed. Gateways ignore ``If-Match`` on a cache hit, stores answer 200 to a range
request, proxies have answered 206 with another client's range; each would put wrong bytes under a right name. So an
answer counts only if status, entity tag, ``Content-Range`` and length all fit. Pure functions on numbers and headers
(names in lower case), so that every lie can be tested without a server.

Source: RFC 9110 sections 8.8.3 (entity tags), 14.4 (Content-Range), 15.3.7 (206); Amazon S3 API, "Error responses".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING, Any

from tigrismount.errors import (
    ObjectAccessError,
    ObjectArchivedError,
    ObjectError,
    ObjectKeyError,
    ObjectNotFoundError,
    ObjectProtocolError,
    ObjectUnavailableError,
    ObjectUnsaidError,
    SlowDownError,
    StaleObjectError,
)
from tigrismount.objects.endpoints import is_amazon

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tigrismount.core.types import ObjectId

_EMPTY_ETAGS = frozenset({"d41d8cd98f00b204e9800998ecf8427e", "59adb24ef3cdbe0297f05b395827453f-1"})
"""Entity tags of no bytes: put at once, and as an upload of one part."""

WORD_MAX_CHARACTERS = 512
"""Longest entity tag or storage class that is one: kept for each of a quarter of a million names. S3's have 40."""
VERSION_ID_MAX_CHARACTERS = 1024
"""As Amazon has it."""

HEAD_REFUSED = "HeadRefused"
"""Our own code for status 400 to a HEAD: it is S3's for a token that has expired, and no body can say so there. To any
other request a 400 without a code is somebody's on the way, as it may be here: the next answer may be another."""

NOT_THE_STORE = "NotTheStore"
"""Our own code for status 404 without a code to anything but a HEAD: S3 says there what is missing. Who does not is a
gateway on the way that knows no store, be it for the seconds in which the store is started anew."""

_FRAMINGS = frozenset({"", "identity", "chunked"})
"""Values of ``Transfer-Encoding`` behind which ``http.client`` finds the body. Of all others, as "gzip, chunked", or
"chunked" and a blank, it gives the frames for bytes of the object."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Target:
    """What a request was about, for error messages."""

    endpoint_url: str
    """Base URL of the store."""
    key_source: str
    """Where the access key came from."""
    bucket: str
    """Bucket asked for."""
    key: str = ""
    """Key asked for, empty for listings."""


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An answer that is an error, as the store gave it."""

    status: int
    """HTTP status."""
    code: str
    """S3 error code; the status as text where the body had none."""
    message: str
    """The store's own words."""
    headers: Mapping[str, str]
    """Headers, names in lower case."""


def bare_etag(value: str | None) -> str:
    """Return an entity tag without quotes, ``W/`` kept in front of weak ones, empty for none."""
    text = (value or "").strip()
    weak = text.startswith("W/")
    return ("W/" if weak else "") + text.removeprefix("W/").strip('"')


def is_version_id(value: str | None) -> bool:
    """Tell whether an answer names a version, and by a name that one can have."""
    return bool(value) and len(value or "") <= VERSION_ID_MAX_CHARACTERS


def object_size_bytes(answer: Mapping[str, Any], target: Target) -> int:
    """Return the size that a HEAD tells.

    TAG leaves ``Content-Length`` out for an empty object that it has cached. Anywhere else a missing length is no zero:
    the file would be silently short.

    Args:
        answer: botocore's, with the parsed ``ContentLength`` and ``ETag``.
        target: What was asked for.

    Raises:
        ObjectProtocolError: It tells none.
    """
    size_bytes = answer.get("ContentLength")
    if size_bytes is None and bare_etag(answer.get("ETag")) in _EMPTY_ETAGS:
        return 0
    if not isinstance(size_bytes, int):
        raise ObjectProtocolError("the answer has no Content-Length", bucket=target.bucket, key=target.key)
    return size_bytes


def check_range_answer(status: int, headers: Mapping[str, str], obj: ObjectId, start: int, stop: int) -> None:
    """Return if the body that follows begins with bytes ``[start, stop)`` of exactly the version *obj*.

    Status 200 is accepted with a right ``Content-Range`` (some stores answer so), and for a range from byte 0 when
    the body is the whole object, by its length: Google's store ignores ranges where it unpacks what it has as gzip, and
    says no length then.

    Args:
        status: HTTP status, not an error.
        headers: Headers, names in lower case.
        obj: Version asked for; without a strong ETag, time of modification and size must do.
        start: First byte asked for.
        stop: One past the last byte asked for.

    Raises:
        StaleObjectError: The answer is about another version.
        ObjectProtocolError: The answer is not the range that was asked for.
    """
    _check_etag(headers, obj)
    _check_modified(headers, obj)
    content_range = headers.get("content-range")
    if content_range is not None and status in {200, 206}:
        _check_content_range(content_range, obj, start, stop)
        expected_bytes = stop - start
    elif status == 200 and start == 0:
        expected_bytes = obj.size_bytes
    else:
        detail = "the store ignores ranges" if status == 200 else f"status {status} without the range"
        raise ObjectProtocolError(f"asked for bytes {start}-{stop - 1}: {detail}", bucket=obj.bucket, key=obj.key)
    _check_length(headers, obj, expected_bytes)


def _check_etag(headers: Mapping[str, str], obj: ObjectId) -> None:
    if not obj.etag:
        return
    etag = bare_etag(headers.get("etag"))
    if not etag:
        raise ObjectProtocolError("the answer has no ETag", bucket=obj.bucket, key=obj.key)
    if etag.removeprefix("W/") != obj.etag.removeprefix("W/"):
        raise StaleObjectError(f"ETag is {etag} now, was {obj.etag}", bucket=obj.bucket, key=obj.key)


def _check_modified(headers: Mapping[str, str], obj: ObjectId) -> None:
    """Compare ``Last-Modified`` where no strong ETag names the version: an overwrite of the same size must be seen."""
    if not obj.modified_s:
        return
    modified = parsedate_tz(headers.get("last-modified", ""))
    if modified is None:
        raise ObjectProtocolError("the answer has neither ETag nor Last-Modified", bucket=obj.bucket, key=obj.key)
    if mktime_tz(modified) != obj.modified_s:
        detail = f"Last-Modified is {headers['last-modified']} now, and was another"
        raise StaleObjectError(detail, bucket=obj.bucket, key=obj.key)


def _check_content_range(content_range: str, obj: ObjectId, start: int, stop: int) -> None:
    match = _CONTENT_RANGE.fullmatch(content_range.strip())
    first, last, total = (int(group) for group in match.groups()) if match else (-1, -1, -1)
    if match and total != obj.size_bytes and not obj.etag:
        raise StaleObjectError(f"size is {total} now, was {obj.size_bytes}", bucket=obj.bucket, key=obj.key)
    if (first, last, total) != (start, stop - 1, obj.size_bytes):
        detail = f"asked for bytes {start}-{stop - 1}/{obj.size_bytes}, got Content-Range {content_range!r}"
        raise ObjectProtocolError(detail, bucket=obj.bucket, key=obj.key)


def _check_length(headers: Mapping[str, str], obj: ObjectId, expected_bytes: int) -> None:
    length, framing = headers.get("content-length"), headers.get("transfer-encoding", "").lower()
    if framing not in _FRAMINGS:
        detail = f"the answer is framed in a way that nobody here takes apart (Transfer-Encoding: {framing[:40]!r})"
        raise ObjectProtocolError(detail, bucket=obj.bucket, key=obj.key)
    if length is None and framing == "chunked":
        _check_untouched(headers, obj)
        if "content-range" not in headers:
            detail = "the answer has neither range nor length: nobody says that it is the whole object, as it is stored"
            raise ObjectProtocolError(detail, bucket=obj.bucket, key=obj.key)
        return  # no length to compare; the body is counted as it is read
    if length is None or not re.fullmatch(r"\d+", length, re.ASCII) or int(length) != expected_bytes:
        detail = f"Content-Length is {length!r}, expected {expected_bytes}"
        raise ObjectProtocolError(detail, bucket=obj.bucket, key=obj.key)


def _check_untouched(headers: Mapping[str, str], obj: ObjectId) -> None:
    """Refuse what a proxy has compressed or unpacked: it weakens the tag then, and there is no length to tell it by.

    An encoding that the object is stored in is another thing: that is what its bytes are.
    """
    if not bare_etag(headers.get("etag")).startswith("W/"):
        return
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in {"", "identity", "aws-chunked"}:
        detail = f"the answer was encoded on the way ({encoding[:40]}), and holds other bytes than the object"
        raise ObjectProtocolError(detail, bucket=obj.bucket, key=obj.key)
    if obj.cacheable:
        detail = "the answer was decoded on the way, and holds other bytes than the object"
        raise ObjectProtocolError(detail, bucket=obj.bucket, key=obj.key)


def error_from_answer(answer: ErrorAnswer, target: Target) -> ObjectError:
    """Return our error for an error answer, with a detail that says what to do next.

    Args:
        answer: Status, code, message and headers.
        target: What was asked for.
    """
    make = _BY_CODE.get(answer.code) or _BY_STATUS.get(answer.status)
    if make is None:
        make = _unavailable if answer.status >= 500 else _misunderstood
    error = make(answer, target)
    error.request_id = _request_id(answer)
    return error


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds ``Retry-After`` asks for, 0 without one (S3 never sends the date form)."""
    value = headers.get("retry-after", "").strip()
    return float(value) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value, re.ASCII) else 0.0


def _said(answer: ErrorAnswer) -> str:
    """Return the store's words in short, to stand behind ours."""
    words = " ".join(answer.message.split())[:200]
    request_id = _request_id(answer)
    tail = f"; request {request_id}" if request_id else ""
    return f" ({answer.status} {answer.code[:100]}{': ' if words else ''}{words}{tail})"


def _request_id(answer: ErrorAnswer) -> str:
    """Return what the store calls the request, if it is a plausible name for one."""
    request_id = answer.headers.get("x-amz-request-id", "").strip()
    return request_id if re.fullmatch(r"[\w.:/+=-]{1,128}", request_id, re.ASCII) else ""


def _no_bucket(answer: ErrorAnswer, target: Target) -> ObjectError:
    detail = f"no such bucket at {target.endpoint_url}: check its name and the endpoint"
    return ObjectNotFoundError(detail, bucket=target.bucket)


def _bad_bucket_name(answer: ErrorAnswer, target: Target) -> ObjectError:
    return ObjectNotFoundError("this is not a valid bucket name", bucket=target.bucket)


def _no_key(answer: ErrorAnswer, target: Target) -> ObjectError:
    if not target.key:
        return _no_bucket(answer, target)
    return ObjectNotFoundError("no such key", bucket=target.bucket, key=target.key)


def _not_the_store(answer: ErrorAnswer, target: Target) -> ObjectError:
    detail = (
        f"{target.endpoint_url} answers 404, and not as S3 does: check --endpoint-url, and whether what lies on the "
        "way knows the store"
    )
    return ObjectUnavailableError(detail, bucket=target.bucket, key=target.key)


def _changed(answer: ErrorAnswer, target: Target) -> ObjectError:
    detail = "the object was overwritten since it was looked up"
    return StaleObjectError(detail, bucket=target.bucket, key=target.key)


def _archived(answer: ErrorAnswer, target: Target) -> ObjectError:
    detail = "the object is archived: restore it first ('tigris objects restore', or restore-object on S3)"
    return ObjectArchivedError(detail, bucket=target.bucket, key=target.key)


def _access(
    text: str, kind: type[ObjectAccessError] = ObjectAccessError
) -> Callable[[ErrorAnswer, Target], ObjectError]:
    """Return a maker of access errors; ``{source}`` and ``{endpoint}`` in *text* are filled in."""

    def make(answer: ErrorAnswer, target: Target) -> ObjectError:
        detail = text.format(source=target.key_source, endpoint=target.endpoint_url) + _said(answer)
        return kind(detail, bucket=target.bucket, key=target.key)

    return make


def _key(text: str) -> Callable[[ErrorAnswer, Target], ObjectError]:
    """Return a maker of errors that are the key's fault, wherever it is used."""
    return _access(text, ObjectKeyError)


def _skewed(answer: ErrorAnswer, target: Target) -> ObjectError:
    """A machine that was suspended has the time of then, for the seconds until somebody sets it."""
    detail = f"this machine's clock is wrong: set it (NTP), signatures carry the time{_said(answer)}"
    return ObjectUnavailableError(detail, bucket=target.bucket, key=target.key)


def _elsewhere(answer: ErrorAnswer, target: Target) -> ObjectError:
    region = answer.headers.get("x-amz-bucket-region", "")
    gateway = re.match(r"https?://[\w.:\[\]-]+", answer.headers.get("location", ""), re.ASCII)
    if gateway and not region and answer.code == str(answer.status):  # S3 says its own word
        detail = f"{target.endpoint_url} redirects to {gateway[0]}: pass that with --endpoint-url{_said(answer)}"
        return ObjectAccessError(detail, bucket=target.bucket)
    advice = f"pass --region {region}" if region else "pass its --region or its --endpoint-url"
    if region and is_amazon(target.endpoint_url):  # boto3 has signed for that region, and this one does not have it
        advice = f"pass --endpoint-url https://s3.{region}.amazonaws.com{'.cn' * region.startswith('cn-')}"
    return ObjectAccessError(f"the bucket lies in another region: {advice}{_said(answer)}", bucket=target.bucket)


def _elsewhere_for_now(answer: ErrorAnswer, target: Target) -> ObjectError:
    """A temporary redirect may be gone in a moment: a mounted file must not fail for it."""
    detail = (
        f"{target.endpoint_url} answers from elsewhere for now{_said(answer)}: if it stays so, check --endpoint-url"
    )
    return ObjectUnavailableError(detail, bucket=target.bucket, key=target.key)


def _slow_down(answer: ErrorAnswer, target: Target) -> ObjectError:
    detail = f"{target.endpoint_url} asks for fewer requests{_said(answer)}"
    wait_s = retry_after_s(answer.headers)
    return SlowDownError(detail, retry_after_s=wait_s, bucket=target.bucket, key=target.key)


def _unavailable(answer: ErrorAnswer, target: Target) -> ObjectError:
    detail = f"{target.endpoint_url} is in trouble{_said(answer)}"
    return ObjectUnavailableError(detail, bucket=target.bucket, key=target.key)


def _misunderstood(answer: ErrorAnswer, target: Target) -> ObjectError:
    detail = f"{target.endpoint_url} does not understand the request{_said(answer)}: is it an S3 endpoint?"
    return ObjectProtocolError(detail, bucket=target.bucket, key=target.key)


_denied = _access("access denied: the key from {source} needs s3:ListBucket and s3:GetObject here")
_unknown_key = _key("the store does not know the access key from {source}: check it, and that it is for {endpoint}")
_expired = _key("the key from {source} has expired: renew it")
_unsaid = _access(
    "the store refuses the request and does not say why: has the key from {source} expired?", ObjectUnsaidError
)

_BY_CODE: dict[str, Callable[[ErrorAnswer, Target], ObjectError]] = {
    HEAD_REFUSED: _unsaid,
    NOT_THE_STORE: _not_the_store,
    "AccessDenied": _denied,
    "AllAccessDisabled": _denied,
    "AccountProblem": _access("the account of the key from {source} has a problem"),
    "AuthorizationHeaderMalformed": _elsewhere,
    "ExpiredToken": _expired,
    "TokenRefreshRequired": _expired,
    "InvalidAccessKeyId": _unknown_key,
    "InvalidToken": _key("the session token from {source} is not valid: renew it"),
    "SignatureDoesNotMatch": _key("the secret key does not belong to the access key from {source}: check both"),
    "RequestTimeTooSkewed": _skewed,
    "InvalidBucketName": _bad_bucket_name,
    "NoSuchBucket": _no_bucket,
    "NoSuchKey": _no_key,
    "NoSuchVersion": _no_key,
    "InvalidObjectState": _archived,
    "InvalidRange": _changed,
    "NotImplemented": _misunderstood,
    "PreconditionFailed": _changed,
    "PermanentRedirect": _elsewhere,
    "TemporaryRedirect": _elsewhere_for_now,
    "InternalError": _unavailable,
    "RequestTimeout": _unavailable,
    "SlowDown": _slow_down,
    "Throttling": _slow_down,
    "TooManyRequests": _slow_down,
}
"""What each S3 error code means; codes are finer than statuses and win."""

_BY_STATUS: dict[int, Callable[[ErrorAnswer, Target], ObjectError]] = {
    301: _elsewhere,
    302: _elsewhere,
    307: _elsewhere_for_now,
    308: _elsewhere,
    401: _key("the store refuses the key from {source}"),
    403: _denied,
    404: _no_key,
    408: _unavailable,
    412: _changed,
    416: _changed,
    429: _slow_down,
    501: _misunderstood,
    503: _slow_down,
}
"""What is left when the answer has no code we know, as for HEAD, whose answers have no body."""
