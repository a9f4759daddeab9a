"""The HTTP server behind ``--metrics-addr``: a thread of its own, which asks the daemon's loop for figures.

The loop never waits for the thread, and the thread waits for the loop no longer than a scrape may take: then it shows
the figures it had, and ``/healthz`` says that the daemon does not answer. One connection is served at a time, and hung
up on when it has not said what it wants in a few seconds.

- ``/``: a page for people (``metrics.page``);
- ``/metrics``: Prometheus text;
- ``/healthz``: 200 while the daemon's loop answers, else 503;
- ``/readyz``: 200 while the store can be used, else 503 and the reason.

An address that is taken, as by the worker that this one takes over from, is tried again until it is free: a mount is
worth more than its figures.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

import trio
from prometheus_client import CONTENT_TYPE_LATEST

from tigrismount import threads
from tigrismount.metrics.exposition import Exposition, Figures
from tigrismount.metrics.page import POLICY, page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

log = logging.getLogger(__name__)

ANSWER_S = 2.0
"""How long the loop may take to give figures: less than a scrape, far more than it should ever need."""

_SAY_SOMETHING_S = 5.0
"""A client that takes so long to say what it wants, or to take the answer, is hung up on."""
_AGAIN_S = 2.0
"""Time between two tries for an address that is taken."""
_POLL_S = 0.1
"""How often the thread looks whether it should end."""
_LAST_ANSWER_S = 1.0
"""How long an answer in progress may take when the mount ends."""
_HTML = "text/html; charset=utf-8"
_PLAIN = "text/plain; charset=utf-8"


class MetricsServer:
    """Serves one mount's figures.

    Args:
        host: Address to listen on.
        port: Port; 0 takes any.
        figures: Gives the figures; called in the trio thread.
        reports: Gives the load reports, newest last; called there too.
    """

    def __init__(
        self,
        host: str,
        port: int,
        figures: Callable[[], Figures],
        reports: Callable[[], Awaitable[Sequence[Mapping[str, Any]]]] | None = None,
    ) -> None:
        self._address = (host, port)
        self._figures = figures
        self._reports = reports
        self._last_reports: Sequence[Mapping[str, Any]] = ()
        self._nursery: trio.Nursery | None = None
        self._last: Figures | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._exposition = Exposition(self._newest)
        self.port = 0
        """The port it listens on, 0 while it does not."""
        self.degraded = ""
        """Why nobody is served; empty while all is well."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        self._last = self._figures()
        stopped = threading.Event()
        thread = self._begin(stopped)
        task_status.started()
        while thread is None:
            await trio.sleep(_AGAIN_S)
            thread = self._begin(stopped)
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    await trio.sleep_forever()
                finally:
                    self._nursery = None  # it takes nobody any more
        finally:
            stopped.set()
            with trio.CancelScope(shield=True), contextlib.suppress(threads.NoThreadError):
                await threads.run_sync(partial(thread.join, _LAST_ANSWER_S))

    def _begin(self, stopped: threading.Event) -> threading.Thread | None:
        """Begin to serve; return the thread that does, None where that cannot be now."""
        try:
            server = _Server(self._address, self)
        except OSError as exc:
            self._degrade(f"cannot listen on {self._address[0]} port {self._address[1]}: {exc.strerror or exc}")
            return None
        thread = threading.Thread(target=server.serve_until, args=[stopped], name="metrics", daemon=True)
        port = server.server_address[1]
        try:
            thread.start()
        except RuntimeError:  # as Python says that the system has no thread left
            server.server_close()
            self._degrade("the system has no thread left: raise the limit of tasks")
            return None
        self.port, self.degraded = port, ""
        return thread

    def _degrade(self, reason: str) -> None:
        if reason != self.degraded:
            log.warning("metrics: %s", reason)
        self.degraded = reason

    # -- in the server's thread --------------------------------------------------------------------------------

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Return status, content type and body for a path."""
        if path == "/":
            return 200, _HTML, page(self._newest().status, self._newest_reports())
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, self._exposition.text()
        if path == "/healthz":
            if self._renew():
                return 200, _PLAIN, b"ok\n"
            return 503, _PLAIN, f"the daemon has not answered for {ANSWER_S:g} s\n".encode()
        if path == "/readyz":
            away = [reason for reason in self._newest().status["degraded"] if reason.startswith("store:")]
            return (503, _PLAIN, "".join(f"{reason}\n" for reason in away).encode()) if away else (200, _PLAIN, b"ok\n")
        return 404, _PLAIN, b"there are /, /metrics, /healthz and /readyz\n"

    def _newest(self) -> Figures:
        self._renew()
        assert self._last is not None
        return self._last

    def _newest_reports(self) -> Sequence[Mapping[str, Any]]:
        """Ask for the load reports; give those there were where the loop has no time."""
        taken = threading.Event()

        async def take() -> None:
            try:
                assert self._reports is not None
                self._last_reports = await self._reports()
            except Exception:  # a picture of loads is not worth the mount
                log.exception("metrics: the load reports cannot be had")
            finally:
                taken.set()

        def begin() -> None:
            if self._nursery is not None:
                self._nursery.start_soon(take)
            else:
                taken.set()

        if self._reports is not None and self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(begin)
                taken.wait(ANSWER_S)
        return self._last_reports

    def _renew(self) -> bool:
        """Ask the loop for figures; return whether it gave some in time."""
        taken = threading.Event()

        def take() -> None:
            try:
                self._last = self._figures()
            except Exception:  # would end the worker
                log.exception("metrics: the figures cannot be had")
            taken.set()

        assert self._token is not None
        try:
            self._token.run_sync_soon(take)
        except trio.RunFinishedError:
            return False
        return taken.wait(ANSWER_S)


class _Server(TCPServer):
    """Not http.server's own: that one looks its name up in the DNS, which may take for ever."""

    allow_reuse_address = True
    timeout = _POLL_S

    def __init__(self, address: tuple[str, int], metrics: MetricsServer) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.metrics = metrics
        super().__init__(address, _Handler)

    def serve_until(self, stopped: threading.Event) -> None:
        """Answer, one connection at a time."""
        with self:
            while not stopped.is_set():
                self.handle_request()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection; where none can be taken, as without a descriptor, not at once again."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_POLL_S)
            raise

    def handle_error(self, request: object, client_address: object) -> None:
        """Say it quietly: clients go away."""
        log.debug("a scrape failed")


class _Request(io.RawIOBase):
    """What a client says, as long as it may take: a byte now and then would keep all others waiting.

    Args:
        connection: To the client.
        within_s: How long it may take.
    """

    def __init__(self, connection: socket.socket, within_s: float) -> None:
        self._connection = connection
        self._until_s = time.monotonic() + within_s

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Put what comes next into *buffer*.

        Raises:
            TimeoutError: It has taken too long.
        """
        self._connection.settimeout(max(self._until_s - time.monotonic(), 1e-3))
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    timeout = _SAY_SOMETHING_S
    server: _Server

    def setup(self) -> None:
        """Bound the whole of what the client says, where http.server bounds each wait for more of it."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Request(self.connection, self.timeout))

    def do_GET(self) -> None:
        self.connection.settimeout(self.timeout)
        status, kind, body = self.server.metrics.answer(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - http.server's names

    def version_string(self) -> str:
        """Tell scanners nothing."""
        return "tigrismount"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log no scrape."""
