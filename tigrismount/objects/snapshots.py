"""Which snapshot of a bucket is meant: a version, a name, ``latest``, ``now`` or a time.

A snapshot of a Tigris bucket is the state at one moment; its *version* is that moment in nanoseconds since the epoch,
and every moment counts, whether somebody took a snapshot then or not. So ``now`` and a time need no list, and a
version that lies ahead is refused: what can still change is not frozen. The store's clock decides what lies ahead,
since ours may be wrong.

Source: Tigris documentation, "Snapshots and forks"; header names as its SDKs send them.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote_plus

from tigrismount.errors import ConfigError, ObjectError, ObjectNotFoundError
from tigrismount.objects.selectors import LATEST, NOW, SECOND_NS, selected_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tigrismount.objects.client import ListPage, ObjectInfo
    from tigrismount.objects.traits import StoreTraits

_AHEAD_NS = 5 * SECOND_NS
"""How far a version may lie ahead of the store's clock, whose answers carry whole seconds."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that somebody took."""

    version: str
    """Its moment, in nanoseconds since the epoch."""
    name: str = ""
    """Its name, empty without one."""

    @property
    def taken_s(self) -> float:
        """Its moment in seconds since the epoch."""
        return int(self.version) / SECOND_NS


class SnapshotStore(Protocol):
    """What finding a snapshot needs of a client that is not pinned to one."""

    @property
    def traits(self) -> StoreTraits:
        """What its answers told."""

    @property
    def endpoint_url(self) -> str:
        """Base URL of the store."""

    async def bucket_headers(self, bucket: str) -> Mapping[str, str]:
        """Return the headers of a HEAD of the bucket, names in lower case."""

    async def snapshots(self, bucket: str) -> tuple[Snapshot, ...]:
        """Return the snapshots that were taken of the bucket, oldest first."""

    async def list_page(self, bucket: str, prefix: str, *, delimiter: str = "/", max_keys: int = 1000) -> ListPage:
        """Return the first page of a listing."""

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        """Return what the store says of a key."""


def parse_rows(names: Iterable[str]) -> tuple[Snapshot, ...]:
    """Return the snapshots that a listing names, oldest first; rows that are none are left out.

    Args:
        names: As the store sends them, ``VERSION`` or ``VERSION; name=NAME``.
    """
    found = []
    for row in names:
        version, _, name = row.partition("; name=")
        if version.isascii() and version.isdigit():
            found.append(Snapshot(version, name))
    return tuple(sorted(found, key=lambda snapshot: int(snapshot.version)))


def choose(selector: str, taken: Iterable[Snapshot], bucket: str) -> str:
    """Return the version of the snapshot that was taken and is called *selector*; the newest where several are.

    Args:
        selector: ``latest`` or a name.
        taken: The bucket's snapshots, oldest first.
        bucket: For the message.

    Raises:
        ObjectNotFoundError: There is none.
    """
    taken = tuple(taken)
    if not taken:
        raise ObjectNotFoundError("no snapshot was ever taken of this bucket: take one, or mount now", bucket=bucket)
    if selector == LATEST:
        return taken[-1].version
    # SDKs escape names when they take a snapshot, and not all of them undo it when they list.
    named = [snapshot for snapshot in taken if selector in (snapshot.name, unquote_plus(snapshot.name))]
    if not named:
        detail = f"no snapshot is called {selector!r}: 'tigrismount snapshots' lists them (versions have 19 digits)"
        raise ObjectNotFoundError(detail, bucket=bucket)
    return named[-1].version


async def check_snapshots_enabled(store: SnapshotStore, bucket: str) -> Mapping[str, str]:
    """Return the headers that tell about the bucket.

    Raises:
        ConfigError: The bucket keeps no snapshots.
        ObjectError: The store could not say.
    """
    headers = await store.bucket_headers(bucket)
    if headers.get("x-tigris-enable-snapshot", "").strip().lower() != "true":
        detail = (
            f"this bucket at {store.endpoint_url} keeps no snapshots: enable them, or use it as it is now, without one"
        )
        raise ConfigError(detail, bucket=bucket)
    return headers


async def resolve_snapshot(store: SnapshotStore, bucket: str, selector: str, *, clock_ns: int) -> str:
    """Return the version that *selector* means now.

    Args:
        store: A client without a snapshot.
        bucket: The bucket.
        selector: What ``parse_selector`` returned.
        clock_ns: This machine's time.

    Raises:
        ConfigError: The bucket keeps no snapshots, a cache stands before the store, or the moment lies ahead.
        ObjectNotFoundError: No snapshot is called so.
        ObjectError: The store could not say.
    """
    version = await find_version(store, bucket, selector, clock_ns=clock_ns)
    await refuse_caches(store, bucket)
    return version


async def find_version(store: SnapshotStore, bucket: str, selector: str, *, clock_ns: int) -> str:
    """Return the version that *selector* means now, as :func:`resolve_snapshot` does, but whoever answers.

    The request that it takes at the least proves that the key may look at the bucket.

    Args:
        store: A client without a snapshot.
        bucket: The bucket.
        selector: What ``parse_selector`` returned.
        clock_ns: This machine's time.

    Raises:
        ConfigError: The bucket keeps no snapshots, or the moment lies ahead.
        ObjectNotFoundError: No snapshot is called so.
        ObjectError: The store could not say.
    """
    headers = await check_snapshots_enabled(store, bucket)
    moment_ns = _moment_ns(headers, clock_ns)
    if selector == NOW:
        return str(moment_ns)
    version = selected_version(selector)
    if version is None:
        return choose(selector, await store.snapshots(bucket), bucket)
    if version > moment_ns + _AHEAD_NS:
        raise ConfigError(f"snapshot {selector} lies ahead of the store's clock: nothing is frozen yet", bucket=bucket)
    return str(version)


def _moment_ns(headers: Mapping[str, str], clock_ns: int) -> int:
    """Return the present moment: ours where it lies in the second that the store's answer names, else the store's."""
    date = parsedate_tz(headers.get("date", ""))
    if date is None:
        return clock_ns
    try:
        second_ns = mktime_tz(date) * SECOND_NS
    except (ValueError, OverflowError):  # the year 99999
        return clock_ns
    return clock_ns if second_ns <= clock_ns < second_ns + SECOND_NS else second_ns


async def refuse_caches(store: SnapshotStore, bucket: str) -> None:
    """Look whether something on the way caches objects: it would answer with bytes of another moment.

    TAG passes requests about buckets through, so that only the HEAD of an object gives it away.

    Raises:
        ConfigError: Something does.
    """
    try:
        page = await store.list_page(bucket, "", delimiter="", max_keys=1)
        for info in page.objects[:1]:
            await store.head(bucket, info.id.key)
    except ObjectError:
        pass  # not our question; whoever needs the listing will say what is wrong
    if store.traits.cache:
        detail = (
            f"{store.endpoint_url} is {store.traits.cache}, which answers snapshot reads with other bytes: "
            "mount snapshots from Tigris itself (--endpoint-url https://t3.storage.dev)"
        )
        raise ConfigError(detail, bucket=bucket)
