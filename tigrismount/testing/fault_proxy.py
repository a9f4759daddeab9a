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
twice           the body begins again in its middle, at its proper length: ``Content-Range`` alone could tell
flip            one bit of the body is another; nothing but a checksum can tell
redirect        a 307 to the same place, a loop
html            a web page with status 200
garbage         bytes that are not HTTP
=============== ==================================================================================================

``twice`` and ``flip`` are lies that S3 has no means to show; they are for readers that know a checksum.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, get_args
from urllib.parse import urlsplit

from tigrismount.demo.faults import FaultBook

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader
    from types import TracebackType

Trouble = Literal[
    "status",
    "drop",
    "delay",
    "truncate",
    "reset",
    "stall",
    "trickle",
    "wrong_range",
    "wrong_etag",
    "no_etag",
    "wrong_length",
    "short",
    "long",
    "extra",
    "previous",
    "twice",
    "flip",
    "redirect",
    "html",
    "garbage",
]
SILENT: frozenset[Trouble] = frozenset({"twice", "flip"})
"""What no header tells: only the transport or a checksum guards against it."""
_TRICKLE_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class TroubleRule:
    """One kind of trouble, for some requests."""

    match: str
    """Regular expression searched in ``METHOD /bucket/key?query``."""
    trouble: Trouble
    """What happens to a request that is hit."""
    skip: int = 0
    """Matching requests that pass unharmed first."""
    count: int = 1
    """Matching requests that are hit after those; -1 is all of them."""
    status: int = 503
    """HTTP status of ``status``."""
    code: str = "SlowDown"
    """S3 error code of ``status``."""
    retry_after: str = ""
    """Header of ``status``, as it is sent; empty sends none."""
    delay_s: float = 0.0
    """Seconds that ``delay`` and ``stall`` last."""
    after_bytes: int = 0
    """See the table."""

    def __post_init__(self) -> None:
        if self.trouble not in get_args(Trouble):
            raise ValueError(f"no such trouble: {self.trouble}")


