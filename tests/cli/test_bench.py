from __future__ import annotations


def test_a_directory_in_which_nothing_can_be_made_is_one_line(fails):
    """As /var/tmp in a read-only container. Mutation: --demo says that it is an internal error, to be reported."""
    line = "/nowhere/at/all: cannot be used: No such file or directory; choose another with --directory"
    assert fails("bench", "--demo", "--directory=/nowhere/at/all") == (1, line)
