"""How many files this process may have open: as many as it can be given."""

from __future__ import annotations

import contextlib
import resource

NR_OPEN_PATH = "/proc/sys/fs/nr_open"
"""Most that the kernel gives one process now (proc(5))."""


def raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard one, or to what the kernel gives where that is less; never fails.

    A hard limit from before an administrator lowered the kernel's, as a container has it, cannot even be kept. That is
    a ValueError here, as is a sandbox that refuses the call.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return
    with contextlib.suppress(ValueError, OSError), open(NR_OPEN_PATH, encoding="ascii") as file:
        most = int(file.read())
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
