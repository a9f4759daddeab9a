"""Whether an object of an archive's class can be read: one byte of it is asked for.

Its class does not say so, as a restored object keeps it. A HEAD tells whether there is a restored copy, and nothing of
a store in which a class of such a name is no archive at all: Ceph's are pools, with the names that clients know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tigrismount.errors import ObjectUnavailableError

if TYPE_CHECKING:
    from tigrismount.core.types import ObjectId
    from tigrismount.objects.client import ObjectClient

_ANSWER_S = 30.0
"""How long the store may take to say so, as for a look-up; a read of data has ten times that."""


async def check_readable(client: ObjectClient, obj: ObjectId) -> None:
    """Return if *obj* can be read now.

    Raises:
        ObjectArchivedError: It must be restored first.
        ObjectError: The store could not say.
    """
    if not obj.size_bytes:
        return
    with trio.move_on_after(_ANSWER_S):
        await client.fetch(obj, 0, 1, _OneByte())
        return
    detail = f"the store has not said for {_ANSWER_S:g} s whether it can be read"
    raise ObjectUnavailableError(detail, bucket=obj.bucket, key=obj.key)


class _OneByte:
    """Takes what is asked for, and forgets it."""

    def __init__(self) -> None:
        self._left = memoryview(bytearray(1))

    def next_view(self) -> memoryview:
        return self._left

    def wrote(self, count: int) -> None:
        self._left = self._left[count:]
