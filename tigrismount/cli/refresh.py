"""``tigrismount refresh``: forget what is known of a path, so that a change in the bucket is seen at once."""

from __future__ import annotations

import json
import os

import click

from tigrismount.cli.completing import places
from tigrismount.cli.failure import NOT_FOUND, CommandFailure
from tigrismount.cli.place import locate
from tigrismount.control.client import StaleSocketError, request
from tigrismount.control.paths import find_socket
from tigrismount.holder.mountinfo import read_mounts
from tigrismount.objects.credentials import find_credentials, home_directory, read_text_file
from tigrismount.objects.options import S3Config

_VARIABLES = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_ANSWER_TIMEOUT_S = 30.0  # the kernel waits for look-ups in progress, and those for the store


@click.command(epilog="Example: tigrismount refresh /models/llama")
@click.argument("path", shell_complete=places)
@click.option(
    "--credentials", is_flag=True, help="Give the mount the access key that is found here, instead of its own."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
def refresh(path: str, credentials: bool, as_json: bool) -> int:
    """Forget what is known of PATH and all below it, so that the next look asks the store.

    Files that are open keep their version. With --credentials the mount also signs with the key that a mount made
    here and now would use, which it cannot find by itself where it came from the environment.
    """
    mountpoint, below = locate(path, read_mounts())
    socket = find_socket(os.environ, uid=os.geteuid(), mountpoint=mountpoint)
    try:
        if credentials:
            _hand_in_key(socket)
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


def _hand_in_key(socket: str) -> None:
    """Send the mount's daemon the key that its configuration finds in this environment.

    Raises:
        ConfigError: There is none, or half of one.
        CommandFailure: It is none that can be sent.
    """
    settings = request(socket, "status", timeout_s=_ANSWER_TIMEOUT_S)["config"]
    config = S3Config(endpoint_url=settings["endpoint_url"]["value"], profile=settings["profile"]["value"])
    found = find_credentials(config, os.environ, home_directory(), read_text_file)
    if found is None or not found.access_key_id:
        raise CommandFailure(f"no access key is found here that could be sent: set {_VARIABLES}")
    key = {"access_key_id": found.access_key_id, "secret_access_key": found.secret_access_key}
    request(socket, "credentials", timeout_s=_ANSWER_TIMEOUT_S, session_token=found.session_token, **key)
