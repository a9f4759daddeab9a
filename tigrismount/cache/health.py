"""Whether the cache's disk is any use at the moment: full, read-only and failing disks, and their return.

The first failure is logged and kept as the reason that ``status`` shows; the disk is then left alone for a while. After
that a trial decides, among the data files and in the index, with as much room as a block takes: so a mount that only
reads learns of the recovery too, and one line in the log ends what one line began.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING

import trio

from tigrismount import threads

if TYPE_CHECKING:
    from tigrismount.cache.directory import CacheDirectory
    from tigrismount.cache.index import CacheIndex
    from tigrismount.errors import CacheError

_PAUSE_S = 10.0
"""How long a disk that failed is left alone before the next try."""

_log = logging.getLogger(__name__)


class Health:
    """What is known of one cache directory's disk.

    Args:
        directory: The cache directory.
        index: Its index.
        trial_bytes: Room that must be there again before a full disk counts as recovered.
    """

    def __init__(self, directory: CacheDirectory, index: CacheIndex, *, trial_bytes: int) -> None:
        self.reason = ""
        """Why the cache is not used at the moment; empty when it is."""
        self._directory = directory
        self._index = index
        self._trial_bytes = trial_bytes
        self._next_try_s = 0.0

    @property
    def worth_a_try(self) -> bool:
        """Whether all is well, or the last failure is long enough ago."""
        return not self.reason or trio.current_time() >= self._next_try_s

    def fail(self, error: CacheError | OSError) -> None:
        """Note that something failed.

        That a file is larger than its filesystem takes says nothing of the disk: others are not.
        """
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            return
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        if not self.reason:
            _log.warning("the cache in %s is not used for now: %s", self._directory.path, reason)
        self.reason = reason
        self._next_try_s = trio.current_time() + _PAUSE_S

    def succeed(self) -> None:
        """Note that a write went well."""
        if self.reason:
            _log.info("the cache in %s is used again", self._directory.path)
        self.reason = ""

    async def recheck(self) -> None:
        """Find out whether a disk that failed works again.

        Raises:
            CacheError: The index still fails.
            OSError: The disk still fails.
        """
        if self.reason and self.worth_a_try:
            await threads.run_sync(self._try)
            self.succeed()

    def _try(self) -> None:
        self._directory.make_objects()
        path = os.path.join(self._directory.objects_path, f"trial-{os.getpid()}")  # where blocks would go
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.unlink(path)  # so that nothing stays behind, whatever happens
            os.posix_fallocate(fd, 0, self._trial_bytes)
            os.pwrite(fd, b"trial", 0)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        self._index.rewrite_totals()
