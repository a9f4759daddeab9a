"""What every ``ObjectClient`` promises, as tests: inherit ``ObjectClientContract`` and provide a fixture ``store``.

The fake that other layers are tested on and the real client both pass this suite; that is what makes the fake worth
believing. Only promises of the protocol are in here, nothing about how they are kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import pytest
import trio

from tigrismount.errors import ObjectNotFoundError, StaleObjectError

if TYPE_CHECKING:
    from tigrismount.core.types import ObjectId
    from tigrismount.objects.client import ListPage, ObjectClient

ODD_KEYS = (
    "with space",
    "plus+plus",
    "percent%41",
    "amp&<>\"'",
    "ünïcode/ключ/鍵",
    "tab\tand\x01control",
    "a//b",
    "dots/../x",
    "#hash?query=1",
)
"""Keys that break careless URL or XML handling."""


class Store(Protocol):
    """A bucket under test, empty at first, and a client for it."""

    client: ObjectClient
    bucket: str

    def put(self, key: str, data: bytes) -> ObjectId:
        """Put an object and return its version."""

    def delete(self, key: str) -> None:
        """Delete an object."""

    def keep_versions(self) -> None:
        """Keep what is overwritten or deleted from now on, under version ids."""

    def take_memory(self, size_bytes: int) -> memoryview:
        """Return memory that a client may be told to fetch into."""


class CollectingSink:
    """A sink in one piece of memory.

    Args:
        size_bytes: Bytes expected.
        view_bytes: Largest view offered.
        wanted_bytes: Bytes after which it wants no more; None wants all.
        memory: Where to put them; None makes some.
    """

    def __init__(
        self,
        size_bytes: int,
        *,
        view_bytes: int = 1 << 20,
        wanted_bytes: int | None = None,
        memory: memoryview | None = None,
    ) -> None:
        self.memory = memoryview(bytearray(size_bytes)) if memory is None else memory
        self.received = 0
        """Bytes put so far."""
        self.view_bytes = view_bytes
        self.wanted_bytes = size_bytes if wanted_bytes is None else wanted_bytes

    @property
    def data(self) -> bytes:
        """What was put so far."""
        return bytes(self.memory[: self.received])

    def next_view(self) -> memoryview:
        """Return memory for the next bytes."""
        stop = min(self.received + self.view_bytes, self.wanted_bytes)
        return self.memory[self.received : stop]

    def wrote(self, count: int) -> None:
        """Count what was put."""
        self.received += count


def pattern(size_bytes: int, seed: int = 1) -> bytes:
    """Return bytes whose every position shows where it is from; another *seed*, other bytes."""
    words = (size_bytes + 3) // 4
    return b"".join(((index * 2_654_435_761 + seed) & 0xFFFFFFFF).to_bytes(4, "big") for index in range(words))[
        :size_bytes
    ]


async def fetch_bytes(store: Store, obj: ObjectId, start: int, stop: int, view_bytes: int = 1 << 20) -> bytes:
    """Return what one fetch delivers."""
    sink = CollectingSink(stop - start, view_bytes=view_bytes, memory=store.take_memory(stop - start))
    await store.client.fetch(obj, start, stop, sink)
    return sink.data


async def list_all(store: Store, prefix: str, *, delimiter: str = "", max_keys: int = 1000) -> list[ListPage]:
    """Return all pages of a listing."""
    pages = [await store.client.list_page(store.bucket, prefix, delimiter=delimiter, max_keys=max_keys)]
    while (token := pages[-1].next_token) is not None:
        page = await store.client.list_page(store.bucket, prefix, delimiter=delimiter, max_keys=max_keys, token=token)
        pages.append(page)
    return pages


def keys_of(pages: list[ListPage]) -> list[str]:
    """Return the keys of all pages in order."""
    return [info.id.key for page in pages for info in page.objects]


def prefixes_of(pages: list[ListPage]) -> list[str]:
    """Return the common prefixes of all pages in order."""
    return [prefix for page in pages for prefix in page.prefixes]


class FetchContract:
    """Promises of ``fetch``."""

    @pytest.mark.parametrize("view_bytes", [1, 7, 1000, 1 << 20])
    @pytest.mark.parametrize(("start", "stop"), [(0, 300), (0, 1), (17, 299), (299, 300)])
    async def test_exactly_the_bytes_asked_for(self, store: Store, start: int, stop: int, view_bytes: int) -> None:
        """Any range comes whole and right, however small the sink's views are."""
        data = pattern(300)
        obj = store.put("k", data)
        assert await fetch_bytes(store, obj, start, stop, view_bytes) == data[start:stop]

    async def test_a_range_of_megabytes(self, store: Store) -> None:
        """Large ranges are right across reads."""
        data = pattern(3 << 20)
        obj = store.put("big", data)
        assert await fetch_bytes(store, obj, 12_345, 3_000_001) == data[12_345:3_000_001]

    async def test_an_empty_range_needs_no_request(self, store: Store) -> None:
        """Nothing is asked for when nothing is wanted, also of empty objects."""
        obj = store.put("empty", b"")
        await store.client.fetch(obj, 0, 0, CollectingSink(0))
        assert store.client.statistics().get_requests == 0

    async def test_a_range_outside_the_object_is_a_bug_of_the_caller(self, store: Store) -> None:
        """The caller knows the size; a range beyond it is refused before any request."""
        obj = store.put("k", b"abc")
        with pytest.raises(ValueError, match="not a range of 3 bytes"):
            await store.client.fetch(obj, 1, 4, CollectingSink(3))

    async def test_a_sink_that_wants_no_more_ends_the_fetch(self, store: Store) -> None:
        """An empty view is an order to stop, not an error."""
        data = pattern(5000)
        obj = store.put("k", data)
        sink = CollectingSink(5000, view_bytes=100, wanted_bytes=700, memory=store.take_memory(5000))
        await store.client.fetch(obj, 0, 5000, sink)
        assert sink.data == data[:700]

    async def test_an_overwritten_object_is_stale(self, store: Store) -> None:
        """Bytes of the new version never pass for the old one's, though their number is the same."""
        old = store.put("k", pattern(100, seed=1))
        new = store.put("k", pattern(100, seed=2))
        with pytest.raises(StaleObjectError):
            await fetch_bytes(store, old, 0, 100)
        assert await fetch_bytes(store, new, 0, 100) == pattern(100, seed=2)

    async def test_a_deleted_object_is_not_found(self, store: Store) -> None:
        """Deletion is told apart from change."""
        obj = store.put("k", b"abc")
        store.delete("k")
        with pytest.raises(ObjectNotFoundError) as caught:
            await fetch_bytes(store, obj, 0, 3)
        assert (caught.value.bucket, caught.value.key) == (store.bucket, "k")

    async def test_an_object_of_another_size_is_refused(self, store: Store) -> None:
        """The size is part of the version; without an ETag it is all there is to compare."""
        unnamed = replace(store.put("k", pattern(100)), etag="")
        assert await fetch_bytes(store, unnamed, 0, 50) == pattern(50)
        with pytest.raises(StaleObjectError):
            await fetch_bytes(store, replace(unnamed, size_bytes=90), 0, 50)

    async def test_many_fetches_at_once(self, store: Store) -> None:
        """Fetches that run together do not mix."""
        data = pattern(64 * 1024)
        obj = store.put("k", data)
        results: dict[int, bytes] = {}

        async def one(start: int) -> None:
            results[start] = await fetch_bytes(store, obj, start, start + 4096)

        async with trio.open_nursery() as nursery:
            for start in range(0, len(data), 4096):
                nursery.start_soon(one, start)
        assert results == {start: data[start : start + 4096] for start in range(0, len(data), 4096)}
        assert store.client.statistics().get_requests == 16
        assert store.client.statistics().bytes_fetched == len(data)

    @pytest.mark.parametrize("key", ODD_KEYS)
    async def test_odd_keys_can_be_fetched(self, store: Store, key: str) -> None:
        """What a listing names can be read."""
        store.put(key, key.encode())
        (listed,) = (await store.client.list_page(store.bucket, "", delimiter="")).objects
        assert listed.id.key == key
        assert await fetch_bytes(store, listed.id, 0, listed.id.size_bytes) == key.encode()
        assert (await store.client.head(store.bucket, key)).id == listed.id


