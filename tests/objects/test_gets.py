"""Range GETs that boto3 does not build: they must be what it would have built, and fail as it would."""

from __future__ import annotations

import re
from functools import cache

import botocore.exceptions
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tigrismount.objects.connection import make_boto_client
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.gets import RangeGets, object_getter
from tigrismount.objects.headers import PLAIN, Manner, RequestHeaders
from tigrismount.objects.keys import SigningKeys
from tigrismount.objects.options import S3Config
from tigrismount.objects.traits import StoreTraits

KEY = Credentials(source="the test", access_key_id="id", secret_access_key="secret", session_token="token")
ASKED = {"Bucket": "bucket", "Key": "a b/ü+%//x?.bin", "Range": "bytes=0-9", "IfMatch": '"abc"'}
OF_THE_MOMENT = {"authorization", "x-amz-date", "user-agent", "amz-sdk-invocation-id", "amz-sdk-request"}


class Sender:
    """A boto3 client and its short way, with the headers of a configuration."""

    def __init__(self, url: str, credentials: Credentials = KEY, **settings) -> None:
        config = S3Config(endpoint_url=url, **settings)
        self.traits = StoreTraits(url)
        self.headers = RequestHeaders(config, self.traits)
        self.keys = SigningKeys(credentials)
        self.boto = make_boto_client(config, self.keys, 4)
        self.headers.register(self.boto.meta.events)
        self.gets = RangeGets(self.boto, self.keys, self.headers)


@pytest.fixture
def sender(server):
    made = Sender(server.url)
    yield made
    made.boto.close()


def send_both(sender, server, say, manner=PLAIN, **asked) -> list:
    """Send one GET each way and return both requests."""
    server.answer(say.part(b"0123456789", 0, 10))
    for send in (sender.boto.get_object, sender.gets.get_object):
        with sender.headers.manner(manner):
            assert send(**{**ASKED, **asked})["Body"].read() == b"0123456789"
    return server.requests


def signed_headers(request) -> set[str]:
    names = set(re.search(r"SignedHeaders=([^,]+)", request.headers["authorization"])[1].split(";"))
    return names - {"amz-sdk-invocation-id", "amz-sdk-request"}


@pytest.mark.parametrize("asked", [{}, {"RequestPayer": "requester"}, {"VersionId": "a+b/c&d"}])
def test_a_request_is_the_one_that_boto3_sends(sender, server, say, asked):
    theirs, ours = send_both(sender, server, say, Manner(no_store=True), **asked)
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert {n: v for n, v in ours.headers.items() if n not in OF_THE_MOMENT} == {
        n: v for n, v in theirs.headers.items() if n not in OF_THE_MOMENT
    }
    assert ours.headers["cache-control"] == "no-store"
    assert "tigrismount/" in ours.headers["user-agent"]
    assert signed_headers(ours) == signed_headers(theirs)


def test_tigris_headers_are_signed(server, say):
    sender = Sender(server.url, snapshot_version="17")
    theirs, ours = send_both(sender, server, say)
    assert ours.headers["x-tigris-snapshot-version"] == "17"
    assert "x-tigris-snapshot-version" in signed_headers(ours) == signed_headers(theirs)


def test_an_anonymous_request_is_not_signed(server, say):
    sender = Sender(server.url, Credentials(source="the test"), no_sign_request=True)
    theirs, ours = send_both(sender, server, say)
    assert "authorization" not in ours.headers
    assert ours.path == theirs.path


def test_the_key_of_the_moment_signs(sender, server, say):
    send_both(sender, server, say)
    sender.keys.replace(Credentials(source="the test", access_key_id="another", secret_access_key="secret"))
    sender.gets.get_object(**ASKED)["Body"].read()
    assert "Credential=another/" in server.requests[-1].headers["authorization"]
    assert "x-amz-security-token" not in server.requests[-1].headers


def test_an_error_is_raised_as_boto3_raises_it(sender, server, say):
    server.answer(say.error(503, "SlowDown", Retry_After="7"))
    raised = []
    for send in (sender.boto.get_object, sender.gets.get_object):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            send(**ASKED)
        raised.append(caught.value)
    theirs, ours = raised
    assert ours.response["Error"] == theirs.response["Error"]
    assert ours.response["ResponseMetadata"]["HTTPHeaders"] == theirs.response["ResponseMetadata"]["HTTPHeaders"]


def test_an_answer_tells_what_the_store_is(sender, server, say):
    server.answer(say.part(b"0123456789", 0, 10, X_Cache="HIT", x_amz_version_id="v1"))
    answer = sender.gets.get_object(**ASKED)
    assert answer["VersionId"] == "v1"
    assert answer["ResponseMetadata"]["HTTPHeaders"]["content-range"] == "bytes 0-9/10"
    assert sender.traits.cache == "TAG"


@cache
def sender_of(url) -> Sender:
    return Sender(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "https://t3.storage.dev", "https://store.example/base"])
@given(keys=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), min_size=1))
@example(keys=["../a/./b//", "/", "//x", "a?b#c%2Fd", "{0}{Key+}", "key", "a/key", "~-._!*'()", "\0\r\n ü🙂"])
def test_every_key_is_where_boto3_looks_for_it(url, keys):
    """Mutation: with ``+`` among the characters that are not quoted it is red."""
    sender = sender_of(url)
    for key in keys:
        signed = sender.boto.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": key})
        assert sender.gets._url("bucket", key) == signed.partition("?")[0]
        assert sender.gets._url("other-bucket", key) != sender.gets._url("bucket", key)


def test_amazon_is_left_to_boto3():
    sender = Sender("https://s3.eu-west-1.amazonaws.com")
    assert object_getter(sender.boto, sender.keys, sender.headers) == sender.boto.get_object