@dataclass(slots=True)
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def header_bytes(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Proxied", *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


class FaultProxy:
    """The proxy, for a ``with`` block.

    Args:
        upstream_url: ``http://HOST:PORT`` of the real server.
    """

    def __init__(self, upstream_url: str) -> None:
        upstream = urlsplit(upstream_url)
        assert upstream.hostname is not None
        self._upstream = (upstream.hostname, upstream.port or 80)
        self._book: FaultBook[TroubleRule] = FaultBook()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._previous: _Answer | None = None
        self._listener: socket.socket | None = None
        self._closing = threading.Event()
        self._port = 0
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
    def url(self) -> str:
        """Where to send requests."""
        return f"http://127.0.0.1:{self._port}"

    def inject(self, *rules: TroubleRule) -> None:
        """Put *rules* in force in place of all others; none clears them."""
        self.hits = 0
        self._book.replace(list(rules))

    def refuse(self) -> None:
        """Cut all connections and refuse new ones, until ``accept``."""
        with self._lock:
            listener, self._listener = self._listener, None
            connections = list(self._connections)
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def accept(self) -> None:
        """Take connections, on the same port as before."""
        listener = socket.create_server(("127.0.0.1", self._port), backlog=256)
        self._port = listener.getsockname()[1]
        with self._lock:
            self._listener = listener
        threading.Thread(target=self._run, args=(listener,), daemon=True).start()

    def _run(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        upstream = http.client.HTTPConnection(*self._upstream)
        try:
            # A client that goes away, or an upstream that does, ends the connection; the client asks again.
            with suppress(OSError, http.client.HTTPException), connection.makefile("rb") as lines:
                while self._serve_one(connection, lines, upstream):
                    pass
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()
            upstream.close()

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
        return _SPOIL[rule.trouble](_Spoiling(connection, rule, answer, self._previous, path, self._closing))

    @staticmethod
    def _ask(
        upstream: http.client.HTTPConnection, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> _Answer:
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
        return _Answer(response.status, kept, data)


@dataclass(frozen=True, slots=True)
class _Spoiling:
    """One answer that is to be spoiled; each method returns whether the connection lives on."""

    connection: socket.socket
    rule: TroubleRule
    answer: _Answer
    previous: _Answer | None
    path: str
    closing: threading.Event

    def send(self, header: bytes, body: bytes = b"") -> bool:
        self.connection.sendall(header + body)
        return True

    def set(self, name: str, value: str | None) -> bytes:
        """Return the header with *name* changed, or taken out, and the rest true."""
        headers = {known: held for known, held in self.answer.headers.items() if known.lower() != name.lower()}
        if value is not None:
            headers[name] = value
        return _Answer(self.answer.status, headers, b"").header_bytes()

    def truth(self) -> bool:
        return self.send(self.answer.header_bytes(), self.answer.body)

    def wait(self) -> None:
        self.closing.wait(self.rule.delay_s)

    def beginning(self) -> None:
        self.send(self.answer.header_bytes(), self.answer.body[: self.rule.after_bytes])

    def status(self) -> bool:
        rule = self.rule
        body = f"<?xml version='1.0'?><Error><Code>{rule.code}</Code><Message>on request</Message></Error>".encode()
        headers = {"Content-Type": "application/xml", "Content-Length": str(len(body))}
        if rule.retry_after:
            headers["Retry-After"] = rule.retry_after
        bare = b"" if not self.answer.body and "Content-Length" in self.answer.headers else body
        return self.send(_Answer(rule.status, headers, b"").header_bytes(), bare) and bool(bare)

    def drop(self) -> bool:
        return False

    def delay(self) -> bool:
        self.wait()
        return self.truth()

    def truncate(self) -> bool:
        self.beginning()
        return False

    def reset(self) -> bool:
        self.beginning()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def stall(self) -> bool:
        self.beginning()
        self.wait()
        return False

    def trickle(self) -> bool:
        self.send(self.answer.header_bytes())
        step = max(1, self.rule.after_bytes)
        for start in range(0, len(self.answer.body), step):
            self.send(self.answer.body[start : start + step])
            if self.closing.wait(_TRICKLE_S):
                return False
        return True

    def wrong_range(self) -> bool:
        true = self.answer.headers.get("Content-Range") or self.answer.headers.get("content-range")
        if true is None:
            return self.truth()
        unit, _, numbers = true.partition(" ")
        span, _, size = numbers.partition("/")
        start, _, last = span.partition("-")
        moved = f"{unit} {int(start) + 1}-{int(last) + 1}/{int(size) + 1}"
        return self.send(self.set("Content-Range", moved), self.answer.body)

    def wrong_etag(self) -> bool:
        other = bytes(byte ^ 0xFF for byte in self.answer.body)
        return self.send(self.set("ETag", '"00000000000000000000000000000000"'), other)

    def no_etag(self) -> bool:
        return self.send(self.set("ETag", None), self.answer.body)

    def wrong_length(self) -> bool:
        self.send(self.set("Content-Length", str(len(self.answer.body) + 1 + self.rule.after_bytes)), self.answer.body)
        return False

    def short(self) -> bool:
        body = self.answer.body[: max(0, len(self.answer.body) - max(1, self.rule.after_bytes))]
        return self.send(self.set("Content-Length", str(len(body))), body)

    def long(self) -> bool:
        body = self.answer.body + b"\0" * max(1, self.rule.after_bytes)
        return self.send(self.set("Content-Length", str(len(body))), body)

    def extra(self) -> bool:
        self.truth()
        return self.send(b"\0" * max(1, self.rule.after_bytes))

    def replay(self) -> bool:
        answer = self.previous or self.answer
        return self.send(answer.header_bytes(), answer.body)

    def twice(self) -> bool:
        half = self.answer.body[: len(self.answer.body) // 2]
        return self.send(self.answer.header_bytes(), (half + half + self.answer.body)[: len(self.answer.body)])

    def flip(self) -> bool:
        body = bytearray(self.answer.body)
        if body:
            body[len(body) // 2] ^= 0x10
        return self.send(self.answer.header_bytes(), bytes(body))

    def redirect(self) -> bool:
        headers = {"Location": self.path, "Content-Length": "0"}
        return self.send(_Answer(307, headers, b"").header_bytes())

    def html(self) -> bool:
        body = b"<html><body><h1>It works!</h1></body></html>"
        headers = {"Content-Type": "text/html", "Content-Length": str(len(body))}
        return self.send(_Answer(200, headers, b"").header_bytes(), body)

    def garbage(self) -> bool:
        self.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        return False


_SPOIL: dict[Trouble, Callable[[_Spoiling], bool]] = {
    "previous": _Spoiling.replay,
    **{trouble: getattr(_Spoiling, trouble) for trouble in get_args(Trouble) if trouble != "previous"},
}
