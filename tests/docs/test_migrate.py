"""The page about other tools names flags and commands that there are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from tigrismount.cli.main import cli

if TYPE_CHECKING:
    from pathlib import Path

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def ours(root: Path) -> list[str]:
    """Return the right-hand cells of the page's tables."""
    rows = [line for line in (root / "docs/howto/migrate.md").read_text().splitlines() if line.startswith("| ")]
    return [re.split(r"(?<!\\)\|", row)[2] for row in rows]


def flags_of(command: click.Command) -> set[str]:
    context = click.Context(command)
    flags = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            flags |= flags_of(child)
    return flags


def test_what_flags_become_are_flags_of_ours(root: Path) -> None:
    named = {flag for cell in ours(root) for flag in FLAG.findall(cell)}

    assert len(named) > 20
    assert named - flags_of(cli) == set()


def test_every_flag_of_theirs_has_an_answer(root: Path) -> None:
    assert [cell for cell in ours(root) if not cell.strip()] == []
