"""Reads a response body into the caller's memory, with as few copies as the libraries allow.

botocore's ``StreamingBody.read`` makes a new ``bytes`` for each call and its ``readinto`` copies through one. Two
layers below, ``http.client.HTTPResponse.readinto`` receives straight into our buffer and saves a quarter of the CPU
per byte. The way there leads through attributes that promise nothing (``_raw_stream``, ``_fp``), so each step is
checked and anything unknown (a wrapped body, a framed transfer, a content coding) takes the ordinary way.

A body read to its end gives its connection back to the pool; one that was not is closed with its connection, because
the rest of it is still on the way.
"""

from __future__ import annotations

import contextlib
import http.client
from typing import Any


class BodyReader:
    """The body of one GET, read by one thread.

    Args:
        body: botocore's ``StreamingBody``.
    """

    def __init__(self, body: Any) -> None:
        self._body = body
        self._response = direct_response(body)

    @property
    def direct(self) -> bool:
        """Whether bytes go straight from the socket into the caller's memory."""
        return self._response is not None

    def readinto(self, view: memoryview) -> int:
        """Fill *view* as far as the body goes and return the count; less than asked only at the end.

        Raises:
            Exception: Whatever urllib3, ``http.client``, ``ssl`` or the socket raise.
        """
        if self._response is not None:
            return self._response.readinto(view)
        filled = 0
        while filled < len(view):
            data = self._body.read(len(view) - filled)
            if not data:
                break
            view[filled : filled + len(data)] = data
            filled += len(data)
        return filled

    def interrupt(self) -> None:
        """Make a read that hangs in another thread end now, and later reads fail."""
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
