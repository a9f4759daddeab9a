"""``tigrismount demo``: the main job on this machine alone."""

from __future__ import annotations

import sys

import click

from tigrismount.cli.completing import values
from tigrismount.cli.failure import CommandFailure
from tigrismount.config.units import parse_size_bytes

_EXTRA = ("flask", "flask_cors", "moto", "numpy", "werkzeug")
"""What the ``demo`` extra brings."""


@click.command(epilog="Example: tigrismount demo --size 2GiB")
@click.option("--keep", is_flag=True, help="Leave the model, the cache and the logs for a look.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("--size", default="1GiB", show_default=True, metavar="SIZE", help="Size of the generated model.")
@click.option("--directory", metavar="DIR", shell_complete=values, help="Where to work. [/var/tmp]")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
def demo(keep: bool, as_json: bool, size: str, directory: str | None) -> int:
    """Mount an embedded S3 server and load a generated model through it.

    Loads every tensor cold, from the page cache, from the disk cache and after a remount, compares each with what was
    generated, and prints what it took. Needs no cloud account.
    """
    try:
        size_bytes = parse_size_bytes(size)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--size") from exc
    try:
        from tigrismount.demo.run import DEFAULT_DIRECTORY, run_demo

        return run_demo(keep=keep, as_json=as_json, size_bytes=size_bytes, directory=directory or DEFAULT_DIRECTORY)
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise CommandFailure(f"the demo needs {exc.name}: {sys.executable} -m pip install 'tigrismount[demo]'") from exc
