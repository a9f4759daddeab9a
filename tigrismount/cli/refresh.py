"""``tigrismount refresh``: forget what is known of a path, so that a change in the bucket is seen at once."""

from __future__ import annotations

import json
import os

import click

from tigrismount.cli.failure import NOT_FOUND, CommandFailure
from tigrismount.cli.place import locate
from tigrismount.control.client import StaleSocketError, request
from tigrismount.control.paths import find_socket
from tigrismount.holder.mountinfo import read_mounts

_ANSWER_TIMEOUT_S = 30.0  # the kernel waits for look-ups in progress, and those for the store


@click.command(epilog="Example: tigrismount refresh /models/llama")
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
def refresh(path: str, as_json: bool) -> int:
    """Forget what is known of PATH and all below it, so that the next look asks the store.

    Files that are open keep their version.
    """
    mountpoint, below = locate(path, read_mounts())
    socket = find_socket(os.environ, uid=os.geteuid(), mountpoint=mountpoint)
    try:
        reply = request(socket, "refresh", timeout_s=_ANSWER_TIMEOUT_S, below=below)
    except StaleSocketError as exc:
        raise CommandFailure(f"{mountpoint}: its daemon is gone, or another user's", NOT_FOUND) from exc
    names, complete = reply.get("names", 0), bool(reply.get("complete", True))
    if as_json:
        click.echo(json.dumps({"mountpoint": mountpoint, "path": below, "names": names, "complete": complete}))
    else:
        later = "" if complete else ", some of them only when the look-ups in progress are answered"
        click.echo(f"{os.path.join(mountpoint, below).rstrip('/')}: names asked for again: {names}{later}")
    return 0
