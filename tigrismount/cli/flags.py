"""Flags made from the one table of options, for the commands that take some or all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from tigrismount.cli.completing import values
from tigrismount.config.options import BY_KEY, Option

CONNECTION = (
    *("endpoint_url", "region", "profile", "no_sign_request", "addressing", "ca_bundle", "request_timeout"),
    *("max_retries", "requester_pays"),
)
"""Keys of the options that say how to reach the store."""


def flag(option: Option) -> Callable[[Any], Any]:
    """Return the click option for a row of the table; values are checked later, all at once."""
    text = f"{option.help.rstrip('.')}. [{option.default}]"
    if not option.is_switch:
        return click.option(
            f"--{option.name}",
            metavar=option.metavar,
            multiple=option.is_repeatable,
            help=text,
            shell_complete=values,
        )
    names = f"--{option.name}" if option.name.startswith("no-") else f"--{option.name}/--no-{option.name}"
    return click.option(names, is_flag=True, default=None, help=text)


def flags(keys: Iterable[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that gives a command the flags of *keys*, in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for key in reversed(list(keys)):
            command = flag(BY_KEY[key])(command)
        return command

    return decorate
