"""An object store in memory: the fake that the tests of every other layer run on.

It passes the same contract suite as the real client (``testing.object_contract``), records each request, and can be
told to *hold* or to *fail* chosen requests, also in the middle of a body. It retries nothing: an error given to
``fail`` is what the caller sees, as the real client's is once its retries are spent. Bodies are copied in the trio
thread with a checkpoint between views, so that a test's schedule is its own.

    client = MemoryObjectClient()
    obj = client.put("model/a.safetensors", data)
    gate = client.hold("GET", after_bytes=4096)       # every GET from now on stops there ...
    ...
    gate.set()                                        # ... until the test says go
    client.fail(ObjectUnavailableError("gone"), "HEAD")
    assert client.requests == [("GET", "model/a.safetensors", 0, 8192)]
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import trio

from tigrismount.core.types import ObjectId
from tigrismount.errors import (
    ObjectArchivedError,
    ObjectError,
    ObjectNotFoundError,
    StaleObjectError,
)
from tigrismount.objects.client import ListPage, ObjectInfo, ObjectStatistics, RestoredInfo

if TYPE_CHECKING:
    from tigrismount.objects.client import FetchSink

Method = Literal["GET", "HEAD", "LIST", "BUCKETS"]

Request = tuple[str | int | None, ...]
"""``("GET", key, start, stop)``, ``("HEAD", key)``, ``("LIST", prefix, token)`` or ``("BUCKETS",)``."""


@dataclass(slots=True)
class _Rule:
    """What happens to requests that match: wait for an event, or raise an error."""

    method: Method
    key: str | None
    after_bytes: int
    gate: trio.Event | None = None
    error: ObjectError | None = None
    times: int = 0

    def matches(self, method: Method, key: str) -> bool:
        if self.method != method or (self.key is not None and self.key != key):
            return False
        return self.gate is not None or self.times > 0


class MemoryObjectClient:
    """An ``ObjectClient`` over a dict.

    Args:
        bucket: The only bucket there is; any other is not found.
    """

    def __init__(self, bucket: str = "bucket") -> None:
        self.bucket = bucket
        self.get_limit = 1 << 20
        """GETs taken at once, as far as it says; nothing is refused beyond it."""
        self.requests: list[Request] = []
        """Every request made, in order."""
        self.in_flight = 0
        """GETs that run now."""
        self.peak_in_flight = 0
        """Most GETs that ever ran at once."""
        self.versioned = False
        """Whether each put gets a version id, and what is overwritten is kept."""
        self._objects: dict[str, tuple[ObjectInfo, memoryview]] = {}
        self._kept: dict[str, tuple[ObjectInfo, memoryview]] = {}
        self._version_ids: dict[ObjectId, str] = {}
        self._rules: list[_Rule] = []
        self._counts = ObjectStatistics()
        self._closed = False

    # -- what tests do to the bucket ---------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: bytes | bytearray | memoryview,
        *,
        mtime_s: float = 1_700_000_000.0,
        storage_class: str = "STANDARD",
        etag: str | None = None,
        version_id: str | None = None,
        symlink_target: bytes = b"",
        sha256: str = "",
        checksums: tuple[tuple[str, str], ...] = (),
        restored: bool = False,
    ) -> ObjectId:
        """Put an object, replacing the version that was there.

        Args:
            key: Whole key.
            data: Its bytes; not copied.
            mtime_s: What ``Last-Modified`` says.
            storage_class: What listings say; archive classes cannot be fetched.
            etag: Entity tag; None takes the MD5 of the data as S3 does, empty or ``W/...`` plays an odd store.
            version_id: What a HEAD says; listings do not.
            symlink_target: What the user metadata of an empty object say; only a HEAD tells.
            sha256: What a HEAD says; listings do not.
            checksums: Likewise.
            restored: Whether an archived object can be fetched all the same; a HEAD says so.

        Returns:
            The version now stored.
        """
        if etag is None:
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        obj = ObjectId(self.bucket, key, etag, len(data))
        if self.versioned and version_id is None:
            version_id = f"v{len(self._kept) + 1}"
        kind = RestoredInfo if restored else ObjectInfo
        info = kind(obj, mtime_s, storage_class, version_id, symlink_target, sha256, checksums)
        self._objects[key] = (info, memoryview(data))
        if self.versioned and version_id is not None:
            self._kept[version_id] = self._objects[key]
        return obj

    def delete(self, key: str) -> None:
        """Delete a key, which must exist."""
        del self._objects[key]

    def purge(self) -> None:
        """Delete every version that is not a key's present one."""
        self._kept.clear()

    def hold(self, method: Method = "GET", key: str | None = None, *, after_bytes: int = 0) -> trio.Event:
        """Hold matching requests from now on, until the returned event is set.

        Args:
            method: Which kind of request.
            key: Only this key (prefix, for LIST); None means all.
            after_bytes: Body bytes a GET delivers before it waits.

        Returns:
            Set it to let them go on.
        """
        gate = trio.Event()
        self._rules.append(_Rule(method, key, after_bytes, gate=gate))
        return gate

    def fail(
        self,
        error: ObjectError,
        method: Method = "GET",
        key: str | None = None,
        *,
        after_bytes: int = 0,
        times: int = 1,
    ) -> None:
        """Let the next matching requests raise *error*; several calls queue up in order.

        Args:
            error: Raised as it is.
            method: Which kind of request.
            key: Only this key (prefix, for LIST); None means all.
            after_bytes: Body bytes a GET delivers before it fails.
            times: How many requests fail.
        """
        self._rules.append(_Rule(method, key, after_bytes, error=error, times=times))

    # -- ObjectClient ------------------------------------------------------------------------------------------

    async def check_access(self, bucket: str, prefix: str) -> None:
        """Raise unless the bucket exists and something lies under the prefix."""
        if not bucket:
            await self.list_buckets()
            return
        page = await self.list_page(bucket, prefix, delimiter="", max_keys=1)
        if not page.objects:
            where = f"nothing lies under the prefix {prefix!r}" if prefix else "the bucket is empty"
            raise ObjectNotFoundError(where, bucket=bucket)

    async def list_buckets(self) -> tuple[str, ...]:
        """Return the name of the only bucket."""
        self._record("BUCKETS")
        self._counts = replace(self._counts, list_requests=self._counts.list_requests + 1)
        await self._obey(self._claim("BUCKETS", ""))
        return (self.bucket,)

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        """Return what is stored under the key now."""
        self._record("HEAD", key)
        self._counts = replace(self._counts, head_requests=self._counts.head_requests + 1)
        await self._obey(self._claim("HEAD", key))
        info = self._lookup(bucket, key)[0]
        self.know_version(info.id, info.version_id or "")
        return info

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
        """Return one page of the listing, in the order of the keys' UTF-8 bytes."""
        self._record("LIST", prefix, token)
        self._counts = replace(self._counts, list_requests=self._counts.list_requests + 1)
        await self._obey(self._claim("LIST", prefix))
        self._check_bucket(bucket)
        infos = {key: info for key, (info, _) in self._objects.items()}
        after = _Cursor(start_after) if token is None else _Cursor.from_token(token)
        return _page(infos, prefix, delimiter, after, max_keys)

    async def fetch(self, obj: ObjectId, start: int, stop: int, sink: FetchSink) -> None:
        """Copy ``[start, stop)`` of exactly this version into the sink."""
        if not 0 <= start <= stop <= obj.size_bytes:
            raise ValueError(f"[{start}, {stop}) is not a range of {obj.size_bytes} bytes")
        if start == stop:
            await trio.lowlevel.checkpoint()
            return
        self._record("GET", obj.key, start, stop)
        self._counts = replace(self._counts, get_requests=self._counts.get_requests + 1)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            await self._send(obj, start, stop, sink)
        finally:
            self.in_flight -= 1

    def version_id(self, obj: ObjectId) -> str:
        """Return the version id that was named for *obj*, or none."""
        return self._version_ids.get(obj, "")

    def know_version(self, obj: ObjectId, version_id: str) -> None:
        """Remember a version id."""
        if version_id:
            self._version_ids[obj] = version_id

    def statistics(self) -> ObjectStatistics:
        """Return the counters."""
        return self._counts

    async def aclose(self) -> None:
        """Refuse requests from now on."""
        self._closed = True
        await trio.lowlevel.checkpoint()

    # -- inside ------------------------------------------------------------------------------------------------

    async def _send(self, obj: ObjectId, start: int, stop: int, sink: FetchSink) -> None:
        rules = sorted(self._claim("GET", obj.key), key=lambda rule: rule.after_bytes)
        await self._obey([rule for rule in rules if rule.after_bytes == 0])
        data = self._lookup_version(obj)
        position = start
        for rule in [*(rule for rule in rules if rule.after_bytes > 0), None]:
            limit = stop if rule is None else min(stop, start + rule.after_bytes)
            position = await self._copy(data, position, limit, sink)
            if position < limit:
                return
            if rule is not None and rule.after_bytes <= stop - start:
                await self._obey([rule])

    async def _copy(self, data: memoryview, start: int, stop: int, sink: FetchSink) -> int:
        """Copy ``[start, stop)`` view by view; return where it ended, before *stop* when the sink wants no more."""
        while start < stop:
            view = sink.next_view()
            count = min(len(view), stop - start)
            if not count:
                break
            view[:count] = data[start : start + count]
            sink.wrote(count)
            start += count
            self._counts = replace(self._counts, bytes_fetched=self._counts.bytes_fetched + count)
            await trio.lowlevel.checkpoint()
        return start

    def _lookup_version(self, obj: ObjectId) -> memoryview:
        kept = self._kept.get(self.version_id(obj))
        try:
            info, data = self._lookup(obj.bucket, obj.key)
        except ObjectNotFoundError:
            if kept is None:
                raise
            info, data = kept
        if not _is(obj, info) and kept is not None:
            info, data = kept
        if not _is(obj, info):
            raise StaleObjectError("another version is stored now", bucket=obj.bucket, key=obj.key)
        if info.archived:
            raise ObjectArchivedError(f"archived as {info.storage_class}", bucket=obj.bucket, key=obj.key)
        self.know_version(obj, info.version_id or "")
        return data

    def _lookup(self, bucket: str, key: str) -> tuple[ObjectInfo, memoryview]:
        self._check_bucket(bucket)
        try:
            return self._objects[key]
        except KeyError:
            raise ObjectNotFoundError("no such key", bucket=bucket, key=key) from None

    def _check_bucket(self, bucket: str) -> None:
        if bucket != self.bucket:
            raise ObjectNotFoundError("no such bucket", bucket=bucket)

    def _record(self, *request: str | int | None) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")
        self.requests.append(request)

    def _claim(self, method: Method, key: str) -> list[_Rule]:
        """Return every hold that matches, and the first failure, which is used up by it."""
        matching = [rule for rule in self._rules if rule.matches(method, key)]
        failures = [rule for rule in matching if rule.error is not None][:1]
        for rule in failures:
            rule.times -= 1
        return [rule for rule in matching if rule.gate is not None] + failures

    async def _obey(self, rules: list[_Rule]) -> None:
        await trio.lowlevel.checkpoint()
        for rule in rules:
            if rule.gate is not None:
                await rule.gate.wait()
            if rule.error is not None:
                self._counts = replace(self._counts, errors=self._counts.errors + 1)
                raise rule.error


