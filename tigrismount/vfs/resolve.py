"""Ask the store what one name is.

Two requests run side by side, because neither answers alone: HEAD of the key finds the file, a listing under ``key/``
finds the directory, which wins. What is allowed differs from store to store, so a refusal of one is not the end:

- where listing is refused (public buckets), HEAD decides, and directories cannot be seen;
- where HEAD is refused and listing is not (the key may not be read, or the store hides what is missing), the listing
  says whether the key is there: it is shown, and opening its bytes fails with the reason.

Any other failure of the listing is an error even where HEAD succeeded: the name could be a directory.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from tigrismount.core.listing import Dentry
from tigrismount.core.names import KEY_MAX_BYTES, SIZE_MAX_BYTES, key_bytes
from tigrismount.errors import ObjectAccessError, ObjectError, ObjectNotFoundError, ObjectProtocolError
from tigrismount.objects.firstpage import first_page
from tigrismount.vfs.links import may_be_link

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tigrismount.core.names import DirectoryKey
    from tigrismount.objects.client import ObjectClient, ObjectInfo

T = TypeVar("T")


class _Answer(Generic[T]):
    """What a request came to."""

    def __init__(self) -> None:
        self.result: T | None = None
        self.error: ObjectError | None = None

    async def take(self, request: Callable[[], Awaitable[T]]) -> None:
        try:
            self.result = await request()
        except ObjectError as exc:
            self.error = exc


async def resolve(
    client: ObjectClient,
    where: DirectoryKey,
    name: bytes,
    asked_s: float,
    on_unseen: Callable[[], None] = lambda: None,
) -> Dentry | None:
    """Return what *name* in the directory *where* stands for now, None when there is no such name.

    Args:
        client: The store.
        where: The directory.
        name: A name that a key can have.
        asked_s: The time, for the answer.
        on_unseen: Called where listing is refused, so that the answer is only what this key sees today.

    Raises:
        ObjectError: The store refused or failed, and what it did say does not decide.
    """
    key = where.key_of(name)
    retries = client.statistics().retries
    file: _Answer[ObjectInfo] = _Answer()
    below: _Answer[bool] = _Answer()

    async def look_below() -> None:
        await below.take(partial(_holds_keys, client, where.child(name)))
        if below.result:
            nursery.cancel_scope.cancel()  # the directory wins, whatever HEAD would say

    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.take, partial(client.head, where.bucket, key))
        nursery.start_soon(look_below)

    if below.result:
        return Dentry(name, None, asked_s)
    if below.error is not None and not isinstance(below.error, ObjectAccessError):
        raise below.error
    if below.error is not None:
        on_unseen()
    if isinstance(file.error, ObjectNotFoundError) and client.statistics().retries != retries:
        # Something had to be asked again. A gateway that knew no store then has answered the HEAD as a store would.
        file.error = None
        await file.take(partial(client.head, where.bucket, key))
    if file.result is not None:
        if not 0 <= file.result.id.size_bytes <= SIZE_MAX_BYTES:
            raise ObjectProtocolError("the store names an impossible size", bucket=where.bucket, key=key)
        return Dentry(name, file.result, asked_s)
    if isinstance(file.error, ObjectNotFoundError):
        return None
    if isinstance(file.error, ObjectAccessError) and below.error is None:
        info = await _find_in_listing(client, where.bucket, key)
        if info is not None and may_be_link(info):
            # What was refused may be a key that is no more, while the one there is may list: who has it asks again.
            with contextlib.suppress(ObjectAccessError):
                info = await client.head(where.bucket, key)
        return None if info is None else Dentry(name, info, asked_s)
    assert file.error is not None
    raise file.error


async def _holds_keys(client: ObjectClient, where: DirectoryKey) -> bool:
    if len(key_bytes(where.prefix)) > KEY_MAX_BYTES:
        return False  # nor is a store asked for such a prefix, which some take for a key that is too long
    page = await first_page(client, where.bucket, where.prefix, max_keys=1)
    return bool(page.objects or page.prefixes)


async def _find_in_listing(client: ObjectClient, bucket: str, key: str) -> ObjectInfo | None:
    """Return the version of *key* as the listing has it: of all keys that begin so, it is the first."""
    page = await first_page(client, bucket, key, max_keys=1)
    return next((info for info in page.objects if info.id.key == key), None)
