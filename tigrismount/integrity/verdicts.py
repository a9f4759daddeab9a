"""What verification found, kept beside the blocks: for this daemon in memory, for all others in the cache's records.

A version that is refused stays refused over restarts and in every daemon that shares the cache, until somebody looks
again (``warm --check``) or clears the cache.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from tigrismount.cache.records import object_digest
from tigrismount.core.types import ObjectId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tigrismount.cache.base import RecordStore

log = logging.getLogger(__name__)

_TABLE = "checksums"
_GOOD = b"ok/"
_BAD = b"bad/"
_MOST_BAD = 10_000
"""Refused versions that a daemon learns of; one is news, thousands are a broken manifest."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One checksum, as it should be and as it is."""

    algorithm: str
    """Its kind."""
    expected: str
    """As known, in hexadecimal."""
    found: str
    """As computed, in hexadecimal."""
    origin: str
    """Who says what it should be."""

    @property
    def matches(self) -> bool:
        """Whether the two agree."""
        return self.expected == self.found


class Verdicts:
    """All verdicts on versions of one store.

    Args:
        records: Where they are kept.
        store_id: The store.
        clock: Seconds since 1970.
    """

    def __init__(self, records: RecordStore, store_id: str, *, clock: Callable[[], float] = time.time) -> None:
        self._records = records
        self._store_id = store_id
        self._clock = clock
        self.refused: dict[ObjectId, str] = {}
        """Versions whose bytes are not what they should be, and what to say to who opens them."""
        self._unkept: dict[ObjectId, int] = {}
        """When those of them were found that the cache could not keep, or not everywhere: known here alone."""
        self._changes = 0
        self._settling: Counter[ObjectId] = Counter()
        """Versions whose verdict is on its way to the records: until it is there, those tell what was before."""
        self._fresh: dict[ObjectId, None] = {}
        """Refused since somebody asked for them last."""
        self._told = trio.Event()

    async def newly_refused(self) -> list[ObjectId]:
        """Wait until versions are refused that were not when this was called last; return them. For one caller."""
        while not self._fresh:
            self._told = trio.Event()
            await self._told.wait()
        fresh, self._fresh = list(self._fresh), {}
        return fresh

    async def load(self) -> None:
        """Learn which versions are refused, from this daemon's past and from others."""
        while True:
            changes = self._changes
            rows = await self._records.items(_TABLE, _BAD, _MOST_BAD)
            if rows is None and not self.refused:
                rows = await self._records.items(_TABLE, _BAD, _MOST_BAD)  # of disks that work, the failed one left out
            if rows is None:
                return  # a disk that fails takes nothing back
            refused = await self._still_refused(rows)
            kept_since = await self._kept_since()
            if changes == self._changes:  # else the rows may be older than what was found meanwhile
                break
        refused = {obj: why for obj, why in refused.items() if obj not in self._settling}
        for obj in kept_since:
            self._unkept.pop(obj, None)
        settling = {obj: why for obj, why in self.refused.items() if obj in self._settling}
        unkept = {obj: self.refused[obj] for obj in self._unkept}
        before, self.refused = self.refused, refused | settling | unkept
        self._tell(obj for obj in self.refused if obj not in before)

    async def _still_refused(self, rows: Iterable[tuple[bytes, bytes]]) -> dict[ObjectId, str]:
        """Return what *rows* refuse and nothing newer takes back."""
        refused: dict[ObjectId, str] = {}
        for _, value in rows:
            verdict = _parse(value)
            if verdict is None or not verdict.is_bad or verdict.store_id != self._store_id or verdict.obj in refused:
                continue
            newest = await self._newest(verdict.obj) or verdict
            if newest.is_bad:
                refused[verdict.obj] = refusal(newest.compared)
        return refused

    async def _kept_since(self) -> list[ObjectId]:
        """Return those that the cache could not keep, and that somebody else has looked at since and found right."""
        found = []
        for obj, checked_s in list(self._unkept.items()):
            newest = await self._newest(obj)
            if newest is not None and not newest.is_bad and newest.checked_s > checked_s:
                found.append(obj)
        return found

    async def _newest(self, obj: ObjectId) -> _Verdict | None:
        """Return what was found last: a directory of the cache that was away then has what was found before."""
        digest = object_digest(self._store_id, obj)
        found: list[_Verdict] = []
        for prefix in (_BAD, _GOOD):  # of two of one second the bad one counts
            rows = await self._records.items(_TABLE, prefix + digest) or ()
            found += [verdict for _, value in rows if (verdict := _parse(value)) is not None]
        return max(found, key=lambda verdict: verdict.checked_s, default=None)

    def now_s(self) -> int:
        """Return the time that a verdict of now has, in seconds since 1970."""
        return int(self._clock())

    async def find(self, obj: ObjectId, since_s: int = 0) -> list[Compared] | None:
        """Return what was compared of *obj*; None where it was never verified.

        Args:
            obj: The version.
            since_s: When its bytes came: what was found right before that was others, which have left the cache.
        """
        newest = await self._newest(obj)
        if newest is None or not newest.compared or (newest.checked_s < since_s and not newest.is_bad):
            return None
        return newest.compared

    async def sha256(self, obj: ObjectId) -> str:
        """Return the SHA-256 of *obj* where its bytes were found to have it; else nothing."""
        compared = await self.find(obj) or ()
        return next((one.found for one in compared if one.algorithm == "sha256"), "")

    async def keep(self, obj: ObjectId, compared: Sequence[Compared]) -> None:
        """Keep what was found; the version is refused from now on if something does not match."""
        good = all(one.matches for one in compared)
        self._take_back(obj)
        if not good:
            self.refused[obj] = refusal(compared)
            log.error("s3://%s/%s: %s", obj.bucket, obj.key, self.refused[obj])
            self._tell([obj])
        checked_s = self.now_s()
        digest, facts = object_digest(self._store_id, obj), self._facts(obj, checked_s, compared)
        with self._settled(obj):
            kept = await self._records.put(_TABLE, (_GOOD if good else _BAD) + digest, facts)
            if not (kept or good):
                self._unkept[obj], self.refused[obj] = checked_s, refusal(compared)
            await self._records.delete(_TABLE, (_BAD if good else _GOOD) + digest)

    async def forget(self, obj: ObjectId) -> None:
        """Take a verdict back: nothing is known of the version any more."""
        was_refused = obj in self.refused
        self._take_back(obj)
        digest = object_digest(self._store_id, obj)
        with self._settled(obj):
            if was_refused:  # a directory that is away may say so: there must be something newer
                await self._records.put(_TABLE, _GOOD + digest, self._facts(obj, self.now_s(), ()))
            else:
                await self._records.delete(_TABLE, _GOOD + digest)
            await self._records.delete(_TABLE, _BAD + digest)

    def _facts(self, obj: ObjectId, checked_s: int, compared: Sequence[Compared]) -> bytes:
        facts: dict[str, Any] = {
            "store_id": self._store_id,
            "bucket": obj.bucket,
            "key": obj.key,
            "etag": obj.etag,
            "size_bytes": obj.size_bytes,
            "checked_s": checked_s,
            "sums": [asdict(one) for one in compared],
        }
        return json.dumps(facts).encode()

    @contextmanager
    def _settled(self, obj: ObjectId) -> Iterator[None]:
        """Let what is known here of *obj* count, and not the records, while they are changed.

        Whoever is cancelled meanwhile, as by a client that leaves, waits for that: half of a change in the records
        would undo what is known here as soon as they are learned. A disk that hangs is waited for briefly.
        """
        self._settling[obj] += 1
        try:
            with trio.CancelScope(shield=True):
                yield
        finally:
            self._changes += 1
            self._settling[obj] -= 1
            self._settling += Counter()  # what is zero goes

    def _tell(self, refused: Iterable[ObjectId]) -> None:
        self._fresh.update(dict.fromkeys(refused))
        if self._fresh:
            self._told.set()

    def _take_back(self, obj: ObjectId) -> None:
        self._changes += 1
        self.refused.pop(obj, None)
        self._unkept.pop(obj, None)


