"""A proxy that spoils answers on request, between a real S3 server and whoever reads from it.

Rules are data: which requests (a regular expression on ``METHOD /bucket/key?query``), which of those (let ``skip``
pass, then hit ``count``), and what happens. The first rule that matches wins. The proxy asks the real server first and
spoils what that said, so that a fault differs from the truth in one thing:

=============== ==================================================================================================
status          an S3 error with ``status`` and ``code``, and ``Retry-After`` where ``retry_after`` is given
drop            the connection is closed without an answer
delay           the truth, ``delay_s`` later
truncate        the header, ``after_bytes`` of the body, then a clean close
reset           the same, then a TCP reset
stall           the same, then silence for ``delay_s``
trickle         the truth, ``after_bytes`` of it every hundredth of a second
wrong_range     ``Content-Range`` names other bytes of the same number
wrong_etag      the bytes and the ``ETag`` of another version of the same size
no_etag         the truth without an ``ETag``
wrong_length    ``Content-Length`` promises more than comes, then a clean close
short           a body and a ``Content-Length`` that are ``after_bytes`` short (at least one)
long            the same, ``after_bytes`` too long
extra           the truth, and bytes nobody asked for behind it on the same connection
previous        the whole answer of the request before, of whatever key and range
duplicate       the whole answer, and the same once more: the next request on this connection finds an answer there
swap            the answer to another request that is hit, which gets this one, if one comes within ``delay_s``
twice           the body begins again in its middle, at its proper length: ``Content-Range`` alone could tell
flip            one bit of the body is another; nothing but a checksum can tell
redirect        a 307 to the same place, a loop
html            a web page with status 200
garbage         bytes that are not HTTP
=============== ==================================================================================================

``twice`` and ``flip`` are lies that S3 has no means to show; they are for readers that know a checksum. What happens
below HTTP, to the bytes of a connection, is ``wire_proxy``'s.
"""

from __future__ import annotations

import http.client
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from tigrismount.demo.faults import FaultBook
from tigrismount.testing.served_port import ServedPort
from tigrismount.testing.spoiling import Answer, Exchange, Spoiling, Trouble, TroubleRule

if TYPE_CHECKING:
    import socket
    import ssl
    from io import BufferedReader
    from types import TracebackType

SILENT: frozenset[Trouble] = frozenset({"twice", "flip"})
"""What no header tells: only the transport or a checksum guards against it."""


class FaultProxy:
    """The proxy, for a ``with`` block.

    Args:
        upstream_url: ``http://HOST:PORT`` of the real server.
        tls: Speak TLS, with this certificate.
    """

    def __init__(self, upstream_url: str, *, tls: ssl.SSLContext | None = None) -> None:
        upstream = urlsplit(upstream_url)
        assert upstream.hostname is not None
        self._upstream = (upstream.hostname, upstream.port or 80)
        self._book: FaultBook[TroubleRule] = FaultBook()
        self._port = ServedPort(self._serve)
        self._previous: Answer | None = None
        self._exchange = Exchange()
        self._closing = threading.Event()
        self.tls = tls
        """The certificate of connections from now on; None is plain HTTP."""
        self.hits = 0
        """Answers spoiled since the rules were set."""

    def __enter__(self) -> Self:
        self.accept()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self.refuse()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port.number

    @property
    def url(self) -> str:
        """Where to send requests."""
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    def inject(self, *rules: TroubleRule) -> None:
        """Put *rules* in force in place of all others; none clears them."""
        self.hits = 0
        self._book.replace(list(rules))

    def refuse(self) -> None:
        """Cut all connections and refuse new ones, until ``accept``."""
        self._port.shut()

    def accept(self) -> None:
        """Take connections, on the same port as before."""
        self._port.open()

    def _serve(self, connection: socket.socket) -> None:
        if self.tls is not None:
            # Of a copy, so that the connection itself can be cut whatever TLS is at.
            connection = self.tls.wrap_socket(connection.dup(), server_side=True)
        upstream = http.client.HTTPConnection(*self._upstream)
        try:
            with suppress(http.client.HTTPException), connection.makefile("rb") as lines:
                while self._serve_one(connection, lines, upstream):
                    pass
        finally:
            upstream.close()
            if self.tls is not None:
                connection.close()

    def _serve_one(
        self, connection: socket.socket, lines: BufferedReader, upstream: http.client.HTTPConnection
    ) -> bool:
        first = lines.readline().decode("latin-1").split()
        if len(first) != 3:
            return False
        method, path, _ = first
        headers = []
        while line := lines.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers.append((name, value.strip()))
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        rule = self._book.hit(f"{method} {path}")
        answer = self._ask(upstream, method, path, headers, lines.read(length))
        if rule is None:
            self._previous = answer
            connection.sendall(answer.header_bytes() + answer.body)
            return True
        self.hits += 1
        return Spoiling(connection, rule, answer, self._previous, self._exchange, path, self._closing).spoil()

    @staticmethod
    def _ask(
        upstream: http.client.HTTPConnection, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> Answer:
        upstream.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            upstream.putheader(name, value)
        upstream.endheaders(body or None)
        response = upstream.getresponse()
        data = response.read()
        hop_by_hop = {"connection", "transfer-encoding", "keep-alive"}
        kept = {name: value for name, value in response.getheaders() if name.lower() not in hop_by_hop}
        if method != "HEAD" and response.status not in (204, 304):
            kept = {name: value for name, value in kept.items() if name.lower() != "content-length"}
            kept["Content-Length"] = str(len(data))
        return Answer(response.status, kept, data)
