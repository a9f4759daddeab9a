"""Makes the kernel forget names before their time is over, and pages that must not be served any more.

For a name the kernel locks the directory, and a look-up that holds the lock waits for our answer; for pages it locks
each, and a READ holds the lock of those it is to fill. So it is told from a thread of its own, which may block, while
the event loop goes on answering. The call is over when the name or the last page is gone.

Source: libfuse, ``fuse_lowlevel_notify_inval_entry`` and ``_inode``: never call them in the path that answers requests.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pyfuse3
import trio

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

_WAIT_S = 5.0
"""How long the kernel is waited for: a look-up in progress may take as long as the store, and a person waits here."""


async def forget_names(entries: Iterable[tuple[int, bytes]]) -> bool:
    """Make the kernel forget *entries*; one that it does not know is no error.

    Args:
        entries: Names, as (directory's node id, name).

    Returns:
        Whether it has; else it will, as soon as the look-ups that hold a directory are answered.
    """
    with trio.move_on_after(_WAIT_S):
        await trio.to_thread.run_sync(_forget, list(entries), abandon_on_cancel=True)
        return True
    return False


def _forget(entries: Iterable[tuple[int, bytes]]) -> None:
    for node_id, name in entries:
        try:
            pyfuse3.invalidate_entry(node_id, name)
        except FileNotFoundError:
            pass
        except OSError as exc:
            log.warning("the kernel keeps the name %r: %s", name, exc)


def forget_pages(node_id: int) -> None:
    """Make the kernel drop all pages of a file; one that it does not know is no error. Blocks: for threads."""
    try:
        pyfuse3.invalidate_inode(node_id)
    except FileNotFoundError:
        pass
    except OSError as exc:
        log.warning("the kernel keeps pages of node %d: %s", node_id, exc)
