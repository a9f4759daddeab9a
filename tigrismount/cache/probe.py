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
"""A damaged tree can also be walked for ever; a hundred million records can be walked in less. Who has waited for the
disk for most of it walks for ever for another reason."""
_FATAL_SIGNALS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}

_log = logging.getLogger(__name__)


def index_damage(index_path: str, *, in_use: bool = False) -> str:
    """Return what is wrong with an index, in a few words; empty when it can be opened.

    Args:
        index_path: Directory of the LMDB environment.
        in_use: Whether others work with it. Then no walk that does not end tells of damage.

    Raises:
        CacheError: The walk did not end, and waited for the disk, or the index is in use.
        OSError: There is no index.
    """
    if os.path.getsize(os.path.join(index_path, "data.mdb")) == 0:
        return "its file is empty"
    # The script's own directory must not become the first entry of the path (-P): it has modules named like the
    # standard library's.
    command = [sys.executable, "-P", "-S", __file__, index_path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        probe = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        _log.warning("the cache index is opened without a check: %s", error.strerror)
        return ""
    with probe:
        try:
            output, errors = probe.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            late = f"did not end within {_TIMEOUT_S:.0f} s"
            if _killed_s(probe) < _TIMEOUT_S / 2:  # it waited for the disk, and what is there may be worth terabytes
                raise CacheError(f"a look at the index {index_path} {late}: its disk is busy, or hangs") from None
            if in_use:
                raise CacheError(f"a look at the index {index_path}, which others use, {late}") from None
            return f"walking it {late}"
        except BaseException:
            probe.kill()
            raise
    return _judge(probe.returncode, output, errors)


def _killed_s(probe: subprocess.Popen[bytes]) -> float:
    """Kill the child; return for how many seconds it has kept a processor busy."""
    probe.kill()
    try:
        _, status, usage = os.wait4(probe.pid, 0)
    except ChildProcessError:  # whoever started us ignores the ends of children
        return 0.0
    probe.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _judge(status: int, output: bytes, errors: bytes) -> str:
    if status == _DAMAGED_STATUS:
        return output.decode(errors="replace").strip()
    if -status in _FATAL_SIGNALS:
        return f"reading it ends a process with {signal.Signals(-status).name}"
    if status:
        last_line = errors.decode(errors="replace").strip().rpartition("\n")[2]
        _log.warning("the cache index is opened without a check: %s", last_line or f"status {status}")
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
