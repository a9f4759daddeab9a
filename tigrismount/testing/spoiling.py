"""What is done to an answer: the troubles of the fault proxy, one method each. ``fault_proxy`` has the table."""

from __future__ import annotations

import queue
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

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
    "duplicate",
    "swap",
    "twice",
    "flip",
    "redirect",
    "html",
    "garbage",
]
_TRICKLE_S = 0.01
_SWAP_S = 0.1
"""Shortest wait for an answer to change places with: the other request is already on its way, or there is none."""


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
    """Seconds that ``delay``, ``stall`` and ``swap`` last."""
    after_bytes: int = 0
    """See the table."""

    def __post_init__(self) -> None:
        if self.trouble not in get_args(Trouble):
            raise ValueError(f"no such trouble: {self.trouble}")


@dataclass(slots=True)
class Answer:
    """An answer to one request, whole."""

    status: int
    """HTTP status."""
    headers: dict[str, str]
    """Headers, ``Content-Length`` among them."""
    body: bytes
    """Body; empty for a HEAD."""

    def header_bytes(self) -> bytes:
        """Return status line and headers as they are sent."""
        lines = [f"HTTP/1.1 {self.status} Proxied", *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


class Exchange:
    """Where answers to two requests change places; the first to come waits for the second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: tuple[Answer, queue.SimpleQueue[Answer]] | None = None

    def swap(self, answer: Answer, wait_s: float) -> Answer:
        """Return the answer of the other, or *answer* where no other comes within *wait_s* seconds."""
        mine = answer, queue.SimpleQueue[Answer]()
        with self._lock:
            first = self._first
            self._first = mine if first is None else None
        if first is not None:
            first[1].put(answer)
            return first[0]
        try:
            return mine[1].get(timeout=wait_s)
        except queue.Empty:
            pass
        with self._lock:
            if self._first is mine:
                self._first = None
                return answer
        return mine[1].get()  # the other came at the last moment


@dataclass(frozen=True, slots=True)
class Spoiling:
    """One answer that is to be spoiled; each trouble returns whether the connection lives on."""

    connection: socket.socket
    """Where it goes."""
    rule: TroubleRule
    """The rule that hit."""
    answer: Answer
    """The truth."""
    previous: Answer | None
    """The answer to the request before, whoever sent that."""
    exchange: Exchange
    """Where answers change places."""
    path: str
    """Path of the request."""
    closing: threading.Event
    """Set when the proxy ends: nobody waits longer."""

    def spoil(self) -> bool:
        """Do what the rule says; return whether the connection lives on."""
        return _SPOIL[self.rule.trouble](self)

    def _send(self, header: bytes, body: bytes = b"") -> bool:
        self.connection.sendall(header + body)
        return True

    def _set(self, name: str, value: str | None) -> bytes:
        """Return the header with *name* changed, or taken out, and the rest true."""
        headers = {known: held for known, held in self.answer.headers.items() if known.lower() != name.lower()}
        if value is not None:
            headers[name] = value
        return Answer(self.answer.status, headers, b"").header_bytes()

    def _say(self, answer: Answer) -> bool:
        return self._send(answer.header_bytes(), answer.body)

    def _wait(self) -> None:
        self.closing.wait(self.rule.delay_s)

    def _beginning(self) -> None:
        self._send(self.answer.header_bytes(), self.answer.body[: self.rule.after_bytes])

    def _status(self) -> bool:
        rule = self.rule
        body = f"<?xml version='1.0'?><Error><Code>{rule.code}</Code><Message>on request</Message></Error>".encode()
        headers = {"Content-Type": "application/xml", "Content-Length": str(len(body))}
        if rule.retry_after:
            headers["Retry-After"] = rule.retry_after
        bare = b"" if not self.answer.body and "Content-Length" in self.answer.headers else body
        return self._send(Answer(rule.status, headers, b"").header_bytes(), bare) and bool(bare)

    def _drop(self) -> bool:
        return False

    def _delay(self) -> bool:
        self._wait()
        return self._say(self.answer)

    def _truncate(self) -> bool:
        self._beginning()
        return False

    def _reset(self) -> bool:
        self._beginning()
        reset_on_close(self.connection)
        return False

    def _stall(self) -> bool:
        self._beginning()
        self._wait()
        return False

    def _trickle(self) -> bool:
        self._send(self.answer.header_bytes())
        step = max(1, self.rule.after_bytes)
        for start in range(0, len(self.answer.body), step):
            self._send(self.answer.body[start : start + step])
            if self.closing.wait(_TRICKLE_S):
                return False
        return True

    def _wrong_range(self) -> bool:
        true = self.answer.headers.get("Content-Range") or self.answer.headers.get("content-range")
        if true is None:
            return self._say(self.answer)
        unit, _, numbers = true.partition(" ")
        span, _, size = numbers.partition("/")
        start, _, last = span.partition("-")
        moved = f"{unit} {int(start) + 1}-{int(last) + 1}/{int(size) + 1}"
        return self._send(self._set("Content-Range", moved), self.answer.body)

    def _wrong_etag(self) -> bool:
        other = bytes(byte ^ 0xFF for byte in self.answer.body)
        return self._send(self._set("ETag", '"00000000000000000000000000000000"'), other)

    def _no_etag(self) -> bool:
        return self._send(self._set("ETag", None), self.answer.body)

    def _wrong_length(self) -> bool:
        length = len(self.answer.body) + 1 + self.rule.after_bytes
        self._send(self._set("Content-Length", str(length)), self.answer.body)
        return False

    def _short(self) -> bool:
        body = self.answer.body[: max(0, len(self.answer.body) - max(1, self.rule.after_bytes))]
        return self._send(self._set("Content-Length", str(len(body))), body)

    def _long(self) -> bool:
        body = self.answer.body + b"\0" * max(1, self.rule.after_bytes)
        return self._send(self._set("Content-Length", str(len(body))), body)

    def _extra(self) -> bool:
        self._say(self.answer)
        return self._send(b"\0" * max(1, self.rule.after_bytes))

    def _previous(self) -> bool:
        return self._say(self.previous or self.answer)

    def _duplicate(self) -> bool:
        return self._say(self.answer) and self._say(self.answer)

    def _swap(self) -> bool:
        return self._say(self.exchange.swap(self.answer, max(_SWAP_S, self.rule.delay_s)))

    def _twice(self) -> bool:
        half = self.answer.body[: len(self.answer.body) // 2]
        return self._send(self.answer.header_bytes(), (half + half + self.answer.body)[: len(self.answer.body)])

    def _flip(self) -> bool:
        body = bytearray(self.answer.body)
        if body:
            body[len(body) // 2] ^= 0x10
        return self._send(self.answer.header_bytes(), bytes(body))

    def _redirect(self) -> bool:
        headers = {"Location": self.path, "Content-Length": "0"}
        return self._send(Answer(307, headers, b"").header_bytes())

    def _html(self) -> bool:
        body = b"<html><body><h1>It works!</h1></body></html>"
        headers = {"Content-Type": "text/html", "Content-Length": str(len(body))}
        return self._send(Answer(200, headers, b"").header_bytes(), body)

    def _garbage(self) -> bool:
        self._send(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        return False


_SPOIL: dict[Trouble, Callable[[Spoiling], bool]] = {
    trouble: getattr(Spoiling, f"_{trouble}") for trouble in get_args(Trouble)
}


def reset_on_close(connection: socket.socket) -> None:
    """Let the end of *connection* be a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
