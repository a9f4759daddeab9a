"""``tigrismount install-systemd``: put the unit files where systemd finds them, and take them away again.

The files come with the package. In what is installed the interpreter is the one that runs this command, so that a unit
and its helper belong to the same installation; a file that somebody else has put there is not touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from tigrismount.cli.completing import values
from tigrismount.cli.failure import CommandFailure, print_warning

_PYTHON = "/usr/bin/python3"
"""Interpreter in the files as they are shipped."""
_MARK = "# Installed by 'tigrismount install-systemd'; '--remove' removes it.\n"
_HELPER = "mount.tigris"
_HELPER_LINK = f"usr/sbin/{_HELPER}"
_FILES = {
    "tigrismount@.service": "etc/systemd/system/tigrismount@.service",
    "user/tigrismount@.service": "etc/systemd/user/tigrismount@.service",
    "tigrismount.sysusers": "etc/sysusers.d/tigrismount.conf",
    "tigrismount.tmpfiles": "etc/tmpfiles.d/tigrismount.conf",
}
_HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108
"""What a unit with ``ProtectHome=`` and ``PrivateTmp=`` cannot see."""


@dataclass(frozen=True, slots=True)
class _Place:
    """One shipped file and where it goes."""

    shipped: Path
    target: Path


@click.command(name="install-systemd", epilog="Example: sudo tigrismount install-systemd")
@click.option("--remove", is_flag=True, help="Remove what was installed; mounts and configuration stay.")
@click.option(
    "--root",
    default="/",
    metavar="DIR",
    shell_complete=values,
    help="Install into this tree and start nothing, as for an image.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
def install_systemd(remove: bool, root: str) -> int:
    """Install the units tigrismount@NAME for the system and for users, their user, and mount.tigris for fstab.

    Afterwards 'systemctl enable --now tigrismount@my-bucket' mounts s3://my-bucket on /mnt/tigris/my-bucket;
    /etc/tigrismount/my-bucket.toml may say otherwise.
    """
    places = [_Place(_shipped() / name, Path(root) / target) for name, target in _FILES.items()]
    link = Path(root) / _HELPER_LINK
    try:
        changed = _remove(places, link) if remove else _install(places, link)
    except PermissionError as exc:
        raise CommandFailure(f"{exc.filename}: {exc.strerror}; run this as root") from exc
    except OSError as exc:
        raise CommandFailure(f"{exc.filename}: {exc.strerror}") from exc
    for path in changed:
        click.echo(f"{'removed' if remove else 'installed'} {path}")
    if os.path.realpath(root) == "/" and os.path.isdir("/run/systemd/system"):
        _tell_systemd(remove=remove)
    return 0


def _shipped() -> Path:
    """Return the directory of the shipped files: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for directory in (package / "systemd", package.parent / "systemd"):
        if (directory / "tigrismount@.service").is_file():
            return directory
    raise CommandFailure("this installation of tigrismount lacks its systemd files; install it again")


def _install(places: list[_Place], link: Path) -> list[Path]:
    for place in places:
        if place.target.exists() and not _is_ours(place.target):
            raise CommandFailure(f"{place.target}: is there already and not ours; move it away first")
    if os.path.lexists(link) and not _leads_to_ours(link):
        raise CommandFailure(f"{link}: is there already and not ours{_target(link)}; move it away first")
    if sys.prefix.startswith(_HIDDEN) or os.path.realpath(sys.executable).startswith(_HIDDEN):
        print_warning(f"{sys.executable}: units cannot see this directory; install tigrismount under /opt or /usr")
    for place in places:
        place.target.parent.mkdir(parents=True, exist_ok=True)
        place.target.write_text(_MARK + place.shipped.read_text().replace(_PYTHON, sys.executable))
        place.target.chmod(0o644)
    return [place.target for place in places] + _make_link(link)


def _make_link(link: Path) -> list[Path]:
    """Let mount(8) find its helper, which must lie in /sbin."""
    helper = shutil.which(_HELPER, path=os.path.dirname(sys.executable)) or shutil.which(_HELPER)
    if helper is None or link.resolve() == Path(helper).resolve():
        return []
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(helper)
    return [link]


def _remove(places: list[_Place], link: Path) -> list[Path]:
    ours = [place.target for place in places if place.target.exists() and _is_ours(place.target)]
    if _leads_to_ours(link):
        ours.append(link)
    for path in ours:
        path.unlink()
    return ours


def _leads_to_ours(link: Path) -> bool:
    """Tell whether *link* leads to the helper of an installation of ours, also of one that has been removed since."""
    if not link.is_symlink() or os.path.basename(os.readlink(link)) != _HELPER:
        return False
    try:
        return b"tigrismount" in link.read_bytes()  # the script that pip makes names the module
    except FileNotFoundError:
        return True


def _target(link: Path) -> str:
    return f" (it leads to {os.readlink(link)})" if link.is_symlink() else ""


def _is_ours(path: Path) -> bool:
    return path.read_text(errors="replace").startswith(_MARK)


def _tell_systemd(*, remove: bool) -> None:
    commands = [["systemctl", "daemon-reload"]]
    if not remove:
        targets = [f"/{target}" for target in _FILES.values()]
        commands = [["systemd-sysusers", targets[2]], ["systemd-tmpfiles", "--create", targets[3]], *commands]
    for command in commands:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise CommandFailure(f"'{' '.join(command)}' failed: {done.stderr.strip()}")
