"""Range GETs without the layers of boto3 that build and parse any request of any service.

``get_object`` costs a millisecond or more, nearly all of it under Python's lock: rules that find the endpoint, a
serializer, twenty event hooks, a parser of headers, each for every GET. A range GET of an object needs none of it
twice. So boto3 is asked once where a bucket's objects are, and of the rest is left what must not be ours: keys are
quoted and requests signed by botocore, with the key of this moment, and go through botocore's connections, with its
proxies, certificates, timeouts and exceptions. An answer that is an error is handed to botocore's parser, and raised as
boto3 would raise it.

Amazon's own endpoints are left to boto3: buckets may be in another region there, or need a session first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import botocore.parsers
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from botocore.utils import percent_encode

from tigrismount.objects.endpoints import is_amazon
from tigrismount.objects.rawnames import sendable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OPERATION = "GetObject"
_ANY_KEY = "key"
"""What boto3 is asked for in a bucket, to learn where all others are."""
_HEADERS = {"Range": "Range", "IfMatch": "If-Match", "RequestPayer": "x-amz-request-payer"}
"""Parameters of ``get_object`` that are a header."""


class Keys(Protocol):
    """What requests are signed with: ``keys.SigningKeys``, or keys that came with them."""

    anonymous: bool

    def get_frozen_credentials(self) -> Any:
        """Return the key of this moment."""


class Headers(Protocol):
    """What is added to requests: ``headers.RequestHeaders``, or headers that came with them."""

    def signed(self, operation: str) -> Mapping[str, str]:
        """Return what this thread's request has to sign."""

    def unsigned(self) -> Mapping[str, str]:
        """Return what goes with this thread's request beside that."""

    def observe(self, headers: Mapping[str, str]) -> None:
        """Learn from an answer's headers what the store is."""


def object_getter(boto: Any, keys: Keys, headers: Headers) -> Callable[..., dict[str, Any]]:
    """Return what sends range GETs: takes boto3's parameters of ``get_object``, and gives what is needed of its answer.

    Args:
        boto: The boto3 client.
        keys: What it signs with.
        headers: What is added to its requests, registered with it already.
    """
    send: Callable[..., dict[str, Any]] = boto.get_object
    return send if is_amazon(boto.meta.endpoint_url) else RangeGets(boto, keys, headers).get_object


class RangeGets:
    """Sends GETs; several threads may at once.

    Args:
        boto: The boto3 client.
        keys: What it signs with.
        headers: What is added to its requests.
    """

    def __init__(self, boto: Any, keys: Keys, headers: Headers) -> None:
        self._boto = boto
        self._keys = keys
        self._headers = headers
        self._session = boto._endpoint.http_session  # its connections, and no second pool of them
        self._user_agent = boto.meta.config.user_agent
        self._region = boto.meta.region_name
        self._answer_shape = boto.meta.service_model.operation_model(OPERATION).output_shape
        self._parser = botocore.parsers.create_parser(boto.meta.service_model.metadata["protocol"])
        self._urls: dict[str, str] = {}
        """Where the objects of a bucket are."""

    def get_object(self, *, Bucket: str, Key: str, VersionId: str = "", **parameters: str) -> dict[str, Any]:  # noqa: N803 - boto3's
        """Send one GET and return what the answer begins with; its body is still to be read.

        Raises:
            ClientError: The answer is an error.
            Exception: Whatever botocore raises where there is no answer.
        """
        query = f"?versionId={quote(VersionId, safe='-_.~')}" if VersionId else ""
        request = AWSRequest("GET", self._url(Bucket, Key) + query, {"User-Agent": self._user_agent})
        for name, value in parameters.items():
            request.headers[_HEADERS[name]] = value
        for name, value in self._headers.signed(OPERATION).items():
            request.headers[name] = value
        if not self._keys.anonymous:
            S3SigV4Auth(self._keys.get_frozen_credentials(), "s3", self._region).add_auth(request)
        return self._answer(self._session.send(self._prepared(request)))

    def _url(self, bucket: str, key: str) -> str:
        """Return where an object is, as boto3 addresses it; that of a new object costs it half a millisecond."""
        url = self._urls.get(bucket)
        if url is None:
            signed: str = self._boto.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": _ANY_KEY})
            url = self._urls[bucket] = signed.partition("?")[0].removesuffix(_ANY_KEY)
        quoted: str = percent_encode(sendable(key), safe="/~")
        return url + quoted

    def _prepared(self, request: AWSRequest) -> AWSPreparedRequest:
        headers = {name: value.encode() for name, value in request.headers.items()}
        headers.update((name, value.encode()) for name, value in self._headers.unsigned().items())
        return AWSPreparedRequest("GET", request.url, headers, None, stream_output=True)

    def _answer(self, answer: Any) -> dict[str, Any]:
        self._headers.observe(answer.headers)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        if answer.status_code >= 300:
            said = {"headers": answer.headers, "status_code": answer.status_code, "body": answer.content}
            said["context"] = {"operation_name": OPERATION}
            raise ClientError(self._parser.parse(said, self._answer_shape), OPERATION)
        return {
            "Body": StreamingBody(answer.raw, headers.get("content-length")),
            "ResponseMetadata": {"HTTPStatusCode": answer.status_code, "HTTPHeaders": headers},
            "VersionId": headers.get("x-amz-version-id"),
        }
