"""Look at an index before trusting one's own process to it.

LMDB reads its file through a memory map and believes what it finds there: a page of garbage can end the process
(SIGSEGV, SIGBUS, an assertion) instead of raising. A daemon that dies of its cache at every start would be worse than
no cache, so the whole index is walked once in a child at each open. It costs some 20 ms, and about one microsecond
a block.

Run as a program it takes the index's directory and exits with 0 (good) or 3 (damaged, the reason on stdout).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

from tigrismount.errors import CacheCorruptError, CacheError

_DAMAGED_STATUS = 3
_TIMEOUT_S = 20.0
"""A damaged tree can also be walked for ever; a hundred million records can be walked in less."""
_FATAL_SIGNALS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}

_log = logging.getLogger(__name__)


def index_damage(index_path: str, *, in_use: bool = False) -> str:
    """Return what is wrong with an index, in a few words; empty when it can be opened.

    Args:
        index_path: Directory of the LMDB environment.
        in_use: Whether others work with it. Then a walk that does not end tells of a busy disk, and not of damage.

    Raises:
        CacheError: It is in use, and the walk did not end.
        OSError: There is no index.
    """
    if os.path.getsize(os.path.join(index_path, "data.mdb")) == 0:
        return "its file is empty"
    # The script's own directory must not become the first entry of the path (-P): it has modules named like the
    # standard library's.
    command = [sys.executable, "-P", "-S", __file__, index_path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        probe = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        late = f"did not end within {_TIMEOUT_S:.0f} s"
        if in_use:
            raise CacheError(f"a look at the index {index_path}, which others use, {late}") from None
        return f"walking it {late}"
    except OSError as error:
        _log.warning("the cache index is opened without a check: %s", error.strerror)
        return ""
    return _judge(probe)


def _judge(probe: subprocess.CompletedProcess[bytes]) -> str:
    if probe.returncode == _DAMAGED_STATUS:
        return probe.stdout.decode(errors="replace").strip()
    if -probe.returncode in _FATAL_SIGNALS:
        return f"reading it ends a process with {signal.Signals(-probe.returncode).name}"
    if probe.returncode:
        last_line = probe.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        _log.warning("the cache index is opened without a check: %s", last_line or f"status {probe.returncode}")
    return ""


def _main() -> int:
    from tigrismount.cache.index import CacheIndex

    try:
        CacheIndex(sys.argv[1], readonly=True).check()
    except CacheCorruptError as error:
        sys.stdout.write(str(error))
        return _DAMAGED_STATUS
    return 0


if __name__ == "__main__":
    sys.exit(_main())
