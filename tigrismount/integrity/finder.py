"""Finds the checksums that are known of an object: in its name, in a HEAD, in a manifest beside it.

Costs one HEAD for each object, a page's worth of a listing for each directory, and the small files found there; all of
it only for objects that are wholly cached. A manifest counts only when it is not older than the object: an object that
was replaced before its manifest is one whose sum nobody has written down yet.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from tigrismount.core.checksums import (
    MANIFEST_NAMES,
    SIDECAR_SUFFIX,
    KnownChecksum,
    parse_manifest,
    parse_sidecar,
    sum_in_name,
)
from tigrismount.core.listing import STALLED_PAGES_MAX
from tigrismount.errors import ObjectError
from tigrismount.integrity.sums import SUMMABLE
from tigrismount.objects.firstpage import first_page

if TYPE_CHECKING:
    from tigrismount.core.types import ObjectId
    from tigrismount.objects.client import ObjectClient, ObjectInfo

MANIFEST_MAX_BYTES = 4 << 20
"""Longest manifest that is read: 40,000 files."""
_ROWS = 1000
"""Rows of a directory that are looked at, which is a page of most stores; some send fewer at a time."""
_DIRECTORIES_KEPT = 64
"""Directories whose small files are remembered; models lie in a few."""
_STORE = "the store's own record"


class ChecksumFinder:
    """Asks the store what an object's bytes should come to.

    Args:
        client: The store.
    """

    def __init__(self, client: ObjectClient) -> None:
        self._client = client
        self._beside: OrderedDict[tuple[str, str], dict[str, ObjectInfo]] = OrderedDict()
        self._manifests: dict[ObjectId, dict[str, str]] = {}

    async def find(self, obj: ObjectId) -> list[KnownChecksum]:
        """Return every checksum that is known of *obj* and can be computed here.

        Raises:
            ObjectError: The store could not say.
        """
        if in_name := sum_in_name(obj.key):
            return [KnownChecksum("sha256", in_name, "its own name, as in a Hugging Face hub cache")]
        info = await self._client.head(obj.bucket, obj.key)
        if info.id != obj:
            return []  # overwritten meanwhile: nothing there is about this version
        found = [KnownChecksum("sha256", info.sha256, _STORE)] if info.sha256 else []
        found += [KnownChecksum(algorithm, value, _STORE) for algorithm, value in info.checksums]
        found += await self._written_beside(info)
        return [known for known in found if known.algorithm in SUMMABLE]

    def forget(self) -> None:
        """Look at directories and manifests anew."""
        self._beside.clear()
        self._manifests.clear()

    async def _written_beside(self, info: ObjectInfo) -> list[KnownChecksum]:
        obj = info.id
        directory, name = obj.key[: obj.key.rfind("/") + 1], obj.key.rpartition("/")[2]
        beside = await self._small_files(obj.bucket, directory)
        for other in (name + SIDECAR_SUFFIX, *MANIFEST_NAMES):
            manifest = beside.get(other)
            # A HEAD's time is whole seconds, and a listing's is finer.
            if manifest is None or manifest.mtime_s < info.mtime_s or manifest.id.size_bytes > MANIFEST_MAX_BYTES:
                continue
            expected = await self._sum_in(manifest, name)
            if expected:
                return [KnownChecksum("sha256", expected, f"s3://{obj.bucket}/{manifest.id.key}")]
        return []

    async def _small_files(self, bucket: str, directory: str) -> dict[str, ObjectInfo]:
        """Return what the first rows of a directory have that may be a manifest, by name."""
        place = (bucket, directory)
        if place not in self._beside:
            try:
                objects = await self._first_objects(bucket, directory)
            except ObjectError as exc:
                if exc.transient:
                    raise  # what a manifest says may be why the version is refused
                return {}  # public buckets refuse listings
            names = {info.id.key.rpartition("/")[2]: info for info in objects}
            wanted = {n: i for n, i in names.items() if n in MANIFEST_NAMES or n.endswith(SIDECAR_SUFFIX)}
            self._beside[place] = wanted
            if len(self._beside) > _DIRECTORIES_KEPT:
                self._beside.popitem(last=False)
                self._manifests.clear()
        return self._beside[place]

    async def _first_objects(self, bucket: str, directory: str) -> list[ObjectInfo]:
        page = await first_page(self._client, bucket, directory)
        objects, rows = [*page.objects], len(page.objects) + len(page.prefixes)
        for _ in range(STALLED_PAGES_MAX):
            if page.next_token is None or rows >= _ROWS:
                break
            page = await self._client.list_page(bucket, directory, token=page.next_token)
            objects += page.objects
            rows += len(page.objects) + len(page.prefixes)
        return objects

    async def _sum_in(self, manifest: ObjectInfo, name: str) -> str:
        if manifest.id.key.endswith(SIDECAR_SUFFIX):
            return parse_sidecar(await self._read(manifest.id), name)
        if manifest.id not in self._manifests:
            self._manifests[manifest.id] = parse_manifest(await self._read(manifest.id))
        return self._manifests[manifest.id].get(name, "")

    async def _read(self, obj: ObjectId) -> bytes:
        sink = _Sink(obj.size_bytes)
        await self._client.fetch(obj, 0, obj.size_bytes, sink)
        return bytes(sink.data)


class _Sink:
    """Takes a small body whole."""

    def __init__(self, size_bytes: int) -> None:
        self.data = bytearray(size_bytes)
        self._done = 0

    def next_view(self) -> memoryview:
        return memoryview(self.data)[self._done :]

    def wrote(self, count: int) -> None:
        self._done += count
