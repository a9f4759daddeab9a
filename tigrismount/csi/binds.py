"""The directory in a pod: a bind mount of the volume's mount at the target that the kubelet names.

What is mounted in a directory that the kubelet shares is itself shared, and binds of it would be *peers*: a mount on
top of one would appear on all of them, and its end at one target would be its end at every other. So a mount leaves its
group before it is bound; each target then has a group of its own, with its copies in the host and in the pod alone.

What is bound where is asked of the kernel's list of mounts alone; a path on which something is mounted is never
touched by the driver itself, as it may not answer. A target that shows a mount that has died gets the new one on top:
at no time does a pod see the empty directory below. All layers go when the target is unpublished.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING, Protocol

from tigrismount.csi.look import Looker, Seen
from tigrismount.csi.refusal import Code, RefusalError
from tigrismount.errors import MountError
from tigrismount.holder.mountinfo import mount_at
from tigrismount.holder.mounting import unmount

if TYPE_CHECKING:
    from pathlib import Path

_MS_BIND, _MS_PRIVATE = 1 << 12, 1 << 18
_TARGET_MODE = 0o750  # as the kubelet makes its own directories
_MOST_LAYERS = 64  # each heals a dead one; more is no accident


class Binds(Protocol):
    """Shows mounts at targets."""

    def bind(self, at: Path, target: str) -> None:
        """Show what is mounted at *at* also at *target*, which is made where it does not exist.

        Raises:
            RefusalError: It cannot be shown there; nothing is left that was not there before.
        """
        ...

    def unbind(self, target: str) -> None:
        """Take down all that is ours at *target*, and remove the directory. Idempotent.

        Raises:
            RefusalError: Something is left.
        """
        ...

    def is_bound(self, at: Path, target: str) -> bool:
        """Tell whether *target* shows what is mounted at *at* now."""
        ...

    def has_mount(self, target: str) -> bool:
        """Tell whether a mount of ours, dead or alive, is at *target*."""
        ...

    def look(self, target: str, timeout_s: float) -> Seen:
        """Return what a look through *target* sees, after *timeout_s* at the latest."""
        ...


class KernelBinds:
    """Real bind mounts, for root."""

    def __init__(self) -> None:
        self._looker = Looker()

    def bind(self, at: Path, target: str) -> None:
        """As the protocol says."""
        entry = mount_at(target)
        if entry is not None and not entry.is_ours:
            raise RefusalError(Code.FAILED_PRECONDITION, f"{target}: a filesystem of type {entry.type} is there")
        _mount(None, str(at), _MS_PRIVATE)
        made = entry is None and _make_directory(target)
        try:
            _mount(str(at), target, _MS_BIND)
        except RefusalError:
            if made:
                with contextlib.suppress(OSError):
                    os.rmdir(target)
            raise

    def unbind(self, target: str) -> None:
        """As the protocol says."""
        for _ in range(_MOST_LAYERS):
            entry = mount_at(target)
            if entry is None:
                break
            if not entry.is_ours:
                raise RefusalError(Code.INTERNAL, f"{target}: a filesystem of type {entry.type} is there; unmount it")
            try:
                unmount(target, lazy=True)  # a pod that is gone may have left a process; it keeps what it has open
            except MountError as exc:
                raise RefusalError(Code.INTERNAL, str(exc)) from exc
        try:
            os.rmdir(target)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            # What somebody wrote there while nothing was mounted must neither be hidden nor be deleted.
            remedy = "; look what is in it, and remove it by hand"
            raise RefusalError(Code.FAILED_PRECONDITION, f"{target}: {exc.strerror}{remedy}") from exc

    def is_bound(self, at: Path, target: str) -> bool:
        """As the protocol says."""
        shown, mounted = mount_at(target), mount_at(str(at))
        return shown is not None and mounted is not None and shown.is_ours and shown.device == mounted.device

    def has_mount(self, target: str) -> bool:
        """As the protocol says."""
        entry = mount_at(target)
        return entry is not None and entry.is_ours

    def look(self, target: str, timeout_s: float) -> Seen:
        """As the protocol says."""
        return self._looker.look(target, timeout_s)


def canonical(path: str) -> str:
    """Return *path* as the kernel lists it: its parents without symbolic links, itself untouched."""
    parent, name = os.path.split(os.path.normpath(f"/{path.lstrip('/')}"))  # two slashes would stay two
    return os.path.join(os.path.realpath(parent), name)


def _mount(source: str | None, target: str, flags: int) -> None:
    """Call mount(2) for what needs neither a type nor data."""
    from_ = None if source is None else os.fsencode(source)
    if ctypes.CDLL(None, use_errno=True).mount(from_, os.fsencode(target), None, flags, None):
        code = ctypes.get_errno()
        raise RefusalError(Code.INTERNAL, f"{target}: mount(2) failed: {os.strerror(code)}")


def _make_directory(target: str) -> bool:
    """Make *target* fit to be mounted on; return whether it was made here."""
    try:
        os.makedirs(os.path.dirname(target), _TARGET_MODE, exist_ok=True)
        os.mkdir(target, _TARGET_MODE)
    except FileExistsError as exc:
        if os.path.islink(target) or not os.path.isdir(target):
            raise RefusalError(Code.FAILED_PRECONDITION, f"{target}: is not a directory; remove it") from exc
        return False
    except OSError as exc:
        raise RefusalError(Code.INTERNAL, f"{target}: cannot be made: {exc.strerror}") from exc
    return True
