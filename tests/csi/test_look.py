"""Looking through a mount from a child."""

from __future__ import annotations

import os
import subprocess
import sys

from tigrismount.csi import look
from tigrismount.csi.look import Looker

_STUCK = "import time\ntime.sleep(600)"


def test_figures_are_those_of_statvfs(tmp_path):
    expected = os.statvfs(tmp_path)

    seen = Looker().look(str(tmp_path), 30)

    assert seen.fault == ""
    assert seen.space.total == expected.f_blocks * expected.f_frsize
    assert 0 < seen.space.used < seen.space.total
    assert seen.files.total == expected.f_files


def test_an_error_is_told_by_name(tmp_path):
    assert Looker().look(str(tmp_path / "none"), 30).fault == "No such file or directory (ENOENT)"


def test_who_does_not_answer_is_left_behind(monkeypatch):
    monkeypatch.setattr(look, "_PROGRAM", _STUCK)
    looker = Looker()

    assert looker.look("/", 0.1).fault == "no answer within 0.1 s"
    assert looker._stuck == [], "a kill has ended it"


def test_a_child_that_no_kill_ends_is_reaped_later():
    looker = Looker()
    child = subprocess.Popen([sys.executable, "-c", ""])
    looker._stuck.append(child)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    looker.look("/", 30)

    assert looker._stuck == []


def test_a_child_that_crashes_is_a_fault(monkeypatch):
    monkeypatch.setattr(look, "_PROGRAM", "raise SystemExit(1)")

    assert Looker().look("/", 30).fault == "the process that looked ended before it had an answer"


def test_the_child_has_none_of_our_environment(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    monkeypatch.setattr(look, "_PROGRAM", "import os\nprint([len([n for n in os.environ if n.startswith('AWS')]) + 2])")

    assert Looker().look("/", 30).fault == "No such file or directory (ENOENT)"
