from __future__ import annotations

import pytest

from tigrismount.core.types import ObjectId
from tigrismount.errors import (
    ObjectAccessError,
    ObjectArchivedError,
    ObjectKeyError,
    ObjectNotFoundError,
    ObjectProtocolError,
    ObjectUnavailableError,
    ObjectUnsaidError,
    SlowDownError,
    StaleObjectError,
)
from tigrismount.objects.responses import (
    HEAD_REFUSED,
    NOT_THE_STORE,
    ErrorAnswer,
    Target,
    bare_etag,
    check_range_answer,
    error_from_answer,
    retry_after_s,
)

OBJ = ObjectId("b", "k", "abc", 1000)
NO_ETAG = ObjectId("b", "k", "", 1000)
GOOD = {"etag": '"abc"', "content-range": "bytes 100-199/1000", "content-length": "100"}


def answer(**changes) -> dict[str, str]:
    headers = {**GOOD, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return {name: value for name, value in headers.items() if value is not None}


@pytest.mark.parametrize(
    ("value", "bare"),
    [('"abc"', "abc"), ("abc", "abc"), ('W/"abc"', "W/abc"), (' "a-12" ', "a-12"), ("", ""), (None, "")],
)
def test_etags_lose_their_quotes_and_stay_weak(value, bare):
    assert bare_etag(value) == bare


@pytest.mark.parametrize("status", [200, 206])
def test_the_range_that_was_asked_for_is_accepted(status):
    check_range_answer(status, answer(), OBJ, 100, 200)


def test_a_weak_tag_of_the_same_version_is_accepted():
    check_range_answer(206, answer(etag='W/"abc"'), OBJ, 100, 200)


def test_a_range_of_unknown_length_is_accepted_where_the_transfer_is_framed():
    check_range_answer(206, answer(content_length=None, transfer_encoding="chunked"), OBJ, 100, 200)


@pytest.mark.parametrize("status", [200, 206])
def test_what_a_proxy_has_compressed_is_refused_where_no_length_tells_it(status):
    """Mutation: the beginning of a compressed body is delivered as the beginning of the object."""
    framed = {"content_length": None, "transfer_encoding": "chunked", "content_encoding": "gzip"}
    ranged = {"content_range": None} if status == 200 else {"content_range": "bytes 0-9/1000"}
    for obj in (OBJ, ObjectId("b", "k", "W/abc", 1000)):
        with pytest.raises(ObjectProtocolError, match="encoded on the way"):
            check_range_answer(status, answer(etag='W/"abc"', **framed, **ranged), obj, 0, 10)
    if status == 206:
        check_range_answer(status, answer(**framed, **ranged), OBJ, 0, 10)  # stored so


def test_what_a_proxy_has_unpacked_is_refused_where_no_length_tells_it():
    """nginx's gunzip takes encoding and length away, weakens the tag, and leaves the range of what was packed."""
    framed = {"content_length": None, "transfer_encoding": "chunked", "content_range": "bytes 0-9/1000"}
    with pytest.raises(ObjectProtocolError, match="decoded on the way"):
        check_range_answer(206, answer(etag='W/"abc"', **framed), OBJ, 0, 10)
    check_range_answer(206, answer(etag='W/"abc"', **framed), ObjectId("b", "k", "W/abc", 1000), 0, 10)  # always so


@pytest.mark.parametrize("stop", [1000, 10])
def test_the_whole_object_serves_a_range_from_its_beginning(stop):
    check_range_answer(200, answer(content_range=None, content_length="1000"), OBJ, 0, stop)


@pytest.mark.parametrize(
    "framing", [{"content_length": "1000"}, {"content_length": None, "transfer_encoding": "chunked"}]
)
def test_a_part_without_its_range_is_not_taken_for_the_whole_object(framing):
    """Mutation: where 206 counts as 200 does, another client's range is delivered as the first bytes."""
    with pytest.raises(ObjectProtocolError, match="without the range"):
        check_range_answer(206, answer(content_range=None, **framing), OBJ, 0, 1000)


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (206, {"content_range": "bytes 0-99/1000"}),
        (206, {"content_range": "bytes 100-198/1000"}),
        (206, {"content_range": "bytes 100-199/1001"}),
        (206, {"content_range": "bytes 100-199/*"}),
        (206, {"content_range": "100-199/1000"}),
        (206, {"content_range": "bytes \u0661\u0660\u0660-199/1000"}),
        (206, {"content_range": None}),
        (206, {"content_length": "99"}),
        (206, {"content_length": "100, 100"}),
        (206, {"content_length": None}),
        (206, {"etag": None}),
        (200, {"content_range": None, "content_length": "1000"}),
        (204, {}),
    ],
)
def test_any_other_answer_is_a_protocol_error(status, changes):
    with pytest.raises(ObjectProtocolError) as caught:
        check_range_answer(status, answer(**changes), OBJ, 100, 200)
    assert (caught.value.bucket, caught.value.key) == ("b", "k")


