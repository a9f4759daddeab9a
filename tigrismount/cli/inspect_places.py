"""Where ``inspect`` finds files: on this machine, under a mount or not, or in a bucket without a mount.

Either way only directories and headers are read. What is cached is asked of the mount's daemon, by inode number, or
read from the cache directory itself.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from tigrismount.cli.failure import NOT_FOUND, CommandFailure, print_warning
from tigrismount.cli.place import absolute_path, find_mount
from tigrismount.control.client import StaleSocketError, request
from tigrismount.control.paths import find_socket
from tigrismount.core.loadpreview import extents_of
from tigrismount.core.types import Extent, ObjectId
from tigrismount.errors import CacheError, MountError, ObjectAccessError, ObjectError, ObjectNotFoundError
from tigrismount.holder.mountinfo import read_mounts
from tigrismount.objects.firstpage import first_page
from tigrismount.reader.modelfiles import ModelFile

if TYPE_CHECKING:
    from tigrismount.config.model import MountConfig
    from tigrismount.objects.s3 import S3Client

T = TypeVar("T")

_ANSWER_TIMEOUT_S = 30.0  # the cache's index is asked about each file
_FILES_PER_REQUEST = 1000
_MAX_LISTED = 10_000
"""Most files of one directory: ten times the shards of the largest model."""


@dataclass(frozen=True, slots=True)
class Holding:
    """One object version, and what the disk cache has of it."""

    bucket: str
    """Bucket name."""
    key: str
    """Whole key."""
    etag: str
    """Entity tag without quotes."""
    block_bytes: int
    """Size of a block; 0 where nothing is known."""
    cached: tuple[Extent, ...]
    """Where the blocks lie that are on disk."""


class InspectedPlace(Protocol):
    """A ``reader.modelfiles.Place`` that knows what is cached."""

    title: str
    """What was named, as people write it."""

    async def single(self) -> ModelFile | None:
        """Return the file that was named, None where it is a directory.

        Raises:
            CommandFailure: There is neither.
        """

    async def files_in(self, directory: str) -> dict[str, ModelFile]:
        """See ``Place``."""

    async def read(self, file: ModelFile, start: int, stop: int) -> bytes:
        """See ``Place``."""

    async def holdings(self, files: Sequence[ModelFile]) -> list[Holding | None]:
        """Return what is cached of each file, None where nobody could say."""

    async def loads(self) -> list[dict[str, Any]]:
        """Return the load reports that there are, newest last."""

    async def orders(self) -> dict[bytes, bytes]:
        """Return the records of the orders that were learned; after ``holdings``."""


class LocalPlace:
    """A file or directory of this machine.

    Args:
        path: As written on the command line.
    """

    def __init__(self, path: str) -> None:
        self.title = path
        self._root = absolute_path(path)
        self._socket = _socket_of(path)
        self._cache_dirs: list[str] = []

    async def single(self) -> ModelFile | None:
        """See ``InspectedPlace``."""
        facts = await _look(self._facts)
        if stat.S_ISDIR(facts.st_mode):
            return None
        self._root, _, name = self._root.rpartition("/")
        return ModelFile(name, facts.st_size, facts.st_ino)

    async def files_in(self, directory: str) -> dict[str, ModelFile]:
        """See ``Place``."""
        return await _look(partial(self._list, directory))

    async def read(self, file: ModelFile, start: int, stop: int) -> bytes:
        """See ``Place``."""
        return await _look(partial(_pread, os.path.join(self._root, file.name), start, stop))

    async def holdings(self, files: Sequence[ModelFile]) -> list[Holding | None]:
        """See ``InspectedPlace``."""
        if self._socket is None:
            return [None] * len(files)
        found: dict[str, Any] = {}
        for first in range(0, len(files), _FILES_PER_REQUEST):
            nodes = [file.handle for file in files[first : first + _FILES_PER_REQUEST]]
            reply = await self._ask("inspect", nodes=nodes)
            found |= reply.get("files", {})
            self._cache_dirs = reply.get("cache_dirs", [])
        return [_holding(found.get(str(file.handle))) for file in files]

    async def loads(self) -> list[dict[str, Any]]:
        """See ``InspectedPlace``."""
        return (await self._ask("loads")).get("loads", []) if self._socket else []

    async def orders(self) -> dict[bytes, bytes]:
        """See ``InspectedPlace``."""
        return await trio.to_thread.run_sync(_read_orders, self._cache_dirs)

    async def _ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """Ask the mount's daemon; what it cannot say is only missing."""
        assert self._socket is not None
        path = self._socket
        try:
            return await trio.to_thread.run_sync(
                lambda: request(path, command, timeout_s=_ANSWER_TIMEOUT_S, **arguments)
            )
        except StaleSocketError:
            print_warning("the mount's daemon is another user's: what is cached is not shown")
        except MountError as exc:
            print_warning(f"what is cached is not shown: {exc}")
        return {}

    def _facts(self) -> os.stat_result:
        try:
            return os.stat(self._root)
        except OSError as exc:
            hint = "; a source has its scheme: s3://" + self.title if re.fullmatch(r"[a-z0-9][^:]*", self.title) else ""
            raise CommandFailure(f"{self.title}: {exc.strerror}{hint}", NOT_FOUND) from exc

    def _list(self, directory: str) -> dict[str, ModelFile]:
        found: dict[str, ModelFile] = {}
        try:
            with os.scandir(os.path.join(self._root, directory)) as entries:
                for entry in entries:
                    if len(found) == _MAX_LISTED:
                        raise CommandFailure(f"{self.title}: holds more than {_MAX_LISTED} files; name one of them")
                    if entry.is_file():
                        facts = entry.stat()
                        name = os.path.join(directory, entry.name)
                        found[entry.name] = ModelFile(name, facts.st_size, facts.st_ino)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as exc:
            raise CommandFailure(f"{os.path.join(self._root, directory)}: {exc.strerror}") from exc
        return found


