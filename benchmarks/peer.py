"""Other mounts of the same bucket: what a plug-in says of one, and what is common to mounting them all.

A plug-in is a file in ``benchmarks/peers`` with a ``PEER``. It says which executable to look for, and how that mounts
a prefix read-only, tuned for this job as its manual says, with a disk cache where it has one. All of them stay in the
foreground, so that their process can be ended. A peer that is not installed is absent, in one line; one that does not
mount is reported with its last words and not tried again.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.mounts import is_mounted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

START_TIMEOUT_S = 20.0
STREAMS = 32
"""Ranges in flight, as many as ours has GETs; more made none of them faster here."""
ACCESS_KEY, SECRET_KEY = "bench", "bench-secret"
"""No store here checks them."""


class PeerFailedError(Exception):
    """A peer is installed and did not mount; the message has its last words."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a peer is to mount, and where."""

    endpoint_url: str
    """The store."""
    bucket: str
    """Bucket name."""
    prefix: str
    """Directory in the bucket, without slash at the end."""
    mountpoint: Path
    """Empty directory."""
    cache: Path
    """Directory for its cache; made by the peer, removed afterwards."""


class Peer:
    """One other mount, as a plug-in describes it; only ``name`` and ``command`` must be said.

    Attributes:
        name: As on the command line and in tables.
        executables: What it may be called, the first that is found is used.
        variants: Ways to tune it, where it is not known which is best; the fastest counts.
    """

    name: str
    executables: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("",)

    def executable(self) -> str | None:
        """Return its executable, None without one; ``RCLONE=/path`` in the environment names another for rclone."""
        named = os.environ.get(self.name.upper().replace("-", "_"))
        candidates = [named] if named else list(self.executables or (self.name,))
        return next((found for name in candidates if (found := shutil.which(name))), None)

    def version(self, executable: str) -> str:
        """Return the first line of what ``--version`` says."""
        finished = subprocess.run([executable, "--version"], check=False, capture_output=True, text=True)
        lines = (finished.stdout or finished.stderr).split("\n")
        return lines[0].strip() or "unknown version"

    def prepare(self, executable: str, place: Place) -> None:
        """Do what must be done once before it can mount.

        Raises:
            PeerFailedError: It cannot be done here.
        """

    def command(self, executable: str, place: Place, variant: str) -> list[str]:
        """Return the command that mounts and stays in the foreground."""
        raise NotImplementedError

    def environment(self, place: Place) -> Mapping[str, str]:
        """Return the variables that the command needs beside ours."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1"}

    def directory(self, place: Place) -> Path:
        """Return where the prefix is once it is mounted."""
        return place.mountpoint

    def clean_up(self, place: Place) -> None:
        """Remove what it leaves behind once it is unmounted."""
        shutil.rmtree(place.cache, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Installed:
    """A peer that is here."""

    peer: Peer
    """What to do with it."""
    executable: str
    """Its executable."""

    def label(self, variant: str) -> str:
        """Return what a variant is called in tables."""
        return f"{self.peer.name}, {variant}" if variant else self.peer.name


def known_peers() -> dict[str, Peer]:
    """Return the peers that there is a plug-in for, by name."""
    package = importlib.import_module("benchmarks.peers")
    modules = [
        importlib.import_module(f"benchmarks.peers.{found.name}") for found in pkgutil.iter_modules(package.__path__)
    ]
    return {module.PEER.name: module.PEER for module in modules}


def installed_peers(named: Mapping[str, str]) -> tuple[list[Installed], list[str]]:
    """Return the peers that are here, and the names of those that are not.

    Args:
        named: Executables by name of a peer, from the command line.

    Raises:
        KeyError: There is no plug-in of such a name.
    """
    known = known_peers()
    unknown = [name for name in named if name not in known]
    if unknown:
        raise KeyError(f"no such peer: {', '.join(unknown)}; there are {', '.join(known)}")
    found = {name: shutil.which(named[name]) if name in named else peer.executable() for name, peer in known.items()}
    here = [Installed(known[name], executable) for name, executable in found.items() if executable]
    return here, [name for name, executable in found.items() if not executable]


@contextlib.contextmanager
def mounted_peer(installed: Installed, place: Place, variant: str) -> Iterator[Path]:
    """Mount with a peer and an empty cache, and yield where the prefix is.

    Raises:
        PeerFailedError: It does not mount.
    """
    peer = installed.peer
    peer.clean_up(place)
    place.mountpoint.mkdir(exist_ok=True)
    peer.prepare(installed.executable, place)
    log = place.mountpoint.with_suffix(".log")
    environment = {**os.environ, **peer.environment(place)}
    with log.open("wb") as output:
        command = peer.command(installed.executable, place, variant)
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        _wait_until_mounted(process, place.mountpoint, log, peer.name)
        yield peer.directory(place)
    finally:
        _unmount(place.mountpoint)
        process.terminate()
        process.wait()
        peer.clean_up(place)


def _wait_until_mounted(process: subprocess.Popen[bytes], mountpoint: Path, log: Path, name: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if is_mounted(mountpoint):
            return
        time.sleep(0.05)
    said = " ".join(log.read_text(errors="replace").split())[-300:]
    raise PeerFailedError(f"{name} does not mount: {said or 'it says nothing'}")


def _unmount(mountpoint: Path) -> None:
    for unmount in (["fusermount3", "-u"], ["umount", "-l"]):
        if is_mounted(mountpoint):
            subprocess.run([*unmount, str(mountpoint)], check=False, capture_output=True)
