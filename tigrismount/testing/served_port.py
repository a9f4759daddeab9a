"""A TCP port of this machine that can be shut for a while, for servers that misbehave in tests: a thread each.

Shutting cuts what is connected and refuses what comes, as a server that was stopped does; opened again, it is the
same port.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class ServedPort:
    """Listens while it is open.

    Args:
        serve: Called with each connection, in a thread of its own; closes nothing but what it has opened itself.
    """

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self.number = 0
        """The port, once it was open."""

    def open(self) -> None:
        """Take connections, on the same port as before."""
        listener = socket.create_server(("127.0.0.1", self.number), backlog=256)
        self.number = listener.getsockname()[1]
        with self._lock:
            self._listener = listener
        threading.Thread(target=self._run, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        """Cut all connections and refuse new ones."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut all connections; new ones are taken as before."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _run(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def _serve_one(self, connection: socket.socket) -> None:
        try:
            # A peer that goes away, or breaks TLS off, ends the connection; it asks again.
            with suppress(OSError):
                self._serve(connection)
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()
