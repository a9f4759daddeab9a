"""Readers that refuse versions whose bytes are known to be wrong: an error at once, and not a poisoned model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tigrismount.errors import ObjectMismatchError

if TYPE_CHECKING:
    from tigrismount.blocks.base import Buffer
    from tigrismount.core.types import ObjectId
    from tigrismount.integrity.verdicts import Verdicts


class CheckedReaders:
    """Makes readers of versions that are not refused.

    Args:
        readers: Makes the readers.
        verdicts: Which versions are refused.
    """

    def __init__(self, readers: Any, verdicts: Verdicts) -> None:
        self._readers = readers
        self._verdicts = verdicts

    def open(self, obj: ObjectId, key: str) -> CheckedReader:
        """Return a reader of *obj*.

        Raises:
            ObjectMismatchError: Its bytes are not what they should be.
        """
        check_not_refused(obj, self._verdicts)
        return CheckedReader(self._readers.open(obj, key), obj, self._verdicts)

    def close(self, reader: CheckedReader) -> None:
        """Say that nobody has it open any more."""
        self._readers.close(reader.inner)


class CheckedReader:
    """Reads one version for as long as it is not refused.

    Args:
        inner: Reads.
        obj: What it reads.
        verdicts: Whether it may.
    """

    __slots__ = ("_obj", "_verdicts", "inner")

    def __init__(self, inner: Any, obj: ObjectId, verdicts: Verdicts) -> None:
        self.inner = inner
        """Gives the bytes."""
        self._obj = obj
        self._verdicts = verdicts

    def try_read(self, start: int, stop: int) -> Buffer | None:
        """Return bytes that are in memory, unless the version is refused."""
        if self._verdicts.refused and self._obj in self._verdicts.refused:
            return None
        found: Buffer | None = self.inner.try_read(start, stop)
        return found

    async def read(self, start: int, stop: int) -> Buffer:
        """Return exactly bytes ``[start, stop)``.

        Raises:
            ObjectMismatchError: They are not what they should be.
            ObjectError: The store could not give them.
        """
        check_not_refused(self._obj, self._verdicts)
        found: Buffer = await self.inner.read(start, stop)
        if self._verdicts.refused:  # meanwhile, perhaps
            check_not_refused(self._obj, self._verdicts)
        return found


def check_not_refused(obj: ObjectId, verdicts: Verdicts) -> None:
    """Return where a version may be read.

    Raises:
        ObjectMismatchError: Its bytes are not what they should be.
    """
    reason = verdicts.refused.get(obj)
    if reason is not None:
        raise ObjectMismatchError(reason, bucket=obj.bucket, key=obj.key)
