from __future__ import annotations

import http.client
import socket
import ssl
import traceback

import botocore.exceptions as boto
import botocore.parsers
import pytest
import urllib3.exceptions

from tigrismount.errors import (
    ObjectKeyError,
    ObjectNotFoundError,
    ObjectProtocolError,
    ObjectUnavailableError,
    StaleObjectError,
)
from tigrismount.objects.failures import translated
from tigrismount.objects.responses import Target

URL = "https://s3.example.org"
UNAVAILABLE = ObjectUnavailableError
TARGET = Target(URL, "the test", "b", "k")


def caused(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


def connection_error(inner: BaseException) -> boto.EndpointConnectionError:
    wrapped = caused(urllib3.exceptions.NewConnectionError(None, "Failed to establish"), inner)
    return boto.EndpointConnectionError(endpoint_url=URL, error=wrapped)


def certificate_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


def tls(inner: BaseException) -> boto.SSLError:
    return boto.SSLError(endpoint_url=URL, error=inner)


def client_error(status: int, code: str, operation: str = "GetObject") -> boto.ClientError:
    response = {
        "Error": {"Code": code, "Message": "m"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
    }
    return boto.ClientError(response, operation)


@pytest.mark.parametrize(
    ("foreign", "expected", "words"),
    [
        (connection_error(socket.gaierror(-2, "Name or service not known")), UNAVAILABLE, "cannot resolve"),
        (boto.EndpointConnectionError(endpoint_url=URL, error=socket.gaierror(-3)), UNAVAILABLE, "this machine's DNS"),
        (connection_error(ConnectionRefusedError(111, "refused")), UNAVAILABLE, "refuses connections"),
        (connection_error(OSError(113, "No route to host")), UNAVAILABLE, "broke: .*No route to host"),
        (boto.ConnectTimeoutError(endpoint_url=URL, error=TimeoutError()), UNAVAILABLE, "no connection to .* in time"),
        (boto.ReadTimeoutError(endpoint_url=URL, error=TimeoutError()), UNAVAILABLE, "stopped sending"),
        (TimeoutError("timed out"), UNAVAILABLE, "stopped sending"),
        (
            tls(urllib3.exceptions.SSLError(certificate_error())),
            UNAVAILABLE,
            r"self-signed certificate\): pass its CA with --ca-bundle",
        ),
        (tls(ssl.SSLError(1, "WRONG_VERSION_NUMBER")), UNAVAILABLE, "speaks https"),
        (boto.ProxyConnectionError(proxy_url="http://p", error=OSError()), UNAVAILABLE, "HTTPS_PROXY"),
        (ConnectionResetError(104, "Connection reset by peer"), UNAVAILABLE, "broke: .*reset by peer"),
        (http.client.IncompleteRead(b"abc", 7), UNAVAILABLE, "broke: IncompleteRead"),
        (urllib3.exceptions.ProtocolError("Connection broken"), UNAVAILABLE, "broke: Connection broken"),
        (boto.ResponseStreamingError(error=OSError("gone")), UNAVAILABLE, "broke: gone"),
        (boto.NoCredentialsError(), ObjectKeyError, "no usable credentials from the test"),
        (client_error(403, "AccessDenied", "AssumeRole"), ObjectKeyError, "credentials from the test: .*AssumeRole"),
        (client_error(400, "InvalidIdentityToken", "AssumeRoleWithWebIdentity"), ObjectKeyError, "no usable cred"),
        (client_error(404, "ResourceNotFoundException", "GetRoleCredentials"), ObjectKeyError, "no usable credentials"),
        (client_error(400, "IDPCommunicationError", "AssumeRoleWithWebIdentity"), UNAVAILABLE, "the key from the test"),
        (client_error(503, "ServiceUnavailable", "AssumeRole"), UNAVAILABLE, "the key from the test is in trouble"),
        (boto.CredentialRetrievalError(provider="iam-role", error_msg="away"), UNAVAILABLE, "in trouble: .*away"),
        (boto.CredentialRetrievalError(provider="container-role", error_msg="away"), UNAVAILABLE, "in trouble: .*away"),
        (boto.CredentialRetrievalError(provider="custom-process", error_msg="no"), ObjectKeyError, "no usable cred"),
        (boto.ParamValidationError(report="Invalid bucket name"), ObjectNotFoundError, "no store can have such a name"),
        (botocore.parsers.ResponseParserError("bad\nXML"), ObjectProtocolError, "is it an S3 endpoint"),
        (client_error(412, "PreconditionFailed"), StaleObjectError, "overwritten"),
        (MemoryError(), UNAVAILABLE, "no memory"),  # as a wrong answer, it would fail for good within seconds
        (KeyError("surprise"), ObjectProtocolError, "unexpected: KeyError: 'surprise'"),
    ],
)
def test_each_foreign_error_becomes_ours_with_one_line_that_helps(foreign, expected, words):
    with pytest.raises(expected, match=words) as caught, translated(TARGET):
        raise foreign
    assert type(caught.value) is expected
    assert caught.value.__cause__ is foreign
    assert caught.value.bucket == "b"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("https://sts.eu-west-1.amazonaws.com/", "https://sts.eu-west-1.amazonaws.com"),
        ("https://b.s3.example.org/k", URL),
    ],
)
def test_who_gives_out_keys_is_named_where_the_connection_to_that_one_fails(asked, named):
    """The store was, so that people looked for what blocks their way to it."""
    foreign = boto.EndpointConnectionError(endpoint_url=asked, error=ConnectionRefusedError(111, "refused"))
    with pytest.raises(ObjectUnavailableError) as caught, translated(TARGET):
        raise foreign
    assert str(caught.value).startswith(f"s3://b/k: {named} refuses connections")


def test_a_header_that_cannot_be_sent_is_not_quoted():
    """A session token that came with a line break was in the log, in the status, and at /readyz for everybody."""
    connection = http.client.HTTPConnection("127.0.0.1", 9)
    connection.putrequest("GET", "/")
    token = b"hush\n"
    with pytest.raises(ValueError, match="hush") as refused:
        connection.putheader("X-Amz-Security-Token", token)
    with pytest.raises(ObjectUnavailableError, match="the key from the test") as caught, translated(TARGET):
        raise boto.HTTPClientError(error=refused.value)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_the_address_of_a_proxy_is_not_quoted():
    """A password with a # in it is cut there, and what is left was in the log and in the status."""
    refused = urllib3.exceptions.LocationParseError("'user:hush' is not a valid host or port")
    with pytest.raises(ObjectUnavailableError, match="HTTPS_PROXY") as caught, translated(TARGET):
        raise boto.HTTPClientError(error=refused)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_our_own_errors_pass_unchanged():
    error = StaleObjectError("changed")
    with pytest.raises(StaleObjectError) as caught, translated(TARGET):
        raise error
    assert caught.value is error


def test_a_chain_of_causes_that_bites_its_tail_ends():
    one, two = OSError("one"), OSError("two")
    one.__cause__, two.__cause__ = two, one
    with pytest.raises(ObjectUnavailableError, match="broke: two"), translated(TARGET):
        raise one
