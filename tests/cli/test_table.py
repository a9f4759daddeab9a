from __future__ import annotations

import click
import pytest

from tigrismount.cli.table import print_table, print_wrapped

HEADERS = ("STARTED", "MODEL", "NEEDED", "MOSTLY FOR")
ROWS = [["2026-11-21 16:27:03", "s3://my-bucket/models/a-model-with-a-name-that-is-long", "40 MiB", "store"]]


@pytest.fixture
def terminal(monkeypatch):
    """Give standard output the looks of a terminal that is so many columns wide."""

    def make(columns: int) -> None:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")

    return make


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


def test_a_table_that_fits_is_drawn(terminal, capsys):
    terminal(200)
    print_table(HEADERS, ROWS)
    assert "MOSTLY FOR" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [40, 80])
def test_of_a_table_that_does_not_fit_nothing_is_lost_or_broken(terminal, capsys, columns):
    terminal(columns)
    print_table(HEADERS, ROWS, title="loads")
    out = click.unstyle(capsys.readouterr().out)
    title, name, *facts = out.splitlines()
    assert (title, name) == ("loads", ROWS[0][0])
    assert " ".join(" ".join(facts).split()) == f"model {ROWS[0][1]}, needed 40 MiB, mostly for store"
    assert all(len(line) <= columns or ROWS[0][1] in line for line in facts)


def test_a_spare_column_goes_where_there_is_no_room_for_it(terminal, capsys):
    rows = [["a" * 30, "12345", "all"]]
    terminal(40)
    print_table(("TENSOR", "START", "CACHED"), rows, framed=False, spare="START")
    assert "START" not in capsys.readouterr().out
    terminal(80)
    print_table(("TENSOR", "START", "CACHED"), rows, framed=False, spare="START")
    assert "START" in capsys.readouterr().out


def test_prose_is_broken_between_words_on_a_terminal_alone(terminal, capsys):
    text = "note: a sentence that is longer than this terminal"
    print_wrapped(text, indent=6)
    terminal(30)
    print_wrapped(text, indent=6)
    assert capsys.readouterr().out.splitlines() == [
        text,
        "note: a sentence that is",
        "      longer than this",
        "      terminal",
    ]