class StorePlace:
    """A key or prefix of a bucket, read without a mount.

    Args:
        client: Connected to the store.
        config: The configuration a mount of it would have.
    """

    def __init__(self, client: S3Client, config: MountConfig) -> None:
        self.title = config.source
        self._client = client
        self._config = config
        self._bucket = config.vfs.bucket
        self._prefix = config.vfs.prefix

    async def single(self) -> ModelFile | None:
        """See ``InspectedPlace``; a directory wins over a key of its name, as in a mount."""
        try:
            page = await first_page(self._client, self._bucket, self._prefix, max_keys=1)
        except ObjectAccessError as refusal:  # as of a public bucket, whose files are found by name alone
            try:
                return await self._file()
            except ObjectError:
                raise refusal from None
        if page.objects or page.prefixes:
            return None
        try:
            return await self._file()
        except ObjectNotFoundError as exc:
            raise CommandFailure(f"{self.title}: there is no such key, and nothing below it", NOT_FOUND) from exc

    async def _file(self) -> ModelFile:
        """Return the key that was named; the directory it lies in is the place from then on."""
        if not self._prefix:
            raise ObjectNotFoundError("the bucket is empty", bucket=self._bucket)
        info = await self._client.head(self._bucket, self._prefix.removesuffix("/"))
        above, _, name = info.id.key.rpartition("/")
        self._prefix = f"{above}/" if above else ""
        return ModelFile(name, info.id.size_bytes, info.id)

    async def files_in(self, directory: str) -> dict[str, ModelFile]:
        """See ``Place``."""
        prefix = f"{self._prefix}{directory}/" if directory else self._prefix
        found: dict[str, ModelFile] = {}
        token: str | None = None
        while True:
            page = await self._client.list_page(self._bucket, prefix, token=token)
            for info in page.objects:
                name = info.id.key.removeprefix(prefix)
                if name:
                    found[name] = ModelFile(info.id.key.removeprefix(self._prefix), info.id.size_bytes, info.id)
            token = page.next_token
            if token is None:
                return found
            if len(found) > _MAX_LISTED:
                raise CommandFailure(f"{self.title}: holds more than {_MAX_LISTED} files; name one of them")

    async def read(self, file: ModelFile, start: int, stop: int) -> bytes:
        """See ``Place``."""
        sink = _BytesSink(stop - start)
        if start < stop:
            await self._client.fetch(file.handle, start, stop, sink)
        return bytes(sink.data)

    async def holdings(self, files: Sequence[ModelFile]) -> list[Holding | None]:
        """See ``InspectedPlace``."""
        return await trio.to_thread.run_sync(self._holdings, [file.handle for file in files])

    async def loads(self) -> list[dict[str, Any]]:
        """See ``InspectedPlace``."""
        return await trio.to_thread.run_sync(self._loads)

    async def orders(self) -> dict[bytes, bytes]:
        """See ``InspectedPlace``."""
        return await trio.to_thread.run_sync(_read_orders, self._directories())

    def _holdings(self, objects: list[ObjectId]) -> list[Holding | None]:
        from tigrismount.cache.inspect import read_blocks

        unknown = self._config.blocks.block_bytes
        found: list[Holding | None] = [Holding(obj.bucket, obj.key, obj.etag, unknown, ()) for obj in objects]
        for directory in self._directories():
            try:
                read = read_blocks(directory, self._config.vfs.store_id, objects)
            except CacheError as exc:
                print_warning(f"what is cached is not shown: {exc}")
                continue
            for number, (obj, (block_bytes, blocks)) in enumerate(zip(objects, read, strict=True)):
                if blocks:  # a version is in one of the directories
                    cached = extents_of(blocks, block_bytes, obj.size_bytes)
                    found[number] = Holding(obj.bucket, obj.key, obj.etag, block_bytes, cached)
        return found

    def _loads(self) -> list[dict[str, Any]]:
        from tigrismount.cache.inspect import read_records
        from tigrismount.reader.loads import MOST_SHOWN, TABLE, unpack_reports

        for directory in self._directories():
            try:
                return unpack_reports(read_records(directory, TABLE, limit=MOST_SHOWN))
            except CacheError:
                continue  # said already
        return []

    def _directories(self) -> list[str]:
        return [cache.directory for cache in self._config.disk_caches if os.path.isdir(cache.directory)]


