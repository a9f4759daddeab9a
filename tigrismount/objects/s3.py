"""The S3 client: boto3 in threads, every answer checked, every failure ours.

A request runs through three layers. ``retrying`` decides whether and when to try again, within one deadline. ``_send``
runs one try in a worker thread of one of two *lanes*: data and metadata have their own, so that a look-up never waits
behind gigabytes. The thread itself talks to boto3, translates what it raises and checks what it answers; of a GET of
data, a fetch process (``fetchers``) may do the talking and receive the body.

The data lane (``lane``) is as wide as is worth it and the store lets it be, up to ``concurrency``. A thread holds its
place in a lane until it ends, also when the task that wanted it was cancelled, so abandoned threads are bounded too;
``transfer`` says why they do no harm.

Two kinds of failure are looked at once more before they count. A refused key may have been replaced (``keys``). An
object that is gone or changed may only seem so, or still be there under its version id (``asking``). Look-ups always
pass caches by: a stale name is what nobody could tell.
"""

from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from tigrismount import threads
from tigrismount.errors import (
    ObjectAccessError,
    ObjectError,
    ObjectNotFoundError,
    ObjectProtocolError,
    ObjectUnavailableError,
    SlowDownError,
)
from tigrismount.objects.asking import Asking
from tigrismount.objects.bandwidth import Bandwidth
from tigrismount.objects.connection import make_boto_client
from tigrismount.objects.counters import Counters
from tigrismount.objects.endpoints import is_tigris, is_unprotected
from tigrismount.objects.failures import translated
from tigrismount.objects.fetchers.line import send as send_on_line
from tigrismount.objects.fetchers.wire import SigningKey
from tigrismount.objects.gets import OPERATION, object_getter
from tigrismount.objects.headers import DOCUMENT, PLAIN, UNCACHED, Manner, RequestHeaders
from tigrismount.objects.inlined import InlinedFiles
from tigrismount.objects.keys import KeyRenewal, SigningKeys
from tigrismount.objects.lane import DataLane
from tigrismount.objects.listed import ListedMetadata
from tigrismount.objects.listings import parse_listing
from tigrismount.objects.metadata import checksums_of, sha256_of, symlink_target
from tigrismount.objects.ranges import RangeGet, range_answer
from tigrismount.objects.rawnames import missing_where_malformed, sendable
from tigrismount.objects.responses import Target, check_range_answer, object_size_bytes
from tigrismount.objects.retry import RetryPolicy, retrying
from tigrismount.objects.rows import info_of
from tigrismount.objects.snapshots import Snapshot, parse_rows
from tigrismount.objects.stragglers import Stragglers, settle
from tigrismount.objects.traits import StoreTraits
from tigrismount.objects.transfer import Transfer
from tigrismount.objects.versions import VersionIds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tigrismount.core.histogram import HistogramSnapshot
    from tigrismount.core.types import ObjectId
    from tigrismount.objects.client import FetchSink, ListPage, ObjectInfo, ObjectStatistics
    from tigrismount.objects.credentials import Credentials, HandedIn
    from tigrismount.objects.fetchers.pool import FetchProcesses
    from tigrismount.objects.options import S3Config
    from tigrismount.objects.ranges import RangeAnswer

T = TypeVar("T")

log = logging.getLogger(__name__)

METADATA_THREADS = 8
"""Width of the metadata lane: a listing is bound by the store's answer, and look-ups come in small bursts."""

CHECK_TIMEOUT_S = 13.0
"""Longest ``check_access``: somebody waits at a prompt for ``mount`` to return, or the kubelet for a volume. Where
the first two addresses of a store lead nowhere, ten seconds are gone before the third one is tried."""

BUCKET_PAGES_MAX = 100
"""Pages of buckets followed: a million buckets, far above what any account may have."""

BUCKET_NAMES_MAX_BYTES = 128 << 20
"""What their names may take in memory, each somewhat more than its letters: a million, too."""
_NAME_BYTES = 64

CHECK_RETRIES = 5
"""Tries after the first in ``check_access``: about two seconds in all where an endpoint refuses at once."""

