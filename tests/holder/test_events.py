"""Signals between two programs of one process id."""

from __future__ import annotations

import os
import signal

from tigrismount.holder.events import Events


def test_a_signal_that_came_before_an_exec_is_there_behind_it():
    with Events() as events:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        events.turn(0)
        os.kill(os.getpid(), signal.SIGHUP)
        events.block()
        assert signal.sigpending() == {signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP}
        assert events.take_signal() is None
        events.unblock()
        events.turn(0)
        assert set(events.signals) == {signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP}
