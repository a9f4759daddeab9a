"""Tigris's gateway TAG as a mount sees it, in memory: an S3 endpoint that caches objects, with what that breaks.

Its answers to GET and HEAD of objects say in ``X-Cache`` where they come from. Measured on the real one:

- a cached object is answered as it was cached, for whoever asks: ``If-Match``, the snapshot header and ``partNumber``
  count for nothing, an overwrite or a delete in the store is not noticed;
- a range of an object that is not cached is passed on, and then the whole object is fetched into the cache, without
  the snapshot header; a whole GET is cached as it comes, also one of a snapshot, which poisons the key for everybody;
- ``Cache-Control: no-store`` passes the cache by, and yet starts that fetch;
- HEAD of an empty object has no ``Content-Length`` when it is cached;
- above a number of requests at once the answer is 503 SlowDown;
- what is about buckets is passed through, without ``X-Cache``.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tigrismount.testing.fake_tigris import error_answer, object_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.testing.fake_http import HttpAnswer, HttpRequest

_FOR_THE_STORE = ("x-tigris-snapshot-version", "if-match", "if-none-match", "range", "cache-control")


@dataclass(frozen=True, slots=True)
class _Cached:
    etag: str
    modified: str
    body: bytes


class FakeTag:
    """A gateway whose ``answer`` is served by ``fake_http.serving``.

    Args:
        upstream: Answers as the store does.
        inflight_limit: Requests taken at once.
        size_threshold_bytes: Larger objects are never cached.

    Attributes:
        requests: Every request, oldest first.
        states: The ``X-Cache`` of every answer that had one.
        refused: Requests refused for being too many.
        overloaded: Set once a request was refused.
    """

    def __init__(
        self,
        upstream: Callable[[HttpRequest], HttpAnswer],
        *,
        inflight_limit: int = 1024,
        size_threshold_bytes: int = 1 << 30,
    ) -> None:
        self.requests: list[HttpRequest] = []
        self.states: list[str] = []
        self.refused = 0
        self.overloaded = threading.Event()
        self._upstream = upstream
        self._slots = threading.Semaphore(inflight_limit)
        self._threshold_bytes = size_threshold_bytes
        self._cache: dict[tuple[str, str], _Cached] = {}

    def answer(self, request: HttpRequest) -> HttpAnswer:
        """Answer one request."""
        self.requests.append(request)
        if not self._slots.acquire(blocking=False):
            self.refused += 1
            self.overloaded.set()
            return error_answer(503, "SlowDown")
        try:
            return self._object(request) if request.key else self._upstream(request)
        finally:
            self._slots.release()

    def _object(self, request: HttpRequest) -> HttpAnswer:
        cached = self._cache.get((request.bucket, request.key))
        if "no-store" in request.headers.get("cache-control", ""):
            state, reply = "BYPASS", self._pass_on(request)
        elif cached is not None:
            state, reply = "HIT", _hit(request, cached)
        else:
            state, reply = "MISS", self._pass_on(request)
        self.states.append(state)
        reply.headers["X-Cache"] = state
        return reply

    def _pass_on(self, request: HttpRequest) -> HttpAnswer:
        """Ask the store, and keep a copy as the real one does; it does so in the background, we at once."""
        reply = self._upstream(request)
        if request.method != "GET" or reply.status not in (200, 206):
            return reply
        whole = reply
        if reply.status == 206:
            plain = {name: value for name, value in request.headers.items() if name not in _FOR_THE_STORE}
            whole = self._upstream(replace(request, headers=plain))
        if whole.status == 200 and len(whole.body) <= self._threshold_bytes:
            self._cache[request.bucket, request.key] = _Cached(
                whole.headers["ETag"].strip('"'), whole.headers["Last-Modified"], whole.body
            )
        return reply


def _hit(request: HttpRequest, cached: _Cached) -> HttpAnswer:
    reply = object_answer(request, cached.etag, 0, cached.body)
    reply.headers["Last-Modified"] = cached.modified
    if request.method == "HEAD" and not cached.body:
        del reply.headers["Content-Length"]
    return reply
