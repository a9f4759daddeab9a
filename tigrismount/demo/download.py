"""What people do without a mount: download a model's files in parallel, then load them."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tigrismount.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

THREADS = 16
"""GETs at once; more did not help against the embedded server."""
_PART_BYTES = 8 << 20
"""The default block size of a mount, for a fair comparison."""
_READ_BYTES = 1 << 20


def download(client: Any, bucket: str, prefix: str, directory: str, advance: Callable[[int], object]) -> None:
    """Download everything directly under *prefix* into *directory*, by parallel range GETs.

    Args:
        client: A boto3 client with a connection for each of ``THREADS``.
        bucket: Where the objects are.
        prefix: Without a slash at its end.
        directory: Exists, and is on the disk that the mount's cache will be on.
        advance: Called, from any thread, with the bytes written since its last call.

    Raises:
        MountError: A file cannot be written.
    """
    objects = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]
    parts = [(o["Key"], start) for o in objects for start in range(0, o["Size"], _PART_BYTES)]
    buffers = threading.local()

    def fetch(part: tuple[str, int]) -> None:
        key, start = part
        wanted = f"bytes={start}-{start + _PART_BYTES - 1}"
        body = client.get_object(Bucket=bucket, Key=key, Range=wanted)["Body"]
        if not hasattr(buffers, "view"):
            buffers.view = memoryview(bytearray(_READ_BYTES))
        with open(os.open(_path(directory, key), os.O_WRONLY | os.O_CREAT, 0o600), "wb", buffering=0) as file:
            while count := body.readinto(buffers.view):
                _write(file.fileno(), buffers.view[:count], start)
                start += count
                advance(count)

    try:
        with ThreadPoolExecutor(THREADS) as threads:
            _wait(threads.map(fetch, parts))
    except OSError as exc:
        raise MountError(
            f"{directory}: the model cannot be written there: {exc.strerror or exc}; "
            "choose another with --directory, or a smaller --size"
        ) from exc


def _path(directory: str, key: str) -> str:
    return os.path.join(directory, key.rpartition("/")[2])


def _write(fd: int, data: memoryview, start: int) -> None:
    while data:  # the last bytes that fit a disk are written, and only the next call says that it is full
        written = os.pwrite(fd, data, start)
        data, start = data[written:], start + written


def _wait(results: Iterable[None]) -> None:
    for _ in results:
        pass
