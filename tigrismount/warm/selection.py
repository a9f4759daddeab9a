"""From what a person names to object versions: a prefix, a key, a pattern, a shard index.

A name costs one page of a flat listing per thousand keys, and that is all that a second run asks the store: the rows
name the versions. Only empty keys cost a HEAD each, since a listing does not say which of them are symbolic links;
links are followed within the bucket, because a Hugging Face hub cache is made of them.

What a mount would not show is left out: keys that no path can express, keys behind a directory of their name, markers
of directories. A name means the directory where both are there, as in a mount.
"""

from __future__ import annotations

import posixpath
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from tigrismount.core.globs import compile_glob, is_glob, literal_prefix
from tigrismount.core.hidden import HiddenKeys
from tigrismount.core.listing import Listing
from tigrismount.core.names import DirectoryKey
from tigrismount.errors import FormatError, ObjectAccessError, ObjectError, ObjectNotFoundError
from tigrismount.formats.shards import MAX_INDEX_BYTES, is_index, parse_index
from tigrismount.objects.firstpage import first_page
from tigrismount.vfs.links import LinkFinder
from tigrismount.warm.report import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable

    from tigrismount.core.types import ObjectId
    from tigrismount.objects.client import ListPage, ObjectClient, ObjectInfo

SMALL_FILE_BYTES = 32 << 20
"""Files beside an index that are taken along: configurations and tokenizers are below it, weights above."""
_LINKS_MAX = 40
"""Links followed from one name, one behind the other, as Linux does; in the mean of all names, as many in all."""


class Target(NamedTuple):
    """What is to be warmed."""

    bucket: str
    """Bucket name."""
    name: str
    """A key, the prefix of a directory (with or without its last slash, empty for all), or a pattern."""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.name}"