def _is(obj: ObjectId, info: ObjectInfo) -> bool:
    return obj.size_bytes == info.id.size_bytes and (not obj.etag or obj.etag == info.id.etag)


def _page(infos: dict[str, ObjectInfo], prefix: str, delimiter: str, after: _Cursor, max_keys: int) -> ListPage:
    """Return the first *max_keys* rows behind *after*."""
    objects: list[ObjectInfo] = []
    prefixes: list[str] = []
    last = after
    for key in sorted(infos, key=_sort_key):
        if not key.startswith(prefix) or after.covers(key):
            continue
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        common = key[: cut + len(delimiter)] if cut >= 0 else None
        if common is not None and prefixes and prefixes[-1] == common:
            continue
        if len(objects) + len(prefixes) == max_keys:
            return ListPage(tuple(objects), tuple(prefixes), last.to_token())
        if common is None:
            # A listing tells less than a HEAD.
            objects.append(replace(infos[key], version_id=None, symlink_target=None, sha256="", checksums=()))
        else:
            prefixes.append(common)
        last = _Cursor(key if common is None else common, rolled_up=common is not None)
    return ListPage(tuple(objects), tuple(prefixes), None)


def _sort_key(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class _Cursor:
    """The row a listing goes on behind: a key, or a common prefix with all that lies under it."""

    name: str
    rolled_up: bool = False

    @classmethod
    def from_token(cls, token: str) -> _Cursor:
        return cls(token[1:], rolled_up=token[0] == "p")

    def to_token(self) -> str:
        return ("p" if self.rolled_up else "k") + self.name

    def covers(self, key: str) -> bool:
        """Tell whether *key* was listed already."""
        if self.rolled_up and key.startswith(self.name):
            return True
        return bool(self.name) and _sort_key(key) <= _sort_key(self.name)