class VersionContract:
    """Promises about versions that are no longer a key's present one."""

    @pytest.mark.parametrize("seen_by", ["head", "fetch"])
    @pytest.mark.parametrize("change", ["overwrite", "delete"])
    async def test_a_version_whose_id_was_seen_is_read_on(self, store: Store, seen_by: str, change: str) -> None:
        """An answer has named the id; after that neither an overwrite nor a delete takes the version away."""
        store.keep_versions()
        old = store.put("k", pattern(100, seed=1))
        assert store.client.version_id(old) == ""
        if seen_by == "head":
            info = await store.client.head(store.bucket, "k")
            assert store.client.version_id(old) == info.version_id
        else:
            await fetch_bytes(store, old, 0, 10)
        assert store.client.version_id(old) != ""
        if change == "overwrite":
            new = store.put("k", pattern(100, seed=2))
            assert await fetch_bytes(store, new, 10, 100) == pattern(100, seed=2)[10:]
        else:
            store.delete("k")
        for start in (10, 50):
            assert await fetch_bytes(store, old, start, 100) == pattern(100, seed=1)[start:]

    async def test_a_version_that_nobody_named_is_stale(self, store: Store) -> None:
        """Nothing is guessed: without an id there is no way to a version that was overwritten."""
        store.keep_versions()
        old = store.put("k", pattern(100, seed=1))
        store.put("k", pattern(100, seed=2))
        with pytest.raises(StaleObjectError):
            await fetch_bytes(store, old, 0, 100)

    async def test_a_version_id_can_be_taken_over(self, store: Store) -> None:
        """What another process learned serves as well; an id of other bytes serves nobody."""
        store.keep_versions()
        old = store.put("k", pattern(100, seed=1))
        version_id = (await store.client.head(store.bucket, "k")).version_id
        assert version_id is not None
        store.put("k", pattern(100, seed=2))
        store.client.know_version(old, version_id)
        assert await fetch_bytes(store, old, 0, 100) == pattern(100, seed=1)
        never = replace(old, etag="0" * 32)
        store.client.know_version(never, version_id)
        with pytest.raises(StaleObjectError):
            await fetch_bytes(store, never, 0, 100)


