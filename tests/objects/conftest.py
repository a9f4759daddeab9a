"""A server that answers HTTP requests with exactly the bytes a test wrote down, true or not."""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tigrismount.testing.certificates import make_certificate

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


class Then(enum.Enum):
    """What happens on the connection after the bytes before it."""

    CLOSE = "close"
    RESET = "reset"
    STALL = "stall"
    """Nothing more comes until the client goes away or the test ends."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str] = field(compare=False)

    @property
    def range(self) -> str:
        return self.headers.get("range", "")


class ScriptedServer:
    """One answer per request, in order; the last one is given again and again."""

    def __init__(self, *, tls=None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._tls = tls
        self._answers: list[tuple[bytes | Then | Callable[[Request], bytes], ...]] = []
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._busy = 0
        self.requests: list[Request] = []
        self.connections = 0
        self.peak_busy = 0
        """Most requests ever answered at once."""
        self.delay_s = 0.0
        """How long each answer takes."""
        self.greeting = b""
        """Sent before anything was asked."""
        self.stopped = threading.Event()
        self.arrived = threading.Condition(self._lock)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def answer(self, *steps: bytes | Then | Callable[[Request], bytes]) -> None:
        """Append an answer: bytes to send (or how to make them) and what to do with the connection, in order."""
        self._answers.append(steps)

    def wait_for_requests(self, count: int) -> None:
        """Return once *count* requests have come in. Blocks."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.requests) >= count, timeout=10)

    def stop(self) -> None:
        self.stopped.set()
        with self._lock:
            sockets = [self._listener, *self._connections]
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
                if self._tls:
                    connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:
                if self.stopped.is_set():
                    return
                continue
            with self._lock:
                self.connections += 1
                self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            connection.sendall(self.greeting)
            while (request := self._read(lines)) is not None:
                with self.arrived:
                    self.requests.append(request)
                    self._busy += 1
                    self.peak_busy = max(self.peak_busy, self._busy)
                    steps = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                    self.arrived.notify_all()
                self.stopped.wait(self.delay_s)
                with self._lock:
                    self._busy -= 1
                for step in steps:
                    if isinstance(step, Then):
                        return self._end(connection, step)
                    connection.sendall(step if isinstance(step, bytes) else step(request))
        return None

    @staticmethod
    def _read(lines) -> Request | None:
        first = lines.readline().decode("latin-1").split()
        if not first:
            return None
        headers = {}
        while line := lines.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return Request(first[0], first[1], headers)

    @staticmethod
    def _end(connection: socket.socket, step: Then) -> None:
        if step is Then.STALL:
            connection.recv(1)
        elif step is Then.RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def response(status: int, body: bytes = b"", **headers: str | int | None) -> bytes:
    """Return an HTTP response; a header given as None is left out."""
    named = {"Content-Length": len(body), **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in named.items() if value is not None)]
    return "\r\n".join([*lines, "", ""]).encode() + body


def part(data: bytes, start: int, stop: int, **headers: str | int | None) -> bytes:
    """Return the true 206 answer for bytes ``[start, stop)`` of *data*, except for the headers given."""
    true = {"ETag": '"abc"', "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
    return response(206, data[start:stop], **{**true, **headers})


def truth(data: bytes) -> Callable[[Request], bytes]:
    """Return an answer that serves whatever range of *data* is asked for."""

    def serve(request: Request) -> bytes:
        start, last = request.range.removeprefix("bytes=").split("-")
        return part(data, int(start), int(last) + 1)

    return serve


def error(status: int, code: str, **headers: str | int | None) -> bytes:
    """Return an S3 error answer."""
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>told</Message></Error>"
    return response(status, body.encode(), Content_Type="application/xml", **headers)


@dataclass(frozen=True)
class Scripting:
    """The words to write a script with, for tests (which cannot import this file)."""

    response = staticmethod(response)
    part = staticmethod(part)
    truth = staticmethod(truth)
    error = staticmethod(error)
    Then = Then
    Server = ScriptedServer


@pytest.fixture(scope="session")
def say() -> type[Scripting]:
    return Scripting


@pytest.fixture
def server():
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> tuple[ssl.SSLContext, str]:
    """A server context for 127.0.0.1 and the file of the authority that signed it (itself)."""
    bundle = tmp_path_factory.mktemp("tls") / "server.pem"
    return make_certificate(bundle), str(bundle)
