"""A tiny HTTP server in threads, for fakes that are functions from a request to an answer."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BUCKET_OPERATIONS = {"GET": "ListObjectsV2", "HEAD": "HeadBucket", "PUT": "CreateBucket"}
_KEY_OPERATIONS = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject"}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request as it came in."""

    method: str
    """In capitals."""
    bucket: str
    """First component of the path, empty for the service itself."""
    key: str
    """The rest of the path, unescaped; empty for the bucket itself."""
    query: dict[str, str]
    """Parameters, unescaped."""
    headers: dict[str, str] = field(repr=False)
    """Names in lower case."""
    body: bytes = field(default=b"", repr=False)
    """What came with it."""

    @property
    def operation(self) -> str:
        """What S3 calls it, as far as the fakes know it; else the method."""
        if not self.bucket:
            return "ListBuckets"
        names = _KEY_OPERATIONS if self.key else _BUCKET_OPERATIONS
        return names.get(self.method, self.method)

    @property
    def access_key(self) -> str:
        """The key it says it is signed with, empty for an anonymous one."""
        match = re.search(r"Credential=([^/,]+)/", self.headers.get("authorization", ""))
        return match[1] if match else ""

    @property
    def signed_headers(self) -> frozenset[str]:
        """Names of the headers that its signature covers."""
        match = re.search(r"SignedHeaders=([^,]+)", self.headers.get("authorization", ""))
        return frozenset(match[1].split(";")) if match else frozenset()


@dataclass(slots=True)
class HttpAnswer:
    """An answer, true or not."""

    status: int
    """HTTP status."""
    headers: dict[str, str] = field(default_factory=dict)
    """As they are sent."""
    body: bytes = field(default=b"", repr=False)
    """Sent unless the request was a HEAD."""


@contextmanager
def serving(answer: Callable[[HttpRequest], HttpAnswer]) -> Iterator[str]:
    """Serve *answer* on a port of this machine while the context lasts.

    Args:
        answer: Called in a thread per connection.

    Yields:
        The base URL.
    """
    server = _Server(("127.0.0.1", 0), _handler(answer))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # clients keep connections open, and their threads wait on them

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes away is what tests do."""


def _handler(answer: Callable[[HttpRequest], HttpAnswer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            reply = answer(self._request())
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_HEAD = do_PUT = do_GET  # noqa: N815

        def _request(self) -> HttpRequest:
            path, _, query = self.path.partition("?")
            bucket, _, key = path.removeprefix("/").partition("/")
            return HttpRequest(
                self.command,
                bucket,
                unquote(key, errors="surrogateescape"),
                dict(parse_qsl(query, keep_blank_values=True)),
                {name.lower(): value for name, value in self.headers.items()},
                self.rfile.read(int(self.headers.get("Content-Length", "0"))),
            )

    return Handler