class ListingContract:
    """Promises of ``head``, ``list_page`` and ``check_access``."""

    async def test_head_and_listing_say_the_same(self, store: Store) -> None:
        """One version has one identity, whoever names it."""
        obj = store.put("dir/k", b"12345")
        head = await store.client.head(store.bucket, "dir/k")
        (listed,) = (await store.client.list_page(store.bucket, "dir/")).objects
        assert head.id == listed.id == obj
        assert head.mtime_s == pytest.approx(listed.mtime_s, abs=1.0)
        assert head.mtime_s > 1_600_000_000
        assert '"' not in head.id.etag

    async def test_empty_objects_are_listed_with_size_zero(self, store: Store) -> None:
        """Zero bytes are a size, not a missing one."""
        store.put("empty", b"")
        assert (await store.client.head(store.bucket, "empty")).id.size_bytes == 0

    async def test_a_missing_key_is_not_found(self, store: Store) -> None:
        """HEAD tells a missing key."""
        store.put("k", b"")
        with pytest.raises(ObjectNotFoundError):
            await store.client.head(store.bucket, "missing")

    async def test_pages_join_without_gap_or_overlap(self, store: Store) -> None:
        """Any page size gives the same keys, in the order of their bytes."""
        keys = [f"{letter}{number}" for letter in "zaé" for number in range(9)]
        for key in keys:
            store.put(key, b"")
        expected = sorted(keys, key=str.encode)
        for max_keys in (1, 4, 27, 1000):
            pages = await list_all(store, "", max_keys=max_keys)
            assert keys_of(pages) == expected
            assert all(len(page.objects) <= max_keys for page in pages)

    async def test_a_delimiter_rolls_up_what_lies_below(self, store: Store) -> None:
        """Directories come once each, also across pages, and markers roll up with their directory."""
        for key in ("a", "d/", "d/1", "d/2", "d/e/3", "d0", "f/1", "z"):
            store.put(key, b"")
        for max_keys in (1, 2, 1000):
            pages = await list_all(store, "", delimiter="/", max_keys=max_keys)
            assert (keys_of(pages), prefixes_of(pages)) == (["a", "d0", "z"], ["d/", "f/"])
        below = await list_all(store, "d/", delimiter="/")
        assert (keys_of(below), prefixes_of(below)) == (["d/", "d/1", "d/2"], ["d/e/"])

    async def test_a_listing_can_start_behind_a_key(self, store: Store) -> None:
        """``start_after`` leaves out the key itself and all before it."""
        for key in "abcd":
            store.put(key, b"")
        page = await store.client.list_page(store.bucket, "", start_after="b")
        assert keys_of([page]) == ["c", "d"]

    async def test_a_prefix_that_holds_nothing_is_an_empty_page(self, store: Store) -> None:
        """Nothing there is no error of a listing."""
        store.put("a", b"")
        page = await store.client.list_page(store.bucket, "nothing/")
        assert (page.objects, page.prefixes, page.next_token) == ((), (), None)

    async def test_a_missing_bucket_is_not_found(self, store: Store) -> None:
        """No method takes a missing bucket for an empty one."""
        with pytest.raises(ObjectNotFoundError, match="no such bucket"):
            await store.client.list_page("no-such-bucket", "")
        with pytest.raises(ObjectNotFoundError, match="no such bucket"):
            await store.client.check_access("no-such-bucket", "")

    async def test_access_is_proved_with_one_request(self, store: Store) -> None:
        """A bucket and a prefix that hold something pass."""
        store.put("models/a", b"")
        await store.client.check_access(store.bucket, "")
        await store.client.check_access(store.bucket, "models/")
        assert store.client.statistics().list_requests == 2

    async def test_an_empty_prefix_or_bucket_fails_the_check(self, store: Store) -> None:
        """What would show an empty tree is an error, and says which of the two it is."""
        with pytest.raises(ObjectNotFoundError, match="the bucket is empty"):
            await store.client.check_access(store.bucket, "")
        store.put("models/a", b"")
        with pytest.raises(ObjectNotFoundError, match="nothing lies under the prefix 'other/'"):
            await store.client.check_access(store.bucket, "other/")


class ObjectClientContract(FetchContract, VersionContract, ListingContract):
    """All promises; subclass it in a test module that has a fixture ``store``."""
