"""Most bytes a second that bodies are read with, all GETs together.

Each thread says what it has read and sleeps until that much was allowed. It does not read meanwhile, so the store's
sender waits as it would for any slow receiver. Turns are taken in the order in which threads come.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SAVED_S = 0.1
"""Time without reads that may be made up for: short pauses of a busy machine, and no burst after a long one."""


class Bandwidth:
    """Bounds a rate.

    Args:
        limit_bytes_s: Bytes a second; None bounds nothing.
        clock: Seconds.
        sleep: Waits so many seconds, or less where there is nothing to wait for any more.
    """

    def __init__(
        self,
        limit_bytes_s: int | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._limit_bytes_s = limit_bytes_s
        self._clock = clock
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        self._lock = threading.Lock()
        self._paid_until_s = float("-inf")
        """When all that was read would have been read at the limit."""

    def spend(self, count_bytes: int) -> None:
        """Return once bytes that were read just now are within the limit. Blocks: call it in a thread."""
        if self._limit_bytes_s is None:
            return
        with self._lock:
            now_s = self._clock()
            self._paid_until_s = max(self._paid_until_s, now_s - _SAVED_S) + count_bytes / self._limit_bytes_s
            wait_s = self._paid_until_s - now_s
        if wait_s > 0:
            self._sleep(wait_s)

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closed.set()
