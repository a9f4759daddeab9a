"""One call at a time for a volume and for a target.

Kubernetes repeats calls that it has given up on while they still run, and publishes one volume for many pods at once.
A call takes all names it works on in one step, so that two calls with the same names in another order cannot wait for
each other; who has to wait too long is told to come again.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from tigrismount.csi.refusal import Code, RefusalError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Turns:
    """The names that calls work on now."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken: set[str] = set()

    @contextlib.contextmanager
    def take(self, *names: str, timeout_s: float) -> Iterator[None]:
        """Have *names* for oneself in a ``with`` block.

        Args:
            *names: What the block works on.
            timeout_s: How long to wait for others.

        Raises:
            RefusalError: Another call still has one of them.
        """
        wanted = set(names)
        with self._changed:
            if not self._changed.wait_for(lambda: wanted.isdisjoint(self._taken), timeout_s):
                raise RefusalError(
                    Code.ABORTED, "another call for this volume is still at work; it is tried again by itself"
                )
            self._taken |= wanted
        try:
            yield
        finally:
            with self._changed:
                self._taken -= wanted
                self._changed.notify_all()
