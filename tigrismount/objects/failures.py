"""Turns what botocore, urllib3, ``http.client`` and ``ssl`` raise into our errors, where it is raised.

The class of a foreign exception says little: botocore reports an unknown host, a refused connection and an unplugged
cable alike. What a person needs to know is at the bottom of the chain of causes, so that is where we look. Each detail
is one line that says what happened and what to do next.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import botocore.exceptions as boto
import botocore.parsers
import urllib3.exceptions

from tigrismount.errors import (
    ObjectError,
    ObjectKeyError,
    ObjectNotFoundError,
    ObjectProtocolError,
    ObjectUnavailableError,
)
from tigrismount.objects.bounds import ForeignBodyError
from tigrismount.objects.keys import METADATA_SERVICES
from tigrismount.objects.responses import HEAD_REFUSED, NOT_THE_STORE, ErrorAnswer, error_from_answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tigrismount.objects.responses import Target

_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.NoAuthTokenError,
    boto.SSOError,
)

_NETWORK = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)
"""Everything a connection can raise, while it is made and while a body is read; ``ssl`` errors are ``OSError``."""

_OPERATIONS = frozenset({"GetObject", "HeadObject", "ListObjectsV2", "ListBuckets", "HeadBucket", "CreateSession"})
"""What the store is asked; errors of any other are of a service that gives out keys (roles, single sign-on)."""

_PASSING = frozenset({"IDPCommunicationError", "RequestLimitExceeded", "Throttling", "ThrottlingException"})
"""What such a service says with status 400 of what passes."""

_HEADER_REFUSED = "Invalid header value"
"""How ``http.client`` begins to say so."""

_SET_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a --profile"


@contextmanager
def translated(target: Target) -> Iterator[None]:
    """Let nothing but ``ObjectError`` out of the block.

    Args:
        target: What the request is about, for the message.

    Raises:
        ObjectError: Whatever happened, chained to the foreign exception.
    """
    try:
        yield
    except ObjectError:
        raise
    except boto.ClientError as exc:
        if exc.operation_name not in _OPERATIONS:
            raise _no_key(exc, target) from exc
        raise error_from_answer(_answer(exc), target) from exc
    except _NO_CREDENTIALS as exc:
        raise _no_key(exc, target) from exc
    except (boto.ParamValidationError, UnicodeEncodeError) as exc:
        detail = f"no store can have such a name: {_words(exc)}"
        raise ObjectNotFoundError(detail, bucket=target.bucket, key=target.key) from exc
    except botocore.parsers.ResponseParserError as exc:
        detail = f"{target.endpoint_url} answered something that is not S3's XML: is it an S3 endpoint?"
        raise ObjectProtocolError(detail, bucket=target.bucket, key=target.key) from exc
    except ForeignBodyError as exc:
        detail = f"{target.endpoint_url} answered something that is not S3's XML ({exc}): is it an S3 endpoint?"
        raise ObjectProtocolError(detail, bucket=target.bucket, key=target.key) from exc
    except _NETWORK as exc:
        if detail := _unquoted(exc, target):
            raise ObjectUnavailableError(detail, bucket=target.bucket, key=target.key) from None
        raise _network_error(exc, target) from exc
    except MemoryError as exc:  # may be short for a moment only, and says nothing of the store
        detail = f"this process has no memory for what {target.endpoint_url} answers"
        raise ObjectUnavailableError(detail, bucket=target.bucket, key=target.key) from exc
    except Exception as exc:  # botocore trips over answers nobody foresaw in its own ways
        detail = f"{target.endpoint_url} answered something unexpected: {type(exc).__name__}: {_words(exc)}"
        raise ObjectProtocolError(detail, bucket=target.bucket, key=target.key) from exc


def _no_key(exc: Exception, target: Target) -> ObjectError:
    """Return the error for a key that cannot be had: for good, or because who gives it out is away for now."""
    if _is_away(exc):
        detail = f"who gives out the key from {target.key_source} is in trouble: {_words(exc)}"
        return ObjectUnavailableError(detail, bucket=target.bucket)
    detail = f"no usable credentials from {target.key_source}: {_words(exc)}; {_SET_KEYS}"
    return ObjectKeyError(detail, bucket=target.bucket)


def _is_away(exc: Exception) -> bool:
    if isinstance(exc, boto.ClientError):
        answer = _answer(exc)
        return answer.status >= 500 or answer.status == 429 or answer.code in _PASSING
    return getattr(exc, "kwargs", {}).get("provider") in METADATA_SERVICES


def _unquoted(exc: BaseException, target: Target) -> str:
    """Return what happened where the error itself quotes what is nobody's business; empty where it does not.

    Nothing was sent then. A header may be a session token, and the address of a proxy may hold a password: neither a
    log nor a status nor a traceback is the place for them.
    """
    for cause in _causes(exc):
        if isinstance(cause, urllib3.exceptions.LocationParseError):
            return (
                f"no request to {target.endpoint_url} can be sent, as the proxy's address, or this one, is none: check "
                "HTTPS_PROXY and HTTP_PROXY; in a password, characters such as # / @ are written as %23 %2F %40"
            )
        if isinstance(cause, ValueError) and str(cause).startswith(_HEADER_REFUSED):
            return (
                f"a request to {target.endpoint_url} cannot be sent: one of its headers has a line break in it; "
                f"does the key from {target.key_source}, or its session token, end in one?"
            )
    return ""


def _answer(exc: boto.ClientError) -> ErrorAnswer:
    error = exc.response.get("Error", {})
    metadata = exc.response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    code = str(error.get("Code") or status)
    has_body = not exc.operation_name.startswith("Head")
    if code == "400" and not has_body:
        code = HEAD_REFUSED
    if code == "404" and has_body:
        code = NOT_THE_STORE
    return ErrorAnswer(status, code, str(error.get("Message") or ""), metadata.get("HTTPHeaders", {}))


def _network_error(exc: BaseException, target: Target) -> ObjectUnavailableError:
    return ObjectUnavailableError(_network_detail(exc, target), bucket=target.bucket, key=target.key)


def _network_detail(exc: BaseException, target: Target) -> str:
    causes = list(_causes(exc))
    endpoint = _asked(exc, target)

    def find(*kinds: type[BaseException]) -> BaseException | None:
        return next((cause for cause in causes if isinstance(cause, kinds)), None)

    if find(boto.ProxyConnectionError, urllib3.exceptions.ProxyError):
        return f"the proxy does not reach {endpoint}: check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
    if find(socket.gaierror):
        return f"cannot resolve the host of {endpoint}: check the endpoint URL and this machine's DNS"
    if find(ConnectionRefusedError):
        return f"{endpoint} refuses connections: check the host and port of the endpoint URL, and that the store runs"
    if certificate := find(ssl.SSLCertVerificationError):
        reason = getattr(certificate, "verify_message", "") or "unknown reason"
        return f"cannot trust the certificate of {endpoint} ({reason}): pass its CA with --ca-bundle"
    if find(boto.SSLError, ssl.SSLError, urllib3.exceptions.SSLError):
        return f"TLS with {endpoint} failed ({_words(causes[-1])}): check that this port speaks https"
    if find(boto.ConnectTimeoutError):
        return f"no connection to {endpoint} in time: check the network, firewalls and proxy settings"
    if find(boto.ReadTimeoutError, urllib3.exceptions.ReadTimeoutError, TimeoutError):
        return f"{endpoint} stopped sending: the store or the network is stalled"
    return f"the connection to {endpoint} broke: {_words(causes[-1])}"


def _asked(exc: BaseException, target: Target) -> str:
    """Return who was asked: the store, or who gives out the key that a request to it is signed with."""
    with suppress(ValueError):
        host = urlsplit(target.endpoint_url).hostname
        asked = urlsplit(str(getattr(exc, "kwargs", {}).get("endpoint_url", "")))
        if host and asked.hostname and not f".{asked.hostname}".endswith(f".{host}"):
            return f"{asked.scheme}://{asked.hostname}"
    return target.endpoint_url


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield *exc* and what caused it, outermost first; botocore keeps the cause in its keyword arguments."""
    seen: set[int] = set()
    current: BaseException | None = exc
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        wrapped = getattr(current, "kwargs", {}).get("error")
        inner = wrapped if isinstance(wrapped, BaseException) else None
        current = inner or current.__cause__ or current.__context__ or _argument(current)


def _argument(exc: BaseException) -> BaseException | None:
    """Return an exception among the arguments, where urllib3 keeps the cause."""
    return next((argument for argument in exc.args if isinstance(argument, BaseException)), None)


def _words(exc: BaseException) -> str:
    """Return the exception's text as one short line."""
    return " ".join(str(exc).split())[:200] or type(exc).__name__
