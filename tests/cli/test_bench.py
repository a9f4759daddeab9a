from __future__ import annotations

import sys


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
