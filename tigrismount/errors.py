"""Every exception that crosses a layer, in one family.

Each error carries *fields* (what, where) and not only a message, so that the layer that reports it can name the
bucket and the key. Which errno a process sees is decided in one place, ``fuse.errnos``. Errors of foreign
libraries (botocore, lmdb, ``OSError``) are translated where they occur and go no further.
"""

from __future__ import annotations

from typing import ClassVar


class TigrisMountError(Exception):
    """Base of all our errors; never raised itself.

    Args:
        detail: What happened and, where a person can act, what to do next; one line.
        bucket: Bucket it concerns, empty when none.
        key: Key it concerns, empty when none.
    """

    transient: ClassVar[bool] = False
    """Whether trying again may help; read by ``objects.retry`` alone."""

    request_id: str = ""
    """What the store calls the request that failed, where it said; for whoever asks its operators."""

    def __init__(self, detail: str = "", *, bucket: str = "", key: str = "") -> None:
        if type(self) is TigrisMountError:
            raise TypeError("TigrisMountError is abstract: raise one of its subclasses")
        super().__init__(detail)
        self.detail = detail
        self.bucket = bucket
        self.key = key

    def __str__(self) -> str:
        where = f"s3://{self.bucket}/{self.key}" if self.key else f"s3://{self.bucket}" if self.bucket else ""
        text = f"{where}: {self.detail}" if where and self.detail else where or self.detail
        # Keys come from the bucket: control characters must not reach a terminal or split a log line.
        return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


class ConfigError(TigrisMountError):
    """The command line, the environment or a configuration file is wrong; found before mounting (exit 2)."""


class CredentialsError(ConfigError):
    """There is no access key, or half of one, or the file that should hold it is damaged."""


class MountError(TigrisMountError):
    """The mount could not be made, reached or removed (exit 1)."""


class ObjectError(TigrisMountError):
    """The store could not give what was asked; never raised itself by the store, always a subclass."""


class ObjectNotFoundError(ObjectError):
    """No such key or bucket (404)."""


class StaleObjectError(ObjectError):
    """The object is no longer the version that was looked up (412, or another ETag in an answer)."""


class ObjectAccessError(ObjectError):
    """The store refuses these credentials (401, 403, expired or unknown key)."""


class ObjectKeyError(ObjectAccessError):
    """The store does not take this key at all: it is unknown, expired, or its secret half is another key's."""


class ObjectArchivedError(ObjectError):
    """The object is in an archive class and must be restored before it can be read."""


class ObjectUnavailableError(ObjectError):
    """The store did not answer, or answered 5xx; raised to callers once retries or the deadline are spent."""

    transient = True


class SlowDownError(ObjectUnavailableError):
    """The store asks for fewer requests (503 SlowDown, 429).

    Args:
        detail: As in the base class.
        retry_after_s: Seconds the store asked us to wait, 0 when it did not say.
        bucket: As in the base class.
        key: As in the base class.
    """

    def __init__(self, detail: str = "", *, retry_after_s: float = 0.0, bucket: str = "", key: str = "") -> None:
        super().__init__(detail, bucket=bucket, key=key)
        self.retry_after_s = retry_after_s


class ObjectProtocolError(ObjectError):
    """The answer is not what HTTP and S3 promise: short body, other range, other length, XML that is not XML."""

    transient = True


class ObjectUnsaidError(ObjectAccessError, ObjectProtocolError):
    """The store refuses and does not say why: the key may have expired, or somebody on the way is in trouble.

    So another key is looked for, and it is asked again a few times.
    """


class ObjectMismatchError(ObjectError):
    """The object's bytes are not what a known checksum says; found once all of them were in the cache."""


class CacheError(TigrisMountError):
    """The disk cache failed; costs speed, never reaches the kernel."""


class CacheCorruptError(CacheError):
    """A cached block does not match its checksum: dropped, counted and fetched again."""


class FormatError(TigrisMountError):
    """A tensor file's header lies or is damaged; costs the plan, never the read.

    Args:
        detail: Which rule of the format is broken.
        offset: Byte of the file where it was seen, -1 when it is no single place.
    """

    def __init__(self, detail: str, *, offset: int = -1) -> None:
        super().__init__(detail)
        self.offset = offset


class ForeignFormatError(FormatError):
    """The file is in another format than its name lets hope for, which is nobody's fault; no plan then either."""


class PathError(TigrisMountError):
    """A path does not mean what the caller takes it for."""


class EntryNotFoundError(PathError):
    """No such name in this directory."""


class NotDirectoryError(PathError):
    """A file was used as a directory."""


class IsDirectoryError(PathError):
    """A directory was used as a file."""


class InvalidNameError(PathError):
    """A name that no key can have (NUL, ``/``, ``.`` or ``..``)."""


class NameTooLongError(PathError):
    """A name above 255 bytes, or a key above 1,024."""


class UnknownNodeError(PathError):
    """The kernel asks for a node id that this process does not know (after a restart)."""
