"""Makes the kernel forget names before their time is over.

For a name the kernel locks the directory, and a look-up that holds the lock waits for our answer. So it is told from a
thread of its own, which may block, while the event loop goes on answering. The call is over when the name is gone.

Source: libfuse, ``fuse_lowlevel_notify_inval_entry``: never call it in the path that answers requests.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)

_WAIT_S = 5.0
"""How long the kernel is waited for: a look-up in progress may take as long as the store, and a person waits here."""


async def forget_names(entries: Iterable[tuple[int, bytes]], forget_name: Callable[[int, bytes], None]) -> bool:
    """Make the kernel forget *entries*; one that it does not know is no error.

    Args:
        entries: Names, as (directory's node id, name).
        forget_name: Makes the kernel forget one; blocks, and raises ``OSError`` where it does not.

    Returns:
        Whether it has; else it will, as soon as the look-ups that hold a directory are answered.
    """
    with trio.move_on_after(_WAIT_S):
        await trio.to_thread.run_sync(_forget, list(entries), forget_name, abandon_on_cancel=True)
        return True
    return False


def _forget(entries: Iterable[tuple[int, bytes]], forget_name: Callable[[int, bytes], None]) -> None:
    for node_id, name in entries:
        try:
            forget_name(node_id, name)
        except FileNotFoundError:
            pass
        except OSError as exc:
            log.warning("the kernel keeps the name %r: %s", name, exc)
