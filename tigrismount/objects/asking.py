"""How one range is asked for, from one try to the next.

The first try is plain: what every cache understands. An answer that is not the range makes the next one pass caches
by. An answer that the version is gone may come from a region that lags or a cache that is old, so Tigris is asked for
an answer about now. Where the version is gone indeed, it may still be there under its id (``versions``), and once it
was found there, it is asked for by that from the start, until that is gone too. No id goes through a gateway: its
query would be lost there, and the answer kept for everybody under the plain key.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tigrismount.errors import (
    ObjectAccessError,
    ObjectError,
    ObjectNotFoundError,
    ObjectProtocolError,
    StaleObjectError,
)
from tigrismount.objects.headers import PLAIN, SURE, Manner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tigrismount.core.types import ObjectId
    from tigrismount.objects.traits import StoreTraits
    from tigrismount.objects.versions import VersionIds


class Asking:
    """The tries for one range.

    Args:
        obj: The version that is asked for.
        get: Sends one GET in the manner given.
        traits: What is known of the store.
        versions: Ids of versions; None where no version may be asked for by its id.
        on_again: Called before a GET that follows another one within one try.
    """

    def __init__(
        self,
        obj: ObjectId,
        get: Callable[[Manner], Awaitable[None]],
        traits: StoreTraits,
        versions: VersionIds | None,
        on_again: Callable[[], None],
    ) -> None:
        self._obj = obj
        self._get = get
        self._traits = traits
        self._versions = versions
        self._on_again = on_again
        self._manner = PLAIN
        if versions is not None and (version_id := versions.find_superseded(obj)):
            self._manner = Manner(version_id=version_id)

    async def attempt(self) -> None:
        """Make one try, of up to three GETs.

        Raises:
            ObjectError: As in :meth:`ObjectClient.fetch`.
        """
        try:
            await self._get(self._manner)
        except ObjectProtocolError:
            self._manner = replace(self._manner, no_store=True)
            raise
        except (StaleObjectError, ObjectNotFoundError) as gone:
            if not self._manner.version_id:
                await self._ask_for_now(gone)
            else:
                await self._ask_without_id(gone)

    async def _ask_for_now(self, gone: ObjectError) -> None:
        if not self._manner.consistent and self._traits.may_lag:
            self._manner = SURE
            self._on_again()
            try:
                return await self._get(self._manner)
            except (StaleObjectError, ObjectNotFoundError) as still:
                gone = still
        return await self._ask_by_id(gone)

    async def _ask_by_id(self, gone: ObjectError) -> None:
        version_id = "" if self._versions is None or self._traits.cache else self._versions.find(self._obj)
        if self._versions is None or not version_id:
            raise gone
        self._manner = Manner(version_id=version_id)
        self._on_again()
        try:
            await self._get(self._manner)
        except (StaleObjectError, ObjectNotFoundError) as lost:
            raise self._stale() from lost
        except ObjectAccessError:
            raise gone from None  # the key may read objects, and no versions
        self._versions.supersede(self._obj)

    async def _ask_without_id(self, gone: ObjectError) -> None:
        """Ask for what the key holds now: the same bytes may have been put there again, and their old id be gone.

        Only where they were is the id forgotten: what says that there is nothing under it may be a region that lags.
        """
        assert self._versions is not None
        version_id = self._manner.version_id
        self._manner = SURE if self._traits.may_lag else PLAIN
        self._on_again()
        try:
            await self._get(self._manner)
        except (StaleObjectError, ObjectNotFoundError):
            raise self._stale() from gone
        self._versions.forget(self._obj, version_id)

    def _stale(self) -> StaleObjectError:
        detail = "the object was overwritten or deleted, and the version that was open is gone too"
        return StaleObjectError(detail, bucket=self._obj.bucket, key=self._obj.key)
