"""Whether the store can be used, found out beside the service of a mount.

The first worker of a mount proves access before anything is mounted. A successor must not: a mount is not lost because
the store is away when a worker dies, and readers wait while it starts. It serves what is cached at once, looks beside
that, and says what it found. So does the first worker of a frozen mount that began while the store was away.

Later on nobody looks for as long as all goes well. Where requests had to be sent again or were refused, one look tells
whether that was an accident or the store is away, and then the next ones tell when it is back.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from tigrismount.errors import TigrisMountError

if TYPE_CHECKING:
    from tigrismount.objects.client import ObjectClient

log = logging.getLogger(__name__)

_AGAIN_S = 10.0
"""Time between two looks while access fails: soon enough for a person who watches ``status``, rare for the store."""


class AccessWatch:
    """Knows whether the store can be used.

    Args:
        client: The store.
        bucket: As for :meth:`ObjectClient.check_access`.
        prefix: Likewise.
        proved: Whether access was proved just now.
        degraded: Why it failed when it was tried, empty where it was not.
    """

    def __init__(
        self, client: ObjectClient, bucket: str, prefix: str, *, proved: bool = False, degraded: str = ""
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._proved = proved
        self.degraded = degraded
        """Why access failed when it was last tried; empty while nothing is known against it."""

    async def run(self) -> None:
        """Look until cancelled: at first where access was not proved, later where there is a reason to."""
        if not self._proved:
            await self._prove()
        while True:
            before = self._client.statistics()
            await trio.sleep(_AGAIN_S)
            after = self._client.statistics()
            if (after.retries, after.refusals) != (before.retries, before.refusals):
                await self._prove()

    async def _prove(self) -> None:
        """Return once access is proved."""
        while True:
            try:
                await self._client.check_access(self._bucket, self._prefix)
            except TigrisMountError as exc:
                if not self.degraded:
                    log.warning("serving what is cached, as the store cannot be used: %s", exc)
                self.degraded = str(exc)
            else:
                break
            await trio.sleep(_AGAIN_S)
        if self.degraded:
            log.info("the store can be used again")
        self.degraded = ""
