"""What the layers above need of an object store, as a protocol: the real one, the fake and the retrying one share it.

The contract suite in ``testing.object_contract`` is the specification; every implementation passes it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tigrismount.core.types import ObjectId

ARCHIVE_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes that answer a GET with InvalidObjectState until somebody restores the object."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a HEAD or one row of a listing says about an object."""

    id: ObjectId
    """The version."""
    mtime_s: float
    """``Last-Modified`` as seconds since the epoch."""
    storage_class: str = "STANDARD"
    """Storage class as the store names it."""
    version_id: str | None = None
    """Version id where the bucket has versions and the answer named it."""
    symlink_target: bytes | None = None
    """Where the object stands for a symbolic link, its target; empty where it is none; None where nobody said."""
    sha256: str = ""
    """SHA-256 of the whole object in hexadecimal where the answer named it."""
    checksums: tuple[tuple[str, str], ...] = ()
    """Further checksums of the whole object that a HEAD named: algorithm and hexadecimal sum."""

    @property
    def archived(self) -> bool:
        """Whether a GET is answered with InvalidObjectState, as far as this answer tells: listings do not say all."""
        return self.storage_class in ARCHIVE_CLASSES


@dataclass(frozen=True, slots=True)
class RestoredInfo(ObjectInfo):
    """What a HEAD says about an archived object of which there is a copy to be read for some days.

    A class of its own, as a member would take memory for each name of a directory.
    """

    @property
    def archived(self) -> bool:
        """Whether a GET is answered with InvalidObjectState: not while the copy is there."""
        return False


def restored(info: ObjectInfo) -> RestoredInfo:
    """Return what is known of an archived object that can be read."""
    return RestoredInfo(**{field.name: getattr(info, field.name) for field in fields(info)})


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of ListObjectsV2, in the store's (binary key) order."""

    objects: tuple[ObjectInfo, ...]
    """Keys of this page that are not rolled up."""
    prefixes: tuple[str, ...]
    """Common prefixes of this page, each ending with the delimiter."""
    next_token: str | None
    """Continuation token, None on the last page."""


class FetchSink(Protocol):
    """Where a fetch puts its bytes. Both methods are called from the fetching worker thread.

    When ``fetch`` returns or raises, cancellation included, the sink is not called again and nobody writes to its
    memory, so the owner may reuse it at once. The sink owns the memory and decides the granularity: small views where
    somebody waits for the next bytes, large ones where nobody does.
    """

    def next_view(self) -> memoryview:
        """Return the writable memory for the next bytes; empty when the range is complete or no longer wanted."""

    def wrote(self, count: int) -> None:
        """Say that *count* bytes were put at the start of the last view."""


@dataclass(frozen=True, slots=True)
class ObjectStatistics:
    """Counters since start; gauges say so."""

    get_requests: int = 0
    """Range GETs sent, retries included."""
    head_requests: int = 0
    """HEADs sent."""
    list_requests: int = 0
    """List pages asked for."""
    bytes_fetched: int = 0
    """Body bytes received by GETs, wasted ones included."""
    retries: int = 0
    """Requests sent again."""
    given_up: int = 0
    """GETs cut because they lagged far behind the others; what was left of them was asked for again."""
    slow_downs: int = 0
    """Answers that asked for fewer requests."""
    errors: int = 0
    """Requests that failed for good; that something is not there is an answer."""
    refusals: int = 0
    """Requests among them that the key was not allowed."""
    get_limit: int = 0
    """Gauge: GETs that may be in flight now."""
    get_limit_reason: str = ""
    """What the limit follows from, in a few words."""


class ObjectClient(Protocol):
    """A read-only S3 client. All methods are safe to call from many trio tasks at once.

    Every method keeps trying transient failures within its timeout and raises only ``ObjectError`` subclasses.
    """

    @property
    def get_limit(self) -> int:
        """GETs worth having in flight now: as many as bring more, and no more than the store takes."""

    async def check_access(self, bucket: str, prefix: str) -> None:
        """Prove that *bucket* can be listed and that *prefix* holds something, with one request.

        Args:
            bucket: Bucket name; empty proves that buckets can be listed and that there is one.
            prefix: Keys must start with this.

        Raises:
            ObjectNotFoundError: No such bucket, or nothing under the prefix; the detail says which.
            ObjectAccessError: The credentials are refused.
            ObjectUnavailableError: The endpoint cannot be reached; the detail names it.
        """

    async def list_buckets(self) -> tuple[str, ...]:
        """Return the names of the buckets that the credentials can list, in no particular order.

        Raises:
            ObjectAccessError: The credentials may not list buckets.
        """

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        """Return what the store says about *key* now, its user metadata included.

        Raises:
            ObjectNotFoundError: No such key.
        """

    async def list_page(
        self,
        bucket: str,
        prefix: str,
        *,
        delimiter: str = "/",
        token: str | None = None,
        start_after: str = "",
        max_keys: int = 1000,
    ) -> ListPage:
        """Return one page of the listing under *prefix*.

        Args:
            bucket: Bucket name.
            prefix: Keys must start with this; not a path.
            delimiter: Rolls up keys beyond it; empty lists flat.
            token: ``next_token`` of the page before.
            start_after: Key to start behind; ignored where *token* is given.
            max_keys: Most rows, at most 1000.

        Raises:
            ObjectNotFoundError: No such bucket.
        """

    async def fetch(self, obj: ObjectId, start: int, stop: int, sink: FetchSink) -> None:
        """Put bytes ``[start, stop)`` of exactly the version *obj* into *sink*, in order.

        Sends ``If-Match`` and checks status, ETag, Content-Range and length of each answer. A body that breaks or
        stalls is resumed from the last byte received. Returns when the sink is full, or early when the sink
        returned an empty view because the bytes are no longer wanted. A version whose id is known is also read after
        the key has been overwritten or deleted, where the bucket keeps it.

        Raises:
            StaleObjectError: The key now holds another version, and this one cannot be had.
            ObjectNotFoundError: The key is gone, and no version id is known.
            ObjectAccessError: The credentials are refused.
            ObjectArchivedError: The object must be restored first.
            ObjectUnavailableError: Retries or ``request_timeout_s`` are spent.
            ObjectProtocolError: The store kept sending answers that are not what was asked.
        """

    def version_id(self, obj: ObjectId) -> str:
        """Return the version id that a HEAD or GET has named for this version, empty where none has. Never blocks."""

    def know_version(self, obj: ObjectId, version_id: str) -> None:
        """Take over the version id that another process learned for *obj*; empty is no news."""

    def statistics(self) -> ObjectStatistics:
        """Return the counters."""

    async def aclose(self) -> None:
        """Close the connections; further calls fail."""