def test_another_etag_is_another_version():
    with pytest.raises(StaleObjectError):
        check_range_answer(206, answer(etag='"xyz"'), OBJ, 100, 200)


def test_without_an_etag_another_size_is_another_version():
    check_range_answer(206, answer(etag=None), NO_ETAG, 100, 200)
    with pytest.raises(StaleObjectError):
        check_range_answer(206, answer(etag=None, content_range="bytes 100-199/999"), NO_ETAG, 100, 200)


TARGET = Target("https://s3.example.org", "AWS_ACCESS_KEY_ID", "b", "k")


@pytest.mark.parametrize(
    ("status", "code", "expected", "words"),
    [
        (404, "NoSuchKey", ObjectNotFoundError, "no such key"),
        (404, "404", ObjectNotFoundError, "no such key"),
        (404, "NoSuchBucket", ObjectNotFoundError, "no such bucket at https://s3.example.org"),
        (400, "InvalidBucketName", ObjectNotFoundError, "not a valid bucket name"),
        (412, "PreconditionFailed", StaleObjectError, "overwritten"),
        (412, "412", StaleObjectError, "overwritten"),
        (416, "InvalidRange", StaleObjectError, "overwritten"),
        (403, "InvalidObjectState", ObjectArchivedError, "tigris objects restore"),
        (403, "AccessDenied", ObjectAccessError, "s3:ListBucket"),
        (403, "403", ObjectAccessError, "s3:ListBucket"),
        (401, "401", ObjectKeyError, "refuses the key from AWS_ACCESS_KEY_ID"),
        (403, "InvalidAccessKeyId", ObjectKeyError, "does not know the access key from AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", ObjectKeyError, "the secret key does not belong"),
        (400, "ExpiredToken", ObjectKeyError, "expired"),
        (403, "RequestTimeTooSkewed", ObjectUnavailableError, "clock"),
        (301, "PermanentRedirect", ObjectAccessError, "another region"),
        (307, "307", ObjectUnavailableError, "from elsewhere for now"),
        (400, "AuthorizationHeaderMalformed", ObjectAccessError, "another region"),
        (503, "SlowDown", SlowDownError, "fewer requests"),
        (503, "503", SlowDownError, "fewer requests"),
        (429, "429", SlowDownError, "fewer requests"),
        (500, "InternalError", ObjectUnavailableError, "in trouble"),
        (502, "502", ObjectUnavailableError, "in trouble"),
        (504, "504", ObjectUnavailableError, "in trouble"),
        (400, "WhatEver", ObjectProtocolError, "is it an S3 endpoint"),
        (400, "400", ObjectProtocolError, "is it an S3 endpoint"),
        (400, HEAD_REFUSED, ObjectUnsaidError, "has the key from AWS_ACCESS_KEY_ID expired"),
        (404, NOT_THE_STORE, ObjectUnavailableError, "and not as S3 does"),
        (405, "405", ObjectProtocolError, "is it an S3 endpoint"),
        (501, "501", ObjectProtocolError, "is it an S3 endpoint"),  # as trouble, it would be asked for until the end
    ],
)
def test_every_error_answer_has_its_class_and_says_what_to_do(status, code, expected, words):
    error = error_from_answer(ErrorAnswer(status, code, "told\nyou", {}), TARGET)
    assert type(error) is expected
    assert words in str(error)
    assert "\n" not in str(error)
    assert error.bucket == "b"


