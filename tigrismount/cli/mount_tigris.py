"""``mount.tigris``: what mount(8) runs for the type ``tigris``, in fstab and under systemd's .mount units.

mount(8) looks for ``/sbin/mount.tigris`` and calls it as ``mount.tigris SPEC DIR [-sfnv] [-N NS] [-o OPTIONS]``. The
exit status is mount(8)'s: 0 mounted, 1 incorrect invocation or option, 32 mount failure. It returns once the mount has
answered; the daemon goes on in the background.

Source: mount(8), "EXTERNAL HELPERS" and "EXIT STATUS".
"""

from __future__ import annotations

import getopt
import sys
from collections.abc import Sequence

import click

from tigrismount.cli.failure import BAD_USAGE, INTERRUPTED
from tigrismount.cli.main import main as tigrismount
from tigrismount.cli.main import prepare_streams
from tigrismount.config.merge import is_mount_option

INCORRECT, INTERRUPTED_BY_USER, FAILED = 1, 8, 32
"""Exit statuses of mount(8)."""
SYNOPSIS = "SPEC DIR [-sfnv] [-o OPTIONS]"
EXAMPLES = (
    "mount -t tigris s3://my-bucket/models /models -o profile=store,cache_size=500G",
    "s3://my-bucket/models  /models  tigris  ro,_netdev,nofail,cache_size=500G  0 0",
)
"""On a command line, and as a line of fstab."""
FLAGS = {
    "-o OPTIONS": "Options of 'tigrismount mount' as name=value, with _ or -, separated by commas; those of mount(8) "
    "that mean nothing here (ro, _netdev, nofail, ...) are let through.",
    "-s": "Let unknown options through as well.",
    "-f": "Check everything, and mount nothing.",
    "-n, -v": "Accepted, and change nothing: there is no mtab, and errors are always said.",
}
"""What mount(8) passes on; of this and of the tables beside it the manual page is made."""
EXIT_STATUSES = {
    0: "it is mounted, and has answered",
    INCORRECT: "wrong invocation or option",
    INTERRUPTED_BY_USER: "interrupted",
    FAILED: "it could not be mounted; nothing is left behind",
}
"""Of mount(8), not those of tigrismount(1)."""
_USAGE = f"usage: mount.tigris {SYNOPSIS}, for example: mount -t tigris s3://my-bucket /models"


def main(arguments: Sequence[str]) -> int:
    """Mount as mount(8) asks; return the exit status.

    Args:
        arguments: Without the program's name.
    """
    try:
        given, places = getopt.gnu_getopt(list(arguments), "sfnvhN:t:o:", ["help"])
    except getopt.GetoptError as exc:
        click.echo(f"mount.tigris: {exc.msg}; {_USAGE}", err=True)
        return INCORRECT
    flags = [flag for flag, _ in given]
    if "-h" in flags or "--help" in flags:
        click.echo(_help_text())
        return 0
    if len(places) != 2:
        click.echo(f"mount.tigris: {_USAGE}", err=True)
        return INCORRECT
    options = [option for flag, value in given if flag == "-o" for option in value.split(",") if option]
    # mount(8) says it by itself wherever nobody has said "ro".
    options = [option for option in options if option != "rw"]
    if "-s" in flags:  # sloppy: options of another system's fstab are let through
        options = [option for option in options if is_mount_option(option)]
    command = ["mount", *places, *(["-o", ",".join(options)] if options else [])]
    if "-f" in flags:  # mount(8)'s "fake": all but the mount
        command.append("--print-request")
    return _as_mount_status(_run(command, quiet="-f" in flags))


def _help_text() -> str:
    lines = [_USAGE, "", "Mounts SPEC (s3://bucket/prefix) on DIR, for mount(8), fstab and .mount units.", ""]
    lines += [f"  {flag:<12}{text}" for flag, text in FLAGS.items()]
    lines += ["", *(f"Example: {example}" for example in EXAMPLES), "", "Exit status:"]
    return "\n".join([*lines, *(f"  {status:<4}{text}" for status, text in EXIT_STATUSES.items())])


def _run(command: list[str], *, quiet: bool) -> int:
    if not quiet:
        return tigrismount(command)
    with click.open_file("/dev/null", "w") as null:
        shown, sys.stdout = sys.stdout, null
        try:
            return tigrismount(command)
        finally:
            sys.stdout = shown


def _as_mount_status(status: int) -> int:
    return {0: 0, BAD_USAGE: INCORRECT, INTERRUPTED: INTERRUPTED_BY_USER}.get(status, FAILED)


def run() -> None:
    """Run for the process's own command line and exit; ``entry`` is where the executable begins."""
    prepare_streams()
    sys.exit(main(sys.argv[1:]))
