from __future__ import annotations

import os
import signal
import stat
import sys
import threading

import pytest

from tigrismount.cli import bench
from tigrismount.cli.failure import INTERRUPTED, CommandFailure
from tigrismount.testing.waiting import wait_until


def test_a_directory_in_which_nothing_can_be_made_is_one_line(fails):
    """As /var/tmp in a read-only container. Mutation: --demo says that it is an internal error, to be reported."""
    line = "/nowhere/at/all: cannot be used: No such file or directory; choose another with --directory"
    assert fails("bench", "--demo", "--directory=/nowhere/at/all") == (1, line)


def test_without_its_extra_the_demo_says_how_to_get_it(fails, monkeypatch):
    """Mutation: 'pip install' is another interpreter's, which Debian refuses, and finds nothing on any index."""
    monkeypatch.delitem(sys.modules, "tigrismount.demo.model", raising=False)
    monkeypatch.setitem(sys.modules, "numpy", None)
    line = f"--demo needs numpy: {sys.executable} -m pip install 'tigrismount[demo]'"
    assert fails("bench", "--demo") == (1, line)


@pytest.mark.parametrize("sigint", [signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_tells_it_to_end_finds_nothing_left_behind(tigrismount, monkeypatch, tmp_path, number, sigint):
    """As timeout(1) does, or a terminal that goes. Mutation: its mount stays, with a daemon and gigabytes of cache."""

    def measure(*_: object) -> None:
        signal.raise_signal(number)
        raise CommandFailure("it goes on")

    monkeypatch.setattr(bench, "load_without_mount", lambda *_: object())
    monkeypatch.setattr(bench, "_measure", measure)
    before = signal.signal(number, lambda *_: None), signal.signal(signal.SIGINT, sigint)  # else it ends the test, too
    try:
        ended = tigrismount("bench", "s3://bucket", f"--directory={tmp_path}")
    finally:
        signal.signal(number, before[0])
        signal.signal(signal.SIGINT, before[1])
    assert (ended.exit_code, ended.err.strip()) == (INTERRUPTED, "tigrismount: error: interrupted")
    assert os.listdir(tmp_path) == []


def test_the_demo_waits_for_the_end_of_what_it_measures(tmp_path):
    """Mutation: it is killed a quarter of a second after Ctrl-C, and its mount or its cache stays."""
    program, ready, cleaned = tmp_path / "program", tmp_path / "ready", tmp_path / "cleaned"
    program.write_text(
        f"#!/bin/sh\ntrap 'sleep 1; touch {cleaned}; exit 1' TERM\ntouch {ready}\nwhile :; do sleep 0.05; done\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def interrupt() -> None:
        wait_until(ready.exists)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        bench._run_to_its_end([str(program)], dict(os.environ))
    thread.join()
    assert cleaned.exists()