def refusal(compared: Sequence[Compared]) -> str:
    """Return what to say of a version whose bytes are not what they should be: what, who says so, and the way out."""
    wrong = next(one for one in compared if not one.matches)
    return (
        f"its {wrong.algorithm} is {wrong.found}, and {wrong.origin} says {wrong.expected}: it cannot be opened (EIO); "
        "correct whichever is wrong and run 'tigrismount warm --check' on it, or mount with --verify off"
    )


class _Verdict(NamedTuple):
    """A verdict, as the records have it."""

    store_id: str
    obj: ObjectId
    checked_s: int
    """When it was found, in seconds since 1970."""
    compared: list[Compared]
    """Nothing where an earlier verdict was taken back and nothing is known any more."""

    @property
    def is_bad(self) -> bool:
        return not all(one.matches for one in self.compared)


def _parse(value: bytes) -> _Verdict | None:
    """Return a verdict; None for what a bad disk has left.

    Members that another release has added say nothing to us, and take nothing back.
    """
    try:
        facts = json.loads(value)
        obj = ObjectId(facts["bucket"], facts["key"], facts["etag"], facts["size_bytes"])
        compared = [Compared(**{item.name: one[item.name] for item in fields(Compared)}) for one in facts["sums"]]
        return _Verdict(str(facts["store_id"]), obj, int(facts.get("checked_s", 0)), compared)
    except (ValueError, TypeError, KeyError):
        return None
