"""Which path a key has, if it has one at all.

A key is UTF-8 text of up to 1,024 bytes in which ``/`` has no meaning to the store. Here it makes directories: below
the mounted prefix, the key ``a/b/c`` is the file ``c`` in the directories ``a`` and ``a/b``, and a key that ends with
``/`` is a marker that only says that the directory exists. Some keys can be written by no path, because a component
is empty (``a//b``), is ``.`` or ``..``, holds a NUL, or is longer than 255 bytes: those are *hidden*.

Names are bytes (the kernel's), keys are text (the store's). ``surrogateescape`` joins the two without loss, so a name
that is not UTF-8 is looked up as the bytes it is. A key that does not survive the way there and back (lone
surrogates, which no UTF-8 holds) is hidden, because looking up its name would mean another key.

Where all buckets are mounted, the root is a directory of no bucket, and the names in it are buckets.
"""

from __future__ import annotations

from typing import NamedTuple

from tigrismount.errors import InvalidNameError, NameTooLongError

NAME_MAX_BYTES = 255
"""Longest component that Linux programs cope with (NAME_MAX)."""

KEY_MAX_BYTES = 1024
"""Longest key that S3 stores; a longer one is not asked for."""


SIZE_MAX_BYTES = (1 << 63) - 1
"""Largest size that ``off_t`` holds; what a store says beyond it, or below zero, is no file."""


class DirectoryKey(NamedTuple):
    """Where the keys of one directory lie: what a directory *is*, as nothing in the store says so."""

    bucket: str
    """Bucket name; empty for the directory of all buckets."""
    prefix: str
    """All keys below start with this; empty, or ends with ``/``."""

    @property
    def holds_buckets(self) -> bool:
        """Whether the names in it are buckets."""
        return not self.bucket

    def holds(self, other: DirectoryKey) -> bool:
        """Tell whether *other* is this directory or lies below it."""
        return self.holds_buckets or (self.bucket == other.bucket and other.prefix.startswith(self.prefix))

    def key_of(self, name: bytes) -> str:
        """Return the key of the file *name* in this directory; the directory of that name lies under it and ``/``."""
        return self.prefix + name.decode("utf-8", "surrogateescape")

    @property
    def place(self) -> tuple[DirectoryKey, bytes]:
        """The directory this one lies in, and its name there; of a bucket's whole content, the directory of buckets."""
        if not self.prefix:
            return DirectoryKey("", ""), self.bucket.encode()
        return place_of(self.bucket, self.prefix.removesuffix("/"))

    def child(self, name: bytes) -> DirectoryKey:
        """Return the directory *name* in this directory."""
        if self.holds_buckets:
            return DirectoryKey(self.key_of(name), "")
        return DirectoryKey(self.bucket, self.key_of(name) + "/")


def place_of(bucket: str, key: str) -> tuple[DirectoryKey, bytes]:
    """Return the directory that *key* lies in, and its name there."""
    above, slash, component = key.rpartition("/")
    return DirectoryKey(bucket, above + slash), key_bytes(component)


class KeyPath(NamedTuple):
    """The path of a key, below the mounted prefix."""

    components: tuple[bytes, ...]
    """Names from the root down; empty for the root's own marker."""
    is_marker: bool
    """Whether the key only says that the directory exists."""


def key_bytes(key: str) -> bytes:
    """Return the bytes that the store sorts *key* by; never fails, whatever the store sent."""
    try:
        return key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return key.encode("utf-8", "surrogatepass")


def to_name(component: str) -> bytes | None:
    """Return the file name of one *component* of a key, or None where no path can express it."""
    if component in ("", ".", "..") or "/" in component or "\0" in component:
        return None
    try:
        name = component.encode()
    except UnicodeEncodeError:
        name = key_bytes(component)
        if name.decode("utf-8", "surrogateescape") != component:
            return None
    return name if len(name) <= NAME_MAX_BYTES else None


def hidden_reason(component: str) -> str:
    """Return why no path can express a key with this *component*, empty where one can."""
    if to_name(component) is not None:
        return ""
    if component in ("", ".", ".."):
        return f"it has the component {component!r}" if component else "it has an empty component"
    if "\0" in component:
        return "it holds a NUL"
    return "a component is above 255 bytes" if len(key_bytes(component)) > NAME_MAX_BYTES else "it is not UTF-8"


def check_name(name: bytes) -> None:
    """Raise unless some key can have *name* as a component.

    Raises:
        InvalidNameError: It is empty, ``.`` or ``..``, or holds a NUL or ``/``.
        NameTooLongError: It is longer than 255 bytes.
    """
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise InvalidNameError(f"no key can have the name {name!r}")
    if len(name) > NAME_MAX_BYTES:
        raise NameTooLongError(f"the name has {len(name)} bytes, {NAME_MAX_BYTES} are possible")


def check_key(key: str) -> None:
    """Raise unless the store can hold *key*.

    Raises:
        NameTooLongError: It is longer than 1,024 bytes.
    """
    size_bytes = len(key_bytes(key))
    if size_bytes > KEY_MAX_BYTES:
        raise NameTooLongError(f"the key has {size_bytes} bytes, {KEY_MAX_BYTES} are possible", key=key)


def path_of(key: str, prefix: str) -> KeyPath | None:
    """Return the path of *key* below *prefix*, or None when the key is hidden.

    Args:
        key: Whole key, which starts with *prefix*.
        prefix: The mounted prefix; empty, or ends with ``/``.

    Raises:
        ValueError: The key does not lie under the prefix.
    """
    if not key.startswith(prefix):
        raise ValueError(f"{key!r} does not lie under {prefix!r}")
    rest = key[len(prefix) :]
    if not rest:
        return KeyPath((), is_marker=True)
    is_marker = rest.endswith("/")
    names = [to_name(component) for component in rest.removesuffix("/").split("/")]
    known = tuple(name for name in names if name is not None)
    return KeyPath(known, is_marker) if len(known) == len(names) else None
