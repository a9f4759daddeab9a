"""``tigrismount health``: one mount, judged from outside in a bounded time, for probes and scripts.

``statvfs`` is called in a child with a deadline: it is never answered from the kernel's caches, and whoever calls it on
a hung mount hangs.
"""

from __future__ import annotations

import json
import os

import click

from tigrismount.cli.completing import mountpoints
from tigrismount.cli.failure import print_outcome
from tigrismount.config.units import parse_seconds
from tigrismount.control.client import request
from tigrismount.control.paths import find_socket
from tigrismount.errors import ConfigError, MountError
from tigrismount.holder.mountinfo import canonical_mountpoint, mount_at
from tigrismount.holder.probe import Finding, Health, probe

OK, NOT_MOUNTED, DEAD, HUNG, DEGRADED = range(5)
"""Exit statuses, which scripts and Kubernetes' probes rely on."""

_MOST_TIMEOUT_S = 86_400.0
"""Above what anybody waits for an answer."""

_STATES = {OK: "ok", NOT_MOUNTED: "not mounted", DEAD: "dead", HUNG: "not answering", DEGRADED: "degraded"}
_REMEDIES = {
    NOT_MOUNTED: "'tigrismount mount' mounts it",
    DEAD: "its daemon is gone: mount it again, or unmount it",
    HUNG: "its daemon did not answer in time",
}


@click.command(epilog="Example: tigrismount health /models --timeout 3s")
@click.argument("mountpoint", shell_complete=mountpoints)
@click.option("--timeout", default="5s", show_default=True, metavar="TIME", help="How long to wait for an answer.")
@click.option("--degraded-ok", is_flag=True, help="Exit with 0 where it serves, but from its cache alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
def health(mountpoint: str, timeout: str, degraded_ok: bool, as_json: bool) -> int:
    """Tell whether MOUNTPOINT answers.

    Exit status: 0 ok, 1 not mounted, 2 dead (its daemon is gone), 3 hung (no answer in time), 4 degraded (it serves,
    but something is wrong, such as a store that is away), 64 bad usage.
    """
    try:
        timeout_s = parse_seconds(timeout)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--timeout") from exc
    if timeout_s > _MOST_TIMEOUT_S:  # the calls that wait take no more, and would fail as if nothing were mounted
        raise click.BadParameter("expected at most 1d", param_hint="--timeout")
    try:
        path = canonical_mountpoint(mountpoint)
    except ConfigError as exc:  # as an error of any other command it would say that the mount is dead
        raise click.BadParameter(str(exc), param_hint="MOUNTPOINT") from exc
    code, reasons = judge(path, timeout_s)
    if as_json:
        print_outcome(json.dumps({"mountpoint": path, "state": _STATES[code], "exit": code, "reasons": reasons}))
    else:
        print_outcome(": ".join([path, _STATES[code], *(["; ".join(reasons)] if reasons else [])]))
    return OK if code == DEGRADED and degraded_ok else code


def judge(path: str, timeout_s: float) -> tuple[int, list[str]]:
    """Return the exit status for the mount at *path*, and why.

    Args:
        path: Absolute, without symbolic links.
        timeout_s: Seconds to wait for each of two answers.
    """
    entry = mount_at(path)
    if entry is None or not entry.is_ours:
        return NOT_MOUNTED, [f"a mount of another kind ({entry.type}) is there" if entry else _REMEDIES[NOT_MOUNTED]]
    finding = probe(path, timeout_s=timeout_s)
    code = {Health.OK: OK, Health.DEAD: DEAD, Health.HUNG: HUNG, Health.FAILED: DEGRADED}[finding.health]
    if code == OK:
        reasons = _complaints(path, timeout_s)
        return (DEGRADED, reasons) if reasons else (OK, [])
    return code, [_reason(code, finding)]


def _reason(code: int, finding: Finding) -> str:
    return _REMEDIES.get(code, finding.detail)


def _complaints(path: str, timeout_s: float) -> list[str]:
    """Return what the daemon says is wrong; nothing where it may not be asked, as it serves."""
    try:
        status = request(find_socket(os.environ, uid=os.geteuid(), mountpoint=path), "status", timeout_s=timeout_s)
    except MountError:
        return []
    return [str(reason) for reason in status.get("degraded", ())]
