"""Keeps the memory of a process to itself, and the process to its parent.

A worker has the secret key in its memory, and models that may be nobody else's business. A core dump would write both
to a place that outlives them, and a dump that is piped to a collector takes no notice of the limit on its size. A
process that says it is not *dumpable* leaves none, and processes of the same user cannot read its memory or its
environment either.

Source: prctl(2), ``PR_SET_DUMPABLE``; core(5); ptrace(2), "Ptrace access mode checking".
"""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


def keep_out_of_core_dumps() -> None:
    """Let this process leave no core dump, for as long as it lives."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends: nobody would look after it any more."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
