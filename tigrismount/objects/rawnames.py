"""Names that are no UTF-8, on their way through botocore.

To many stores a key is bytes. Those that are no UTF-8 are lone surrogates in our texts (``core.names``), and botocore
would not encode them: such a file was seen in its directory, and could not be opened. All that botocore does with a
name is to ask it for its UTF-8 and escape that for the URL, so it is given one that answers with its bytes. What else
there is in texts, half a surrogate pair, say, stays an error.

Other stores take no such keys, and say of a request for one that it is malformed. There is nothing under it then.
"""

from __future__ import annotations

from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from tigrismount.errors import ObjectNotFoundError, ObjectProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tigrismount.objects.responses import Target


class _RawName(str):
    """A name that is encoded as the bytes that it stands for."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Return the bytes, as ``str.encode``."""
        return super().encode(encoding, "surrogateescape" if encoding == "utf-8" else errors)


def sendable(name: str) -> str:
    """Return a key or prefix as an argument for boto3."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return _RawName(name)
    return name


@contextmanager
def missing_where_malformed(names: Iterable[object], target: Target) -> Iterator[None]:
    """Take for missing what a store refuses to look for.

    Args:
        names: What was asked for, as sent.
        target: What it was about.

    Raises:
        ObjectNotFoundError: It answered that a request for a name that is no UTF-8 is malformed.
    """
    try:
        yield
    except ObjectProtocolError as exc:
        answer = exc.__cause__.response if isinstance(exc.__cause__, ClientError) else {}
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status != HTTPStatus.BAD_REQUEST or not any(isinstance(name, _RawName) for name in names):
            raise
        raise ObjectNotFoundError("this store takes no such names", bucket=target.bucket) from exc