def test_a_missing_key_without_a_key_is_a_missing_bucket():
    error = error_from_answer(ErrorAnswer(404, "404", "", {}), Target("http://h", "x", "b"))
    assert "no such bucket" in str(error)


def test_a_redirect_names_the_region_where_the_store_does():
    headers = {"x-amz-bucket-region": "eu-west-1"}
    assert "--region eu-west-1" in str(error_from_answer(ErrorAnswer(301, "301", "", headers), TARGET))


def test_a_redirect_of_amazon_names_the_endpoint_of_the_region():
    """With --region alone it is redirected again, and the advice was the same."""
    headers = {"x-amz-bucket-region": "eu-west-1"}
    target = Target("https://s3.us-east-1.amazonaws.com", "AWS_ACCESS_KEY_ID", "b")
    error = error_from_answer(ErrorAnswer(301, "PermanentRedirect", "", headers), target)
    assert "--endpoint-url https://s3.eu-west-1.amazonaws.com" in str(error)


def test_a_gateway_that_wants_tls_is_told_from_another_region():
    """As an ingress of Kubernetes does by default."""
    headers = {"location": "https://s3.example.org/b?list-type=2"}
    error = error_from_answer(ErrorAnswer(308, "308", "Permanent Redirect", headers), TARGET)
    assert "redirects to https://s3.example.org: pass that with --endpoint-url" in str(error)
    assert "region" not in str(error)


def test_slow_down_carries_retry_after():
    error = error_from_answer(ErrorAnswer(503, "SlowDown", "", {"retry-after": "7"}), TARGET)
    assert isinstance(error, SlowDownError)
    assert error.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("nan", 0.0),
        ("1e9", 0.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after_is_seconds_or_nothing(value, seconds):
    assert retry_after_s({"retry-after": value}) == seconds


def test_without_a_strong_etag_an_overwrite_of_the_same_size_is_seen_by_its_time() -> None:
    """Two versions of one size must never be mixed, whatever the store leaves out."""
    obj = ObjectId("b", "k", "", 10, modified_s=1_700_000_000)
    headers = {
        "content-range": "bytes 0-9/10",
        "content-length": "10",
        "last-modified": "Tue, 14 Nov 2023 22:13:20 GMT",
    }

    check_range_answer(206, headers, obj, 0, 10)
    with pytest.raises(StaleObjectError, match="Last-Modified"):
        check_range_answer(206, {**headers, "last-modified": "Tue, 14 Nov 2023 22:13:21 GMT"}, obj, 0, 10)
    with pytest.raises(ObjectProtocolError, match="neither"):
        check_range_answer(206, {**headers, "last-modified": "yesterday"}, obj, 0, 10)


def test_an_error_names_the_request_that_the_store_refused():
    answer = ErrorAnswer(403, "AccessDenied", "no", {"x-amz-request-id": "4442587FB7D0A2F9"})
    error = error_from_answer(answer, TARGET)
    assert error.request_id == "4442587FB7D0A2F9"
    assert "(403 AccessDenied: no; request 4442587FB7D0A2F9)" in str(error)
    hostile = ErrorAnswer(403, "AccessDenied", "no", {"x-amz-request-id": "\x1b[2J evil"})
    assert error_from_answer(hostile, TARGET).request_id == ""


def test_a_store_that_says_very_much_is_quoted_in_short() -> None:
    """Mutation: a code without end becomes the reason of every message about the mount, which are not sent then."""
    error = error_from_answer(ErrorAnswer(400, "No" * 50_000, "no " * 50_000, {}), TARGET)
    assert len(error.detail) < 1000
