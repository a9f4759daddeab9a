"""moto's S3 as a WSGI application that serves large objects fast, misbehaves on request and can be counted.

moto decides everything: authentication, 304, 404, 412, 416, headers, which version. Only the body of a large object
leaves without it, as a ``FileExtent`` that the HTTP layer sends with ``sendfile`` (see ``demo.bodies``).

``/_tigrismount/`` is the side channel: requests seen, faults to make. An underscore cannot begin a bucket name.
"""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import moto.settings
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import create_backend_app

from tigrismount.demo.bodies import Captured, capturing
from tigrismount.demo.faults import FaultBook, FaultRule
from tigrismount.demo.recorder import Recorder, RequestRecord, operation_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Headers = list[tuple[str, str]]
    StartResponse = Callable[[str, Headers], object]
    Environ = dict[str, Any]
    Answer = tuple[str, Headers, "FileExtent | list[bytes]"]

CONTROL_PREFIX = "/_tigrismount/"
"""Paths of the side channel."""


class FileExtent:
    """A response body that is a range of an open file; the HTTP layer knows it and sends it without copying.

    Args:
        fd: Descriptor, owned by this object.
        start: First byte.
        stop: One past the last byte.
    """

    def __init__(self, fd: int, start: int, stop: int) -> None:
        self.fd = fd
        self.start = start
        self.stop = stop

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)


class Cut:
    """A response whose body is cut by a fault.

    Args:
        body: The whole body.
        rule: How it is cut.
    """

    def __init__(self, body: FileExtent | list[bytes], rule: FaultRule) -> None:
        self.body = body
        self.rule = rule


Body = FileExtent | list[bytes] | Cut


class S3Application:
    """The WSGI application; its bodies are a ``Body``, which the HTTP layer of this package understands.

    Attributes:
        recorder: The requests answered so far.
        faults: The fault rules in force.
        signatures_required: Whether unsigned requests are refused.
    """

    def __init__(self) -> None:
        logging.getLogger("moto").setLevel(logging.ERROR)
        self._moto = create_backend_app("s3")
        self.recorder = Recorder()
        self.faults: FaultBook[FaultRule] = FaultBook()
        self.signatures_required = False

    def require_signatures(self) -> tuple[str, str]:
        """Check SigV4 signatures from now on, and return the first access key there is; it may do everything.

        Returns:
            Access key id and secret access key.
        """
        self.signatures_required = True
        moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        return self.add_key("demo")

    def add_key(self, user: str) -> tuple[str, str]:
        """Make *user* and return its access key; it may do everything but what fault rules deny it.

        Args:
            user: A name that is new.
        """
        iam = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
        iam.create_user("us-east-1", user)
        key = iam.create_access_key(user)
        allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(user, "all", json.dumps(allow))
        return key.access_key_id, key.secret_access_key

    def __call__(self, environ: Environ, start_response: StartResponse) -> Body:
        """Answer one request."""
        method, path, query = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        if path.startswith(CONTROL_PREFIX):
            return self._control(environ, start_response)
        request, signer = (f"{method} {path}?{query}" if query else f"{method} {path}"), _access_key(environ)
        rule = self.faults.hit(request, concerns=lambda rule: rule.access_key in ("", signer))
        if rule is not None and rule.action == "delay":
            time.sleep(rule.delay_s)
        status, headers, body = self._answer(environ, rule)
        self._record(environ, status, headers)
        start_response(status, headers)
        if rule is not None and rule.action in ("truncate", "reset", "stall"):
            return Cut(body, rule)
        return body

    def _answer(self, environ: Environ, rule: FaultRule | None) -> Answer:
        if rule is not None and rule.action == "status":
            return _error_answer(f"{rule.status} Fault", rule.code)
        if self.signatures_required and _is_anonymous(environ):
            # moto trips over its own feet here; nothing on this server is public.
            return _error_answer("403 Forbidden", "AccessDenied")
        return self._ask_moto(environ)

    def _ask_moto(self, environ: Environ) -> Answer:
        answer: dict[str, Any] = {}

        def keep(status: str, headers: Headers, _exc_info: object = None) -> Callable[[bytes], object]:
            answer.update(status=status, headers=headers)
            return lambda _data: None

        # Only a GET sends the body; others (a copy, say) need the bytes.
        with capturing() if environ["REQUEST_METHOD"] == "GET" else nullcontext(Captured()) as captured:
            body = list(_closing(self._moto.wsgi_app(environ, keep)))
        status, headers = answer["status"], answer["headers"]
        if captured.fd < 0:
            return status, headers, body
        if status[:3] not in ("200", "206"):
            captured.close()
            return status, headers, body
        return status, headers, FileExtent(captured.fd, *_sent_range(headers, os.fstat(captured.fd).st_size))

    def _record(self, environ: Environ, status: str, headers: Headers) -> None:
        bucket, key = split_path(environ["PATH_INFO"])
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        self.recorder.add(
            RequestRecord(
                operation=operation_of(method, bucket, key, query),
                bucket=bucket,
                key=key,
                status=int(status[:3]),
                bytes=0 if method == "HEAD" else length,
                range=environ.get("HTTP_RANGE", ""),
                if_match=environ.get("HTTP_IF_MATCH", ""),
                query=query,
            )
        )

    def _control(self, environ: Environ, start_response: StartResponse) -> Body:
        command = (environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix(CONTROL_PREFIX))
        reply: Any = {}
        if command == ("GET", "requests"):
            reply = [record.to_json() for record in self.recorder.records()]
        elif command == ("DELETE", "requests"):
            self.recorder.clear()
        elif command == ("POST", "faults"):
            rules = json.loads(environ["wsgi.input"].read() or b"[]")
            self.faults.replace([FaultRule(**rule) for rule in rules])
        elif command == ("POST", "keys"):
            reply = self.add_key(str(json.loads(environ["wsgi.input"].read())))
        else:
            start_response("404 Not Found", [("Content-Length", "0")])
            return [b""]
        body = json.dumps(reply).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


def split_path(path_info: str) -> tuple[str, str]:
    """Return bucket and key of a WSGI path, whose bytes stand in it as Latin-1."""
    path = path_info.encode("latin-1").decode("utf-8", "surrogateescape")
    bucket, _, key = path.removeprefix("/").partition("/")
    return bucket, key


def _is_anonymous(environ: Environ) -> bool:
    return "HTTP_AUTHORIZATION" not in environ and "X-Amz-Signature=" not in environ.get("QUERY_STRING", "")


def _access_key(environ: Environ) -> str:
    """Return the id of the key that a request is signed with, empty where it is not signed by a header."""
    return str(environ.get("HTTP_AUTHORIZATION", "")).partition("Credential=")[2].partition("/")[0]


def _error_answer(status: str, code: str) -> Answer:
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
        "<Message>refused by the embedded server</Message><RequestId>0</RequestId></Error>"
    ).encode()
    return status, [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))], [text]


def _closing(parts: Iterable[bytes]) -> Iterable[bytes]:
    """Yield *parts* and then close their iterator, as WSGI asks."""
    try:
        yield from parts
    finally:
        if hasattr(parts, "close"):
            parts.close()


def _sent_range(headers: Headers, size_bytes: int) -> tuple[int, int]:
    """Return which bytes an answer with *headers* holds: its ``Content-Range``, else the whole object."""
    for name, value in headers:
        if name.lower() == "content-range":
            first, last = value.removeprefix("bytes ").partition("/")[0].split("-")
            return int(first), int(last) + 1
    return 0, size_bytes
