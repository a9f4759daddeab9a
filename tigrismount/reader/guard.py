"""The guard around planning in the background: whatever goes wrong there costs the plan and never a read."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

Arguments = TypeVarTuple("Arguments")


async def guarded(work: Callable[[*Arguments], Awaitable[None]], *arguments: *Arguments) -> None:
    """Do *work*; a mistake of ours in it is logged with its traceback and goes no further.

    The nursery that it runs in is that of all readers: an exception would end the worker.

    Args:
        work: What to do.
        *arguments: For it.
    """
    try:
        await work(*arguments)
    except Exception:
        log.exception("planning failed; reads go on without it")
