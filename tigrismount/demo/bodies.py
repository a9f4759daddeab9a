"""moto's S3 objects, without moto's copies: the one place that replaces internals of the pinned moto.

moto keeps each object in a temporary file, and copies the *whole* object into memory for each ranged GET (14 MB/s at
1 GiB objects) and five times when a multipart upload completes. Two properties of moto make it possible to keep its
decisions and drop the copies: its range code only slices and measures the value, and the file is at hand.

*GET*: while a thread captures, ``FakeKey.value`` of a large object is a ``_Stub``, which has a length and no bytes,
and a duplicate of the descriptor of that very version's file is kept. moto slices the stub and writes the headers;
the caller sends the bytes from the descriptor. ETag and bytes come from the same ``FakeKey``, so an object that is
overwritten meanwhile never mixes.

*Overwriting and deleting*: moto closes the file of the old version while others may be about to send it, and a
descriptor of the same number is soon another's. So it is closed when nobody has the ``FakeKey`` any more.

*ETag*: moto computes it when it is first asked for, from a file that has one position for all threads. Two that ask at
the same time got the ETag of no bytes at all, the same for every version; so they take turns.

*CompleteMultipartUpload*: the value is a ``_Joined``, a stub that names the parts, and an object made of it is filled
from file to file inside the kernel.
"""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from moto.s3.exceptions import EntityTooSmall, InvalidPart, MalformedXML
from moto.s3.models import FakeKey, FakeMultipart
from moto.settings import S3_UPLOAD_PART_MIN_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import SupportsIndex


STREAMED_BYTES = 256 * 1024
"""Objects from this size on are sent from their file; below, moto's copy is cheaper than a descriptor."""


class _Stub(bytes):
    """Bytes that have a length and no content: what moto's range code slices in place of an object."""

    length: int

    def __new__(cls, length: int) -> Self:
        stub = super().__new__(cls)
        stub.length = length
        return stub

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        assert isinstance(index, slice)
        return _Stub(len(range(*index.indices(self.length))))


class _Joined(_Stub):
    """The value of a completed upload: descriptor and size of each part, in order; descriptors are owned by it."""

    parts: list[tuple[int, int]]


class Captured:
    """What a capture found.

    Attributes:
        fd: Descriptor of the large object that moto read, owned by the one who captures; -1 when it read none.
    """

    def __init__(self) -> None:
        self.fd = -1

    def close(self) -> None:
        """Give the descriptor back; nothing when there is none."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class _Thread(threading.local):
    captured: Captured | None = None


_thread = _Thread()


@contextmanager
def capturing() -> Iterator[Captured]:
    """While this lasts, large objects read by moto in this thread are stubs, and the last one's file is captured."""
    _thread.captured = Captured()
    try:
        yield _thread.captured
    except BaseException:
        _thread.captured.close()
        raise
    finally:
        _thread.captured = None


_copy_value: Callable[[Any], bytes] = FakeKey.value.fget  # type: ignore[attr-defined]
_store_value: Callable[[Any, bytes], None] = FakeKey.value.fset  # type: ignore[attr-defined]


_close: Callable[..., None] = FakeKey.dispose
_find_etag: Callable[[Any], str] = FakeKey.etag.fget  # type: ignore[attr-defined]


def _read_etag(key: Any) -> str:
    with key.lock:
        return _find_etag(key)


def _dispose(key: Any, garbage: bool = False) -> None:
    if garbage:  # nobody has it any more
        _close(key, garbage)
    key.disposed = True


def _read_value(key: Any) -> bytes:
    captured = _thread.captured
    if captured is None or key.size < STREAMED_BYTES:
        return _copy_value(key)
    captured.close()
    captured.fd = _duplicate_fd(key)
    return _Stub(key.size)


def _duplicate_fd(key: Any) -> int:
    with key.lock:
        key._value_buffer.flush()
        return os.dup(key._value_buffer.fileno())


def _write_value(key: Any, value: bytes) -> None:
    if not isinstance(value, _Joined):
        _store_value(key, value)
        return
    target = key._value_buffer.fileno()
    for fd, size_bytes in value.parts:
        try:
            _copy_file(fd, target, size_bytes)
        finally:
            os.close(fd)
    key.contentsize = len(value)


def _copy_file(source: int, target: int, size_bytes: int) -> None:
    offset = 0
    while offset < size_bytes:
        count = os.sendfile(target, source, offset, size_bytes - offset)
        if count == 0:
            raise OSError("a part's file is shorter than the part")
        offset += count


def _complete(upload: Any, named: Iterator[tuple[int, str]]) -> tuple[bytes, str, None]:
    """Stand in for ``FakeMultipart.complete``: the joined parts, their ETag, and no whole-object checksum."""
    parts: list[Any] = []
    for number, etag in named:
        part = upload.parts.get(number)
        if part is None or part.etag.strip('"') != etag.strip('"'):
            raise InvalidPart
        if parts and parts[-1].size < S3_UPLOAD_PART_MIN_SIZE:
            raise EntityTooSmall
        parts.append(part)
    if not parts:
        raise MalformedXML
    value = _Joined(sum(part.size for part in parts))
    # Now: moto closes the parts' files before it makes the object.
    value.parts = [(_duplicate_fd(part), part.size) for part in parts]
    digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    return value, f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}", None


FakeKey.value = property(_read_value, _write_value)  # type: ignore[method-assign,assignment]
FakeKey.etag = property(_read_etag)  # type: ignore[method-assign,assignment]
FakeKey.dispose = _dispose  # type: ignore[method-assign,assignment]
FakeMultipart.complete = _complete  # type: ignore[method-assign,assignment]