class _BytesSink:
    """Takes the bytes of one fetch."""

    def __init__(self, count: int) -> None:
        self.data = bytearray(count)
        self._filled = 0

    def next_view(self) -> memoryview:
        """See ``FetchSink``."""
        return memoryview(self.data)[self._filled :]

    def wrote(self, count: int) -> None:
        """See ``FetchSink``."""
        self._filled += count


async def _look(work: Callable[[], T]) -> T:
    """Return *work()*, called in a thread that is left behind by Ctrl-C: a mount may take minutes over a read."""
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


def _pread(path: str, start: int, stop: int) -> bytes:
    """Return what the file has of the range, which is less where it has shrunk."""
    try:
        with open(path, "rb", buffering=0) as file:
            data, more = b"", b"first"
            while more and start + len(data) < stop:
                more = os.pread(file.fileno(), stop - start - len(data), start + len(data))
                data += more
    except OSError as exc:
        raise CommandFailure(f"{path}: {exc.strerror}") from exc
    else:
        return data


def _read_orders(directories: Sequence[str]) -> dict[bytes, bytes]:
    from tigrismount.cache.inspect import read_records
    from tigrismount.cache.kept import TABLES
    from tigrismount.reader.orders import TABLE

    found: dict[bytes, bytes] = {}
    for directory in directories:
        try:
            found |= dict(read_records(directory, TABLE, limit=TABLES[TABLE].entries))
        except CacheError as exc:
            print_warning(f"orders of earlier loads are not known: {exc}")
    return found


def _socket_of(path: str) -> str | None:
    """Return the control socket of the mount that *path* lies under, None where it lies under none of ours."""
    found = find_mount(os.path.realpath(path), read_mounts())  # a link that leads into a mount lies under it
    return find_socket(os.environ, uid=os.geteuid(), mountpoint=found[0]) if found else None


def _holding(facts: Any) -> Holding | None:
    """Return what the daemon said of one file, None where it said nothing."""
    if not isinstance(facts, dict):
        return None
    cached = tuple(Extent(start, stop) for start, stop in facts["cached"])
    return Holding(facts["bucket"], facts["key"], facts["etag"], facts["block_bytes"], cached)
