"""A relay that spoils connections on request, below whatever is spoken on them: in TLS it knows nothing but bytes.

Rules are data, as the fault proxy's, and each concerns whole connections, counted in the order they are made: let
``skip`` pass, then hit ``count``. ``after_bytes`` counts what the server sends on the connection, so that a few
hundred are in the middle of a TLS handshake and some thousands in the middle of its records:

======= =====================================================
flip    one bit of that byte is another, and all else the same
cut     a clean end there, without TLS's own farewell
reset   a TCP reset there
stall   silence from there on, for ``delay_s``, then an end
======= =====================================================
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from tigrismount.demo.faults import FaultBook
from tigrismount.testing.served_port import ServedPort
from tigrismount.testing.spoiling import reset_on_close

if TYPE_CHECKING:
    from types import TracebackType

WireTrouble = Literal["flip", "cut", "reset", "stall"]
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRule:
    """One kind of trouble, for some connections."""

    trouble: WireTrouble
    """What happens to a connection that is hit."""
    after_bytes: int
    """Bytes from the server that pass unharmed."""
    skip: int = 0
    """Connections that pass unharmed first."""
    count: int = 1
    """Connections that are hit after those; -1 is all of them."""
    delay_s: float = 0.0
    """Seconds that ``stall`` lasts."""
    match: str = ""
    """Any connection."""


class WireProxy:
    """The relay, for a ``with`` block.

    Args:
        port: Port of this machine that connections are passed on to.
    """

    def __init__(self, port: int) -> None:
        self._upstream = ("127.0.0.1", port)
        self._book: FaultBook[WireRule] = FaultBook()
        self._port = ServedPort(self._serve)
        self._closing = threading.Event()
        self.hits = 0
        """Connections spoiled since the rules were set."""

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

    def inject(self, *rules: WireRule) -> None:
        """Put *rules* in force for connections made from now on, in place of all others, and cut those there are."""
        self.hits = 0
        self._book.replace(list(rules))
        self._port.cut()

    def refuse(self) -> None:
        """Cut all connections and refuse new ones, until ``accept``."""
        self._port.shut()

    def accept(self) -> None:
        """Take connections, on the same port as before."""
        self._port.open()

    def _serve(self, connection: socket.socket) -> None:
        rule = self._book.hit("")
        with socket.create_connection(self._upstream) as upstream:
            upward = threading.Thread(target=_relay, args=(connection, upstream), daemon=True)
            upward.start()
            try:
                self._relay_down(upstream, connection, rule)
            finally:
                for end in (upstream, connection):
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RD)
                upward.join()

    def _relay_down(self, upstream: socket.socket, connection: socket.socket, rule: WireRule | None) -> None:
        passed = 0
        while piece := upstream.recv(_PIECE_BYTES):
            at = rule.after_bytes - passed if rule is not None else -1
            if rule is None or not 0 <= at < len(piece):
                connection.sendall(piece)
                passed += len(piece)
                continue
            self.hits += 1
            connection.sendall(piece[:at])
            if rule.trouble != "flip":
                self._end(connection, rule)
                return
            connection.sendall(bytes([piece[at] ^ 0x10]) + piece[at + 1 :])
            passed += len(piece)

    def _end(self, connection: socket.socket, rule: WireRule) -> None:
        if rule.trouble == "stall":
            self._closing.wait(rule.delay_s)
        elif rule.trouble == "reset":
            reset_on_close(connection)


def _relay(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on until either end is gone."""
    with suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
