"""The request headers that boto3 has no arguments for: Tigris's own, and ``Cache-Control``.

Handlers sit on our private boto3 client, two of them for headers. The first runs before a request is signed, so that
Tigris's headers are part of the signature: a snapshot header that somebody can take off on the way would silently turn
a frozen mount into a live one. The second runs after, because gateways take ``Cache-Control`` for themselves, and a
signature over a header that does not arrive is a refusal. Another takes the bodies of listings, which botocore parses
too slowly (``listings``), and the last one looks at what answers tell of the store.

What is the same for every request comes from the configuration. What one request needs more stands in its *manner*,
which the thread that sends it holds while it does.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tigrismount.objects.options import S3Config
    from tigrismount.objects.traits import StoreTraits

DOCUMENT = "Document"
"""Where the answer to a listing holds its body, which botocore has not parsed."""

_METADATA = frozenset({"HeadObject", "ListObjectsV2"})
_FROZEN = frozenset({"GetObject", "HeadObject", "ListObjectsV2"})
"""What a snapshot is read with."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How one request is made."""

    no_store: bool = False
    """Ask caches on the way to let the store itself answer."""
    consistent: bool = False
    """Ask Tigris for the answer of the one place that always knows."""
    page: bool = False
    """This is a page of a directory: Tigris may say more of its rows, and move what they stand for near us."""
    snapshots_of: str = ""
    """List the snapshots of this bucket instead of buckets."""
    version_id: str = ""
    """Get the version with this id, whatever the key holds now."""


PLAIN = Manner()
"""Nothing special."""

UNCACHED = Manner(no_store=True)
"""For an answer from the store itself."""

SURE = Manner(no_store=True, consistent=True)
"""For an answer that must be about now."""


class RequestHeaders:
    """Adds the headers to the requests of one client.

    Args:
        config: Which headers are wanted.
        traits: Which headers are understood.
    """

    def __init__(self, config: S3Config, traits: StoreTraits) -> None:
        self._config = config
        self._traits = traits
        self._local = threading.local()

    def register(self, events: Any) -> None:
        """Work for the client that owns *events*, botocore's emitter, and look at its answers."""
        events.register("before-sign.s3", self._before_sign)
        events.register("before-send.s3", self._before_send)
        events.register("before-parse.s3.ListObjectsV2", self._before_parse)
        events.register("after-call.s3", self._after_call)

    @contextmanager
    def manner(self, manner: Manner) -> Iterator[None]:
        """Let what this thread sends in the block be sent in this manner."""
        self._local.manner = manner
        try:
            yield
        finally:
            self._local.manner = PLAIN

    def _manner(self) -> Manner:
        manner: Manner = getattr(self._local, "manner", PLAIN)
        return manner

    def signed(self, operation: str) -> dict[str, str]:
        """Return what this thread's request has to sign."""
        return self._signed(operation, self._manner())

    def unsigned(self) -> dict[str, str]:
        """Return what goes with this thread's request beside that."""
        return {"Cache-Control": "no-store"} if self._manner().no_store else {}

    def observe(self, headers: Mapping[str, str]) -> None:
        """Learn from an answer's headers what the store is."""
        self._traits.observe(headers)

    def _before_sign(self, request: Any, operation_name: str, **_: Any) -> None:
        for name, value in self.signed(operation_name).items():
            del request.headers[name]  # assignment alone would add a second one to a request that is signed again
            request.headers[name] = value

    def _signed(self, operation: str, manner: Manner) -> dict[str, str]:
        headers = {}
        if self._config.snapshot_version and operation in _FROZEN:
            headers["X-Tigris-Snapshot-Version"] = self._config.snapshot_version
        if manner.snapshots_of:
            headers["X-Tigris-Snapshot"] = manner.snapshots_of
        if not self._traits.is_tigris:
            return headers
        # What is said of a snapshot's names is believed for ever: a region that lags must not be who says it.
        sure = self._config.consistent or bool(self._config.snapshot_version)
        if manner.consistent or (sure and operation in _METADATA):
            headers["X-Tigris-Consistent"] = "true"
        if manner.page:
            headers["X-Tigris-List-Metadata"] = "true"
        if manner.page and self._config.tigris_prefetch:
            headers["X-Tigris-Prefetch"] = "true"
            headers["X-Tigris-List-Content"] = "true"
        return headers

    def _before_send(self, request: Any, **_: Any) -> None:
        for name, value in self.unsigned().items():
            request.headers[name] = value

    def _before_parse(self, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
        """Take the body of a listing out of botocore's hands: see ``listings``."""
        if response_dict["status_code"] == HTTPStatus.OK:
            customized_response_dict[DOCUMENT], response_dict["body"] = response_dict["body"], b""

    def _after_call(self, http_response: Any, **_: Any) -> None:
        self.observe(http_response.headers)
