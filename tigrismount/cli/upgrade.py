"""``tigrismount upgrade``: replace the programs behind a mount by the ones that are installed now."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import click

from tigrismount.cli.completing import mountpoints
from tigrismount.cli.failure import NOT_FOUND, CommandFailure
from tigrismount.config.units import parse_seconds
from tigrismount.control.client import StaleSocketError, request
from tigrismount.control.paths import find_socket
from tigrismount.errors import MountError
from tigrismount.holder.mountinfo import canonical_mountpoint, mount_at

_ASK_TIMEOUT_S = 3.0  # a healthy daemon answers in milliseconds
_ASK_EVERY_S = 0.1


@click.command(epilog="Example: tigrismount upgrade /models")
@click.argument("mountpoint", shell_complete=mountpoints)
@click.option("--timeout", default="90s", show_default=True, metavar="TIME", help="How long to wait for the successor.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
def upgrade(mountpoint: str, timeout: str, as_json: bool) -> int:
    """Replace the daemon of MOUNTPOINT by the installed version, with the configuration as it is now.

    The successor is started and made ready first; open files stay open and no read fails. Where it cannot start, the
    daemon goes on as it was.
    """
    try:
        timeout_s = parse_seconds(timeout)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--timeout") from exc
    path = canonical_mountpoint(mountpoint)
    entry = mount_at(path)
    if entry is None or not entry.is_ours:
        raise CommandFailure(f"{path}: is not mounted; 'tigrismount status' lists the mounts", NOT_FOUND)
    before = _status(path)
    if before is None:
        raise CommandFailure(
            f"{path}: its daemon is gone, or another user's: only who mounted it, or root, can upgrade it", NOT_FOUND
        )
    _signal(path, before)
    after = _wait(path, before, time.monotonic() + timeout_s)
    versions = f"{before.get('version')} by {after.get('version')}"
    if as_json:
        keys = ("mountpoint", "pid", "supervisor_pid", "version", "takeovers")
        click.echo(json.dumps({key: after.get(key) for key in keys}))
    else:
        click.echo(f"{path}: {after['pid']} has taken over from {before['pid']} (version {versions})")
    return 0


def _status(path: str) -> dict[str, Any] | None:
    """Return what the worker says of itself, None where none can be asked."""
    try:
        return request(find_socket(os.environ, uid=os.geteuid(), mountpoint=path), "status", timeout_s=_ASK_TIMEOUT_S)
    except StaleSocketError:
        return None


def _signal(path: str, status: dict[str, Any]) -> None:
    supervisor = status.get("supervisor_pid")
    gone = CommandFailure(f"{path}: its supervisor is gone; unmount, and mount again, when nobody reads")
    if not isinstance(supervisor, int) or supervisor <= 1:
        raise gone
    try:
        os.kill(supervisor, signal.SIGHUP)
    except ProcessLookupError:
        raise gone from None
    except PermissionError:
        raise CommandFailure(f"{path}: its supervisor is pid {supervisor} of another user; run this as root") from None


def _wait(path: str, before: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    """Wait until another worker answers; return its status.

    Raises:
        CommandFailure: The supervisor has given up, or the deadline passed.
    """
    ignored = before.get("takeovers", {}).get("attempts")
    while time.monotonic() < deadline_s:
        time.sleep(_ASK_EVERY_S)
        try:
            status = _status(path)
        except MountError:
            continue  # between two workers
        if status is None:
            continue
        if status.get("pid") != before.get("pid"):
            return status
        takeovers = status.get("takeovers", {})
        if takeovers.get("attempts") != ignored and takeovers.get("last_failure"):
            raise CommandFailure(f"{path}: not upgraded, the daemon goes on as it was: {takeovers['last_failure']}")
    raise CommandFailure(f"{path}: no successor served in time; the log of the mount says why")
