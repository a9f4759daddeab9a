from __future__ import annotations

from tigrismount.cli.table import print_table


def test_columns_are_aligned_where_there_is_no_terminal(capsys):
    print_table(("NAME", "SIZE"), [["a", "1 GiB"], ["longer", ""]], title="objects")
    assert capsys.readouterr().out == "objects\nNAME    SIZE\na       1 GiB\nlonger\n"


def test_control_characters_of_a_key_cannot_reach_the_terminal(capsys):
    print_table(("KEY",), [["a\x1b[31m\nb"]])
    assert capsys.readouterr().out == "KEY\na\\x1b[31m\\x0ab\n"


def test_a_terminal_gets_a_drawn_table(monkeypatch, capsys):
    """Brackets in a key are no markup."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    print_table(("KEY",), [["[red]a"]])
    out = capsys.readouterr().out
    assert "[red]a" in out
    assert "─" in out
    assert "\x1b[31m" not in out