PLAIN_HEADS_S = 600.0
"""How long nobody asks for checksums where that was refused: the next one who does pays with three requests for one."""

_UNLISTABLE = "the bucket refuses anonymous listings: files under the prefix open by name, directories are not seen"


class S3Client:
    """An ``ObjectClient`` for one S3-compatible endpoint.

    Making one imports nothing more but takes a tenth of a second or two: do it in a thread.

    Args:
        config: The endpoint and its limits.
        credentials: Key to sign with; None leaves the choice to boto3's own chain.
        find_credentials: Looks for another key, in a thread, when the store refused the one there is.
        draw: Gives random numbers in ``[0, 1)`` for the waits between tries.
        fetchers: Fetch processes, for sinks whose memory they share; None leaves all the work to threads.

    Raises:
        ConfigError: The endpoint URL, the profile or the CA bundle is unusable.
    """

    def __init__(
        self,
        config: S3Config,
        credentials: Credentials | None,
        *,
        find_credentials: Callable[[], Credentials | None] | None = None,
        draw: Callable[[], float] = random.random,
        fetchers: FetchProcesses | None = None,
    ) -> None:
        self._config = config
        self.traits = StoreTraits(config.endpoint_url)
        self._keys = SigningKeys(credentials, metadata_service=not is_tigris(config.endpoint_url))
        self._renewal = KeyRenewal(self._keys, find_credentials)
        self._boto = make_boto_client(config, self._keys, config.concurrency + METADATA_THREADS)
        self._headers = RequestHeaders(config, self.traits)
        self._headers.register(self._boto.meta.events)
        self._get_object = object_getter(self._boto, self._keys, self._headers)
        self._fetchers = fetchers
        if fetchers is not None:
            fetchers.sign_like(self._keys)
        self._inlined = InlinedFiles()
        self._listed = ListedMetadata()
        self._versions = VersionIds()
        self._unlistable = False
        self._tells_checksums = False
        """Whether a HEAD that asked for checksums was ever answered: who refuses one then is somebody on the way."""
        self._plain_until_s = -math.inf
        """Until when the store counts as one that refuses such a HEAD, by the monotonic clock."""
        self._draw = draw
        self._counters = Counters()
        self._data_lane = DataLane(config.concurrency, draw=draw)
        self._bandwidth = Bandwidth(config.bandwidth_bytes_s)
        self._metadata_lane = trio.CapacityLimiter(METADATA_THREADS)
        self._stragglers = Stragglers(lambda: self._data_lane.has_room, partial(self._counters.add, "given_up"))
        self._extra = {"RequestPayer": "requester"} if config.requester_pays else {}
        self._closed = False
        self._data_policy = RetryPolicy(timeout_s=config.request_timeout_s, max_retries=config.max_retries)
        self._metadata_policy = RetryPolicy(timeout_s=config.metadata_timeout_s, max_retries=config.max_retries)
        self._check_policy = RetryPolicy(
            timeout_s=min(CHECK_TIMEOUT_S, config.metadata_timeout_s),
            max_retries=min(CHECK_RETRIES, config.max_retries),
        )

    # -- ObjectClient ------------------------------------------------------------------------------------------

    @property
    def get_limit(self) -> int:
        """GETs worth having in flight now, as far as the store takes them."""
        return self._data_lane.limit

    async def check_access(self, bucket: str, prefix: str) -> None:
        """Prove that *bucket* can be listed and that *prefix* holds something, with one request."""
        if not bucket:
            if not await self._bucket_names(PLAIN, self._target(""), self._check_policy):
                raise ObjectNotFoundError(f"the key from {self.key_source} has no bucket at {self.endpoint_url}")
            return
        query = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": 1}
        try:
            page = await self._list(query, self._check_policy)
        except ObjectAccessError:
            if not self._keys.anonymous:
                raise
            if not self._unlistable:
                log.warning("s3://%s: %s", bucket, _UNLISTABLE)
            self._unlistable = True
            return
        if not page.objects and page.next_token is None:
            where, remedy = await self._why_empty(bucket, prefix)
            if self._config.snapshot_version:
                where += f" in snapshot {self._config.snapshot_version}"
            raise ObjectNotFoundError(f"{where}: {remedy}", bucket=bucket)

    async def _why_empty(self, bucket: str, prefix: str) -> tuple[str, str]:
        """Return what is wrong with a place that holds nothing, and what to do; people name a file for a directory."""
        remedy = "check the name, or upload something first"
        if not prefix:
            return "the bucket is empty", remedy
        nothing = f"nothing lies under the prefix {prefix!r}"
        try:
            await self.head(bucket, prefix.removesuffix("/"))
        except ObjectError:
            return nothing, remedy
        return f"{nothing}, and {prefix.removesuffix('/')!r} is a file", "name the directory that it lies in"

    async def list_buckets(self) -> tuple[str, ...]:
        """Return the names of the buckets that the credentials can list."""
        return tuple(await self._bucket_names(PLAIN, self._target(""), self._metadata_policy))

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        """Return what the store says about *key* now."""
        target = self._target(bucket, key)
        refused = -1
        """Generation of the key that asked for checksums too, and had no answer that is one."""

        def request() -> ObjectInfo:
            nonlocal refused
            generation = self._keys.generation
            plain = not self._tells_checksums and time.monotonic() < self._plain_until_s
            if refused == generation and not plain and not self._tells_checksums:
                return self._head_without_checksums(target)
            try:
                return self._head(target, checksums=not plain)
            except ObjectProtocolError:
                refused = generation
                raise

        return await self._call(lambda: self._send(request), self._metadata_policy, target)

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
        """Return one page of the listing under *prefix*."""
        query: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": max_keys}
        if delimiter:
            query["Delimiter"] = delimiter
        if token is not None:
            query["ContinuationToken"] = token
        elif start_after:
            query["StartAfter"] = start_after
        # A look-up lists one row; saying more of it, or moving data, would be for nothing.
        return await self._list(query, self._metadata_policy, Manner(page=max_keys > 1))

    async def fetch(self, obj: ObjectId, start: int, stop: int, sink: FetchSink) -> None:
        """Put bytes ``[start, stop)`` of exactly the version *obj* into *sink*, in order."""
        if not 0 <= start <= stop <= obj.size_bytes:
            raise ValueError(f"[{start}, {stop}) is not a range of {obj.size_bytes} bytes")
        if start == stop:
            await trio.lowlevel.checkpoint()
            return
        data = self._inlined.find(obj)
        if data is not None:
            try:
                await threads.run_sync(partial(_pour, data[start:stop], sink), limiter=self._data_lane.places)
            except threads.NoThreadError as exc:
                raise ObjectUnavailableError(str(exc), bucket=obj.bucket, key=obj.key) from exc
            return
        if self._fetchers is not None:
            self._fetchers.want(stop - start)
        transfer = Transfer(obj, start, stop, sink)
        target = self._target(obj.bucket, obj.key)

        async def get(manner: Manner) -> None:
            nonlocal transfer
            while True:
                send = partial(self._send_get, transfer, partial(self._get, transfer, target, manner))
                if await self._stragglers.run(transfer, send):
                    return
                transfer = transfer.successor()

        versions = None if self._config.snapshot_version else self._versions  # frozen versions do not go
        asking = Asking(obj, get, self.traits, versions, partial(self._counters.add, "retries"))
        try:
            await self._call(asking.attempt, self._data_policy, target, progress=lambda: transfer.position)
        finally:
            await settle(transfer)

    def version_id(self, obj: ObjectId) -> str:
        """Return the id that answers have named for this version, empty where none has."""
        return self._versions.find(obj)

    def know_version(self, obj: ObjectId, version_id: str) -> None:
        """Take over the id of a version that somebody else learned."""
        self._versions.learn(obj, version_id)

    @property
    def version_ids(self) -> int:
        """Versions whose ids are remembered."""
        return len(self._versions)

    def statistics(self) -> ObjectStatistics:
        """Return the counters."""
        lane = self._data_lane
        return self._counters.snapshot(get_limit=lane.limit, get_limit_reason=lane.reason)

    def timings(self) -> dict[str, HistogramSnapshot]:
        """Return how long GETs that ended well took, to their ``first_byte`` and in all (``get``)."""
        return self._counters.timings()

    async def aclose(self) -> None:
        """Close the connections; further calls fail."""
        self._closed = True
        self._bandwidth.close()
        await trio.to_thread.run_sync(self._boto.close)

    # -- Tigris's own ------------------------------------------------------------------------------------------

    @property
    def endpoint_url(self) -> str:
        """Base URL of the store."""
        return self._config.endpoint_url

    @property
    def key_source(self) -> str:
        """Where the key in use came from."""
        return self._keys.source

    @property
    def outdated_keys(self) -> tuple[str, ...]:
        """Digests of the keys that others were handed in for."""
        return self._keys.outdated

    def inherit_key(self, handed_in: HandedIn) -> None:
        """Sign with a key that was handed in to a process before this one; blocks for some milliseconds."""
        self._keys.inherit(handed_in)

    async def replace_key(self, credentials: Credentials) -> bool:
        """Sign with another key from now on; return whether it is another one. Anonymous clients stay so.

        Raises:
            NoThreadError: The system has no thread to do it in.
        """
        return await threads.run_sync(partial(self._keys.hand_in, credentials), abandon_on_cancel=True)

    def seal(self, text: bytes) -> bytes:
        """Return a digest of *text* that only a client with the same key can make; may read files the first time."""
        return self._keys.seal(text)

    @property
    def key_generation(self) -> int:
        """How often the key was replaced."""
        return self._keys.generation

    @property
    def listable(self) -> bool:
        """Whether the bucket could be listed when access was checked."""
        return not self._unlistable

    def notes(self) -> list[str]:
        """Return what is worth knowing about this store and is no fault, one line each."""
        return [*self.traits.notes(), *([_UNLISTABLE] if self._unlistable else []), *self.dangers()]

    def dangers(self) -> list[str]:
        """Return what a person may not know and should, one line each."""
        if not is_unprotected(self.endpoint_url):
            return []
        return [f"{self.endpoint_url} is plain HTTP: anybody on the way can read and change what it sends; use https"]

    async def bucket_headers(self, bucket: str) -> Mapping[str, str]:
        """Return the headers of a HEAD of the bucket, names in lower case; Tigris tells of snapshots and forks there.

        Raises:
            ObjectNotFoundError: No such bucket.
        """
        target = self._target(bucket)

        def request() -> Mapping[str, str]:
            self._counters.add("head_requests")
            with translated(target):
                headers: Mapping[str, str] = self._boto.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
                return headers

        return await self._call(lambda: self._send(request), self._check_policy, target)

    async def snapshots(self, bucket: str) -> tuple[Snapshot, ...]:
        """Return the snapshots that were taken of *bucket*, oldest first.

        Raises:
            ObjectAccessError: The key may not list them.
        """
        manner = Manner(snapshots_of=bucket)
        return parse_rows(await self._bucket_names(manner, self._target(bucket), self._metadata_policy))

    # -- in the trio task --------------------------------------------------------------------------------------

    def _target(self, bucket: str, key: str = "") -> Target:
        return Target(self._config.endpoint_url, self._keys.source, bucket, key)

    async def _bucket_names(self, manner: Manner, target: Target, policy: RetryPolicy) -> list[str]:
        """Return the names of buckets, or what stands in their place when Tigris lists snapshots."""

        def request(token: str | None) -> tuple[list[str], str | None]:
            self._counters.add("list_requests")
            with translated(target), self._headers.manner(manner):
                answer = self._boto.list_buckets(**({"ContinuationToken": token} if token else {}))
                return [row["Name"] for row in answer.get("Buckets", ())], answer.get("ContinuationToken")

        names: list[str] = []
        token: str | None = None
        taken_bytes = 0
        for _ in range(BUCKET_PAGES_MAX):
            attempt = partial(self._send, partial(request, token))
            page, token = await self._call(attempt, policy, target)
            names += page
            taken_bytes += sum(len(name) + _NAME_BYTES for name in page)
            if not token:
                return names
            if taken_bytes > BUCKET_NAMES_MAX_BYTES:
                break
        raise ObjectProtocolError("the list of buckets does not come to an end", bucket=target.bucket)

    async def _list(self, query: dict[str, Any], policy: RetryPolicy, manner: Manner = PLAIN) -> ListPage:
        target = self._target(query["Bucket"])
        sent = {name: sendable(value) if isinstance(value, str) else value for name, value in query.items()}

        def request() -> ListPage:
            self._counters.add("list_requests")
            asked = manner.page and self.traits.is_tigris  # before: what is learned meanwhile was not asked for
            wrong_name = missing_where_malformed(sent.values(), target)
            with wrong_name, translated(target), self._headers.manner(manner):
                answer = self._boto.list_objects_v2(**sent, **self._extra)
                listing = parse_listing(answer.get(DOCUMENT, b""), query, target)
            self._inlined.keep((info.id for info in listing.page.objects), listing.contents)
            return self._listed.complete(listing.page, listing.metadata) if asked else listing.page

        return await self._call(lambda: self._send(request), policy, target)

    async def _call(
        self,
        attempt: Callable[[], Awaitable[T]],
        policy: RetryPolicy,
        target: Target,
        progress: Callable[[], int] = lambda: 0,
    ) -> T:
        """Retry *attempt* and count what comes of it."""
        try:
            if self._closed:
                raise ObjectUnavailableError("the client is closed", bucket=target.bucket, key=target.key)
            return await retrying(
                lambda: self._with_a_good_key(attempt),
                policy,
                target,
                draw=self._draw,
                progress=progress,
                on_retry=lambda: self._counters.add("retries"),
            )
        except ObjectNotFoundError:
            raise  # an answer, and often the one that was hoped for: checksums beside a file are looked for by name
        except ObjectError as exc:
            self._counters.add("errors")
            if isinstance(exc, ObjectAccessError):
                self._counters.add("refusals")
            raise

    async def _with_a_good_key(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make one try; where the key is refused and there is another one by now, one more with that."""
        generation = self._keys.generation
        try:
            return await attempt()
        except ObjectAccessError:
            if not await self._renewal.renewed(generation):
                raise
        self._counters.add("retries")
        return await attempt()

    async def _send(self, request: Callable[[], T]) -> T:
        """Run one look-up or listing in a thread of the metadata lane."""
        ticket = self._data_lane.aside()
        try:
            return await threads.run_sync(request, abandon_on_cancel=True, limiter=self._metadata_lane)
        except threads.NoThreadError as exc:
            raise ObjectUnavailableError(f"no request: {exc}") from exc
        except SlowDownError as exc:
            self._counters.add("slow_downs")
            self._data_lane.refused(ticket, exc)
            raise

    async def _send_get(self, transfer: Transfer, get: Callable[[], None]) -> None:
        """Run one GET in a thread of the data lane."""
        try:
            await self._data_lane.run(get, lambda: transfer.position)
        except SlowDownError:
            self._counters.add("slow_downs")
            raise

    # -- in the worker thread ----------------------------------------------------------------------------------

    def _head(self, target: Target, *, checksums: bool) -> ObjectInfo:
        """Send one HEAD."""
        self._counters.add("head_requests")
        mode = {"ChecksumMode": "ENABLED"} if checksums else {}
        with translated(target), self._headers.manner(UNCACHED):
            answer = self._boto.head_object(Bucket=target.bucket, Key=sendable(target.key), **mode, **self._extra)
            self._check_frozen(answer["ResponseMetadata"]["HTTPHeaders"], target)
            info = info_of(target.bucket, target.key, answer, size_bytes=object_size_bytes(answer, target))
            self._versions.learn(info.id, info.version_id)
            if checksums:
                self._tells_checksums = True
            return replace(
                info,
                symlink_target=symlink_target(answer),
                sha256=sha256_of(answer),
                checksums=checksums_of(answer),
            )

    def _head_without_checksums(self, target: Target) -> ObjectInfo:
        """Send a HEAD that asks for none, after one that did came to nothing, and find out whether that was why.

        Backblaze answers 400 to the header that asks for them, as to any that it does not know, and others 501. So may
        one of two proxies in turns, for as long as it is in trouble: what is found out holds for some minutes.
        """
        found: ObjectInfo | ObjectNotFoundError
        try:
            found = self._head(target, checksums=False)
        except ObjectNotFoundError as exc:
            found = exc
        try:
            return self._head(target, checksums=True)
        except ObjectProtocolError:
            self._plain_until_s = time.monotonic() + PLAIN_HEADS_S
        log.info("%s cannot be asked for its checksums: files are not compared with them", self.endpoint_url)
        if isinstance(found, ObjectNotFoundError):
            raise found
        return found

    def _get(self, transfer: Transfer, target: Target, manner: Manner) -> None:
        """Send one GET for what is left of the transfer, check the answer and hand its body over."""
        obj, start, stop = transfer.obj, transfer.position, transfer.stop
        condition = {}
        if manner.version_id:
            condition["VersionId"] = manner.version_id
        elif obj.cacheable:  # a weak tag never matches
            condition["IfMatch"] = f'"{obj.etag}"'
        self._counters.add("get_requests")
        sent_s = time.monotonic()
        transfer.send(sent_s)
        arguments = {"Bucket": obj.bucket, "Key": obj.key, "Range": f"bytes={start}-{stop - 1}"}
        with self._headers.manner(manner):
            answer = self._answer({**arguments, **condition, **self._extra}, target, transfer)
        try:
            with translated(target):  # numbers and dates that Python refuses are wrong answers, too
                self._check_frozen(answer.headers, target)
                check_range_answer(answer.status, answer.headers, obj, start, stop)
            answered_s = time.monotonic()
            transfer.answer(answered_s)
            self._versions.learn(obj, answer.version_id)
            transfer.receive(answer.body, target, self._received)
            self._counters.took(answered_s - sent_s, time.monotonic() - sent_s)
        finally:
            answer.body.close(complete=transfer.complete)

    def _answer(self, arguments: Mapping[str, str], target: Target, transfer: Transfer) -> RangeAnswer:
        """Send a GET from a fetch process where there is one for it, else from this thread."""
        fetchers, left_bytes = self._fetchers, transfer.stop - transfer.position
        with translated(target):  # where there is no memory for what is said on a line, too
            if fetchers is not None and (line := fetchers.take(transfer.next_memory(), left_bytes)):
                get = RangeGet(arguments, target, self._headers.signed(OPERATION), self._headers.unsigned())
                return send_on_line(fetchers, line, get, partial(self._signing_key, target), self.traits.observe)
            return range_answer(self._get_object(**arguments))

    def _signing_key(self, target: Target) -> SigningKey | None:
        with translated(target):
            key = self._keys.get_frozen_credentials()
        return SigningKey(*key[:3]) if key is not None else None

    def _received(self, count: int) -> None:
        self._counters.add("bytes_fetched", count)
        self._bandwidth.spend(count)

    def _check_frozen(self, headers: Mapping[str, str], target: Target) -> None:
        """Refuse what a cache answers to a snapshot's reader: its bytes are of the present, or of anybody's past."""
        if self._config.snapshot_version and "x-cache" in headers:
            detail = f"{target.endpoint_url} is a cache, and caches do not know snapshots"
            raise ObjectProtocolError(detail, bucket=target.bucket, key=target.key)


def _pour(data: bytes, sink: FetchSink) -> None:
    """Put all of *data* into the sink, as far as it is wanted."""
    position = 0
    while position < len(data) and (view := sink.next_view()):
        count = min(len(view), len(data) - position)
        view[:count] = data[position : position + count]
        sink.wrote(count)
        position += count
