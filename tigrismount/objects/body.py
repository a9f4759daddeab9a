"""Reads a response body into the caller's memory, with as few copies as the libraries allow.

botocore's ``StreamingBody.read`` makes a new ``bytes`` for each call and its ``readinto`` copies through one. Two
layers below, ``http.client.HTTPResponse.readinto`` receives straight into our buffer and saves a quarter of the CPU
per byte. The way there leads through attributes that promise nothing (``_raw_stream``, ``_fp``), so each step is
checked and anything unknown (a wrapped body, a framed transfer, a content coding) takes the ordinary way.

``http.client`` in turn asks the socket again and again for what it holds at that moment, and each time Python waits for
its turn twice: when the socket is readable, and when it was read. So bytes are taken from the socket itself: of a plain
one by a single call that the kernel completes (``MSG_WAITALL``), of TLS record by record without the layers between.

A body read to its end gives its connection back to the pool; one that was not is closed with its connection, because
the rest of it is still on the way.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import struct
from typing import Any


class BodyReader:
    """The body of one GET, read by one thread.

    Args:
        body: botocore's ``StreamingBody``.
    """

    def __init__(self, body: Any) -> None:
        self._body = body
        self._response = direct_response(body)
        self._socket = None if self._response is None else socket_under(self._response)
        self._begun = False
        """Whether what came together with the head of the answer was taken."""
        self._interrupted = False
        """Whether another thread has shut the connection down: what is read from there on may be enciphered."""

    @property
    def direct(self) -> bool:
        """Whether bytes go straight from the socket into the caller's memory."""
        return self._response is not None

    def readinto(self, view: memoryview) -> int:
        """Read into *view* and return the count; zero only at the end.

        Raises:
            Exception: Whatever urllib3, ``http.client``, ``ssl`` or the socket raise.
        """
        if self._response is not None and self._socket is not None:
            return self._receive(self._response, self._socket, view)
        if self._response is not None:
            return self._response.readinto(view)
        filled = 0
        while filled < len(view):
            data = self._body.read(len(view) - filled)
            self._check_deciphered()
            if not data:
                break
            view[filled : filled + len(data)] = data
            filled += len(data)
        return filled

    def _receive(self, response: http.client.HTTPResponse, source: socket.socket, view: memoryview) -> int:
        if response.fp is None or response.length is None:
            return 0
        view = view[: response.length]
        count = 0 if self._begun else self._take_buffered(response, source, view)
        if count < len(view):
            rest = view[count:]
            count += _receive_records(source, rest) if isinstance(source, ssl.SSLSocket) else _receive_all(source, rest)
        response.length -= count
        if not (response.length and count):
            response.close()
        return count

    def _take_buffered(self, response: http.client.HTTPResponse, source: socket.socket, view: memoryview) -> int:
        """Take what was read together with the head; once that is gone, nothing more is buffered."""
        buffered = len(response.fp.peek())
        self._check_deciphered()
        if buffered <= len(view):
            self._begun = True
            if not isinstance(source, ssl.SSLSocket):
                _let_the_kernel_wait(source)
        return response.fp.readinto(view[:buffered])

    def _check_deciphered(self) -> None:
        """Refuse what was read by the layers above a TLS socket, which go past TLS once that is shut down."""
        if self._interrupted:
            raise ValueError("the body was interrupted")

    def interrupt(self) -> None:
        """Make a read that hangs in another thread end now, and later reads fail."""
        self._interrupted = True  # first: what is seen of the end after this is no body
        shutdown = getattr(getattr(self._body, "_raw_stream", None), "shutdown", None)
        if shutdown is not None:  # urllib3 2.3; before it, the read ends with its timeout
            with contextlib.suppress(ValueError, RuntimeError, OSError):
                shutdown()

    def close(self, *, complete: bool) -> None:
        """Give the connection back if nothing of the body is left on it, else close it.

        Args:
            complete: Whether all bytes came; a server that closed early leaves a response that looks finished.
        """
        raw: Any = getattr(self._body, "_raw_stream", None)
        response = getattr(raw, "_fp", None)
        if complete and isinstance(response, http.client.HTTPResponse) and response.isclosed():
            raw.release_conn()
        else:
            self._body.close()


def _receive_records(source: ssl.SSLSocket, view: memoryview) -> int:
    """Fill *view* from a TLS socket, which gives one record of at most 16 KiB at a time.

    By ``read``, which fails once another thread has shut the socket down: ``recv_into`` gives what comes from there
    as it comes then, enciphered, and the view may be of memory that somebody else has filled meanwhile.

    Raises:
        ValueError: It was shut down.
        OSError: It failed.
    """
    filled = 0
    while filled < len(view):
        count: Any = source.read(len(view) - filled, view[filled:])  # a number, where there is a buffer
        if not count:
            break
        filled += count
    return filled


def _let_the_kernel_wait(source: socket.socket) -> None:
    """Leave the timeout of reads to the kernel: a socket with one of Python's never blocks, and is waited for apart."""
    seconds = source.gettimeout()
    if seconds is not None:
        whole, rest = divmod(seconds, 1.0)
        source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(whole), int(rest * 1e6)))
        source.settimeout(None)


def _receive_all(source: socket.socket, view: memoryview) -> int:
    """Fill *view* by one call; what came in time, or before the end, is returned.

    Raises:
        TimeoutError: Nothing came in time.
    """
    try:
        return source.recv_into(view, len(view), socket.MSG_WAITALL)
    except BlockingIOError:
        raise TimeoutError("timed out") from None


def socket_under(response: http.client.HTTPResponse) -> socket.socket | None:
    """Return the socket that *response* reads, None where something unknown lies between."""
    source = getattr(getattr(response.fp, "raw", None), "_sock", None)
    return source if type(source) in {socket.socket, ssl.SSLSocket} and hasattr(response.fp, "peek") else None


def direct_response(body: Any) -> http.client.HTTPResponse | None:
    """Return the ``http.client`` response under *body* if reading it directly is safe, else None.

    Safe means: nobody above it transforms the bytes, and their number is known.
    """
    raw = getattr(body, "_raw_stream", None)
    response = getattr(raw, "_fp", None)
    if type(response) is not http.client.HTTPResponse or response.chunked or response.length is None:
        return None
    if response.headers.get("Content-Encoding", "identity") not in {"", "identity"}:
        return None
    return response
