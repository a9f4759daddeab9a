"""How far warming is: bars with rate and time left on a terminal, lines elsewhere, and nothing on standard output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest

from tigrismount.cli import warmbar

MIB = 1 << 20
STEPS = 6
PROGRAM = f"""
import sys, time
from tigrismount.cli.warmbar import shown_progress
with shown_progress() as tell:
    tell({{"phase": "listing", "objects": 3, "objects_done": 0, "wanted_bytes": 0, "done_bytes": 0}})
    for step in range({STEPS}):
        tell({{"phase": "fetching", "objects": 3, "objects_done": 1, "wanted_bytes": {8192 * MIB},
              "done_bytes": step * {64 * MIB}}})
        time.sleep(0.12)
print("result")
"""


def progress(phase: str, done_bytes: int) -> dict[str, object]:
    return {
        "phase": phase,
        "objects": 3,
        "objects_done": 1,
        "wanted_bytes": 768 * MIB,
        "done_bytes": done_bytes,
    }


def test_a_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    """Mutation: without the columns ``Rate`` and ``TimeRemainingColumn`` there is neither."""
    ours, theirs = os.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "25"}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=env, stdout=subprocess.PIPE, stderr=theirs) as shown:
        os.close(theirs)
        seen = bytearray()
        with suppress(OSError):  # EIO is how a terminal says that everybody has left it
            while data := os.read(ours, 65536):
                seen += data
        os.close(ours)
        assert shown.stdout is not None
        assert shown.stdout.read() == b"result\n"
    text = seen.decode()
    assert shown.returncode == 0, text
    assert "fetching 1/3 files" in text
    assert "MiB/s" in text
    assert re.search(r"00:(0[1-9]|[1-5]\d)", text), "time left"
    assert "\x1b[2K" in text, "and the bar is gone afterwards"


def test_elsewhere_a_line_now_and_then_tells_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(warmbar, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    with warmbar.shown_progress() as tell:
        tell(progress("listing", 0))
        now_s[0] = 9.9
        tell(progress("fetching", 64 * MIB))
        assert capsys.readouterr().err == "", "not yet"
        now_s[0] = 10.0
        tell(progress("fetching", 128 * MIB))
        now_s[0] = 20.0
        tell(progress("comparing", 128 * MIB))
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "tigrismount: fetching: 128 MiB of 768 MiB, 1 of 3 files, 12.8 MiB/s, 50 s left",
        "tigrismount: comparing 3 files",
    ]


def test_the_next_run_has_a_rate_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mutation: 'warm' of two buckets says '-49.6 MiB/s, -15 s left' when it begins with the second."""
    now_s = [0.0]
    monkeypatch.setattr(warmbar, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    with warmbar.shown_progress() as tell:
        for now_s[0], done_bytes in ((10.0, 512 * MIB), (20.0, 128 * MIB)):
            tell(progress("fetching", done_bytes))
    assert capsys.readouterr().err.splitlines()[1].endswith("1 of 3 files, 12.8 MiB/s, 50 s left")


def test_who_wants_no_progress_gets_none(capsys: pytest.CaptureFixture[str]) -> None:
    with warmbar.shown_progress(quiet=True) as tell:
        tell(progress("fetching", MIB))
    assert capsys.readouterr() == ("", "")
