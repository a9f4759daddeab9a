"""Every command line in the documentation is one that the program understands."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import click
import pytest

from tigrismount.cli.main import cli

if TYPE_CHECKING:
    from pathlib import Path

LINE = re.compile(r"^\$ (?:\S*/)?tigrismount (.*)$", re.MULTILINE)
COMMANDS = (*cli.list_commands(click.Context(cli)), "umount")
SPAN = re.compile(r"`(?:\.venv/bin/)?tigrismount ([^`\n]+)`")


def parse(line: str) -> None:
    """Parse a command line as the program would, without running it."""
    arguments = shlex.split(line, comments=True)
    command: click.Command | None = cli
    context = click.Context(cli, info_name="tigrismount", **cli.context_settings)
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name, command, arguments = command.resolve_command(context, arguments)
        assert command is not None
        context = click.Context(command, info_name=name, parent=context)
        context.obj = {"debug": False}
    if not isinstance(command, click.Group):
        command.make_context(context.info_name, arguments, parent=context.parent)


def command_lines(page: Path) -> list[str]:
    text = page.read_text()
    # In running text our name also stands before other words.
    mentions = [span for span in SPAN.findall(text) if span.split()[0] in COMMANDS]
    # What stands in brackets is a synopsis, and an ellipsis stands for something.
    return [line for line in [*LINE.findall(text), *mentions] if "[" not in line and "…" not in line]


def test_commands_in_the_documentation_are_understood(page: Path) -> None:
    misunderstood = []
    for line in command_lines(page):
        try:
            parse(line)
        except click.exceptions.MissingParameter:
            pass  # a mention such as `tigrismount unmount`
        except click.ClickException as exc:
            misunderstood.append(f"{line}: {exc.message}")

    assert misunderstood == []


def test_the_pages_hold_commands_and_a_wrong_one_is_noticed(root: Path) -> None:
    assert any(line.startswith("mount ") for line in command_lines(root / "README.md"))
    with pytest.raises(click.ClickException):
        parse("mount s3://my-bucket /models --no-such-flag")
    with pytest.raises(click.ClickException):
        parse("amount /models")
