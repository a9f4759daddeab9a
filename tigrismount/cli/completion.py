"""``tigrismount completion``: what a shell must be told so that TAB completes commands, options and mountpoints."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from tigrismount.cli.failure import CommandFailure

VARIABLE = "_TIGRISMOUNT_COMPLETE"
"""Set by the shell when it asks what could be typed."""


@click.command(epilog='Example: eval "$(tigrismount completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Print what makes SHELL complete commands, options and mountpoints.

    For every new shell: add the example's line to ~/.bashrc, or with zsh to ~/.zshrc; with fish write the output to
    ~/.config/fish/completions/tigrismount.fish.
    """
    of_shell = get_completion_class(shell)
    if of_shell is None:
        raise CommandFailure(f"{shell}: this version of click knows no completion for it")
    script = of_shell(ctx.find_root().command, {}, "tigrismount", VARIABLE).source()
    # click's words for fish split at every comma, and would lose the rest of a mountpoint or of a help text with one.
    click.echo(script.replace('string split ","', 'string split -m 1 ","'))
    return 0
