"""Files that are open, and what the filesystem asks of those who read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from tigrismount.errors import ObjectProtocolError

if TYPE_CHECKING:
    from tigrismount.blocks.base import Buffer
    from tigrismount.core.inodes import Node
    from tigrismount.core.types import ObjectId

R = TypeVar("R", bound="FileReader")


class FileReader(Protocol):
    """Reads one object version; shared by everybody who has it open."""

    def try_read(self, start: int, stop: int) -> Buffer | None:
        """Return exactly ``[start, stop)`` when it is in memory now, else None. Never waits."""

    async def read(self, start: int, stop: int) -> Buffer:
        """Return exactly ``[start, stop)``.

        Raises:
            ObjectError: The store could not give the bytes of this version.
        """


class Readers(Protocol[R]):
    """Makes readers."""

    def open(self, obj: ObjectId, key: str) -> R:
        """Return a reader of *obj*, whose *key* says what kind of file to expect; no request is made for it."""

    def close(self, reader: R) -> None:
        """Say that nobody has it open any more."""


@dataclass(slots=True, eq=False)
class OpenFile:
    """A version that is open."""

    reader: FileReader
    """Gives its bytes."""
    node: Node
    """Its node."""
    obj: ObjectId
    """The version itself."""
    opens: int = 0
    """How often it is open."""
    is_direct: bool = False
    """Whether one of those who have opened it since it was closed last goes past the kernel's page cache."""


def whole(data: Buffer, file: OpenFile, start: int, stop: int) -> Buffer:
    """Return *data*, which must be all of ``[start, stop)``: the last line of defence against short replies.

    Raises:
        ObjectProtocolError: It is not.
    """
    if len(data) != stop - start:
        detail = f"{len(data)} bytes came for [{start}, {stop})"
        raise ObjectProtocolError(detail, bucket=file.obj.bucket, key=file.obj.key)
    return data
