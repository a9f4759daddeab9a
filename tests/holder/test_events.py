"""Signals between two programs of one process id, in a process of its own: threads of others would take them."""

from __future__ import annotations

import sys

from tigrismount.demo.command import run_child

CODE = """
import os, signal
from tigrismount.holder.events import Events
with Events() as events:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR1)
    events.turn(0)
    os.kill(os.getpid(), signal.SIGHUP)
    events.block()
    print(signal.sigpending() == {signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP})
    print(events.take_signal())
    events.unblock()
    events.turn(0)
    print(set(events.signals) == {signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP})
"""


def test_a_signal_that_came_before_an_exec_is_there_behind_it():
    assert run_child(sys.executable, "-c", CODE).check().output.split() == ["True", "None", "True"]