class Selector:
    """Collects what targets name, each version once.

    Args:
        client: The store.
        read: Returns the bytes of a small object, best through the cache.
    """

    def __init__(self, client: ObjectClient, read: Callable[[ObjectId], Awaitable[bytes]]) -> None:
        self._client = client
        self._read = read
        self._links = LinkFinder(client)
        self._followed = 0
        self._depth = 0
        """Links that are followed now, each because of the one before: a circle must end before Python's stack does."""
        self.found: dict[tuple[str, str], ObjectInfo] = {}
        """Versions by bucket and key, in the order in which they were named."""
        self.failures: list[Failure] = []
        """Targets that name nothing, or could not be looked at."""

    async def add(self, target: Target) -> None:
        """Add what *target* names; what goes wrong is noted, and ends nothing else."""
        try:
            if is_glob(target.name) and not await self._is_key(target):
                named = [info async for info in self._matching(target)]
            else:
                named = await self._named(target)
            if not named:
                self.failures.append(Failure(str(target), _nothing(target), not_found=True))
            for info in named:
                await self._take(target, info)
        except ObjectNotFoundError as exc:
            self.failures.append(Failure(str(target), exc.detail, not_found=True))
        except ObjectError as exc:
            self.failures.append(Failure(str(target), exc.detail))

    async def _take(self, target: Target, info: ObjectInfo) -> None:
        bucket, key = info.id.bucket, info.id.key
        if (bucket, key) in self.found:
            return
        if info.symlink_target:
            await self._follow(info)
            return
        self.found[bucket, key] = info
        if key == target.name and is_index(key):
            await self._take_shards(target, info.id)

    async def _follow(self, info: ObjectInfo) -> None:
        assert info.symlink_target is not None
        self._followed += 1
        link = info.symlink_target.decode("utf-8", "surrogateescape")
        key = posixpath.normpath(posixpath.join(posixpath.dirname(info.id.key), link))
        is_circle = self._depth == _LINKS_MAX or self._followed > _LINKS_MAX * (1 + len(self.found))
        if link.startswith("/") or key.startswith("..") or is_circle:
            where = f"s3://{info.id.bucket}/{info.id.key}"
            self.failures.append(Failure(where, f"is a link that leads out of the bucket or in a circle, to {link!r}"))
            return
        if (info.id.bucket, key) not in self.found:
            self._depth += 1
            await self.add(Target(info.id.bucket, key))
            self._depth -= 1

    # -- one name ----------------------------------------------------------------------------------------------

    async def _is_key(self, target: Target) -> bool:
        """Tell whether a name with a bracket in it is simply a key's: quantised files have them."""
        if "[" not in target.name or "*" in target.name or "?" in target.name:
            return False
        page = await first_page(self._client, target.bucket, target.name, delimiter="", max_keys=1)
        return bool(page.objects)

    async def _named(self, target: Target) -> list[ObjectInfo]:
        """Return what is at and below a name without wildcards."""
        bucket, name = target
        if not name or name.endswith("/"):
            return [info async for info in self._below(bucket, name)]
        try:
            page = await first_page(self._client, bucket, name, delimiter="")
        except ObjectAccessError:  # public buckets refuse listings
            return [await self._client.head(bucket, name)]
        directory = name + "/"
        listed = [info for info in page.objects if info.id.key.startswith(directory)]
        decided = page.next_token is None or (page.objects and page.objects[-1].id.key >= directory)
        if listed or not decided:
            if page.next_token is None:
                return await self._shown(directory, listed)
            below = [info async for info in self._below(bucket, directory)]
            if below:
                return below
        return await self._links.complete([info for info in page.objects if info.id.key == name])

    async def _matching(self, target: Target) -> AsyncIterator[ObjectInfo]:
        pattern = compile_glob(target.name)
        prefix = literal_prefix(target.name)
        directory = prefix[: prefix.rfind("/") + 1]
        hidden = HiddenKeys(directory)
        async with aclosing(self._pages(target.bucket, prefix)) as pages:
            async for page in pages:
                for info in await self._shown(directory, page.objects, hidden):
                    if pattern.fullmatch(info.id.key):
                        yield info

    async def _below(self, bucket: str, prefix: str) -> AsyncIterator[ObjectInfo]:
        hidden = HiddenKeys(prefix)
        async with aclosing(self._pages(bucket, prefix)) as pages:
            async for page in pages:
                for info in await self._shown(prefix, page.objects, hidden):
                    yield info

    async def _shown(
        self, prefix: str, rows: Iterable[ObjectInfo], hidden: HiddenKeys | None = None
    ) -> list[ObjectInfo]:
        """Return the rows of a page that a mount shows as files, those that are links with their targets."""
        rows = tuple(rows)
        unseen = {key for key, _ in (hidden or HiddenKeys(prefix)).feed(rows)}
        files = [info for info in rows if info.id.key not in unseen and not info.id.key.endswith("/")]
        return await self._links.complete(files)

    async def _pages(self, bucket: str, prefix: str) -> AsyncGenerator[ListPage]:
        token: str | None = None
        while True:
            page = await self._client.list_page(bucket, prefix, delimiter="", token=token)
            yield page
            token = page.next_token
            if token is None:
                return

    # -- a shard index -----------------------------------------------------------------------------------------

    async def _take_shards(self, target: Target, index: ObjectId) -> None:
        """Add the shards that an index names, and the small files beside it."""
        try:
            shards = parse_index(await self._read(index) if index.size_bytes <= MAX_INDEX_BYTES else b"")
        except FormatError as exc:
            self.failures.append(Failure(str(target), f"its shards are not known: {exc.detail}"))
            return
        directory = index.key[: index.key.rfind("/") + 1]
        beside = {info.id.key: info async for info in self._beside(index.bucket, directory)}
        for key in [directory + shard for shard in shards]:
            info = beside.pop(key, None)
            if info is None:
                reason = f"is named by {index.key!r} and is not in the bucket"
                self.failures.append(Failure(f"s3://{index.bucket}/{key}", reason))
            else:
                await self._take(target, info)
        for info in beside.values():
            if info.id.size_bytes <= SMALL_FILE_BYTES:
                await self._take(target, info)

    async def _beside(self, bucket: str, directory: str) -> AsyncIterator[ObjectInfo]:
        token: str | None = None
        listing = Listing(DirectoryKey(bucket, directory), 0.0)
        while True:
            page = await self._client.list_page(bucket, directory, token=token)
            listing.feed(page.objects, page.prefixes, page.next_token, 0.0)  # which sees that it comes forward
            for info in await self._shown(directory, page.objects):
                yield info
            token = page.next_token
            if token is None:
                return


def _nothing(target: Target) -> str:
    if is_glob(target.name):
        return "no key matches the pattern: check it with 'tigrismount ls'"
    return "there is no such key or prefix: check it with 'tigrismount ls'"
