"""The cache directory itself: made, claimed, its layout checked, and what cannot be used set aside.

::

    VERSION        "tigrismount-cache 2": the layout and the schema of the index
    lock           held while a daemon opens the cache, so that two of them agree on what they find
    users          locked by whoever uses the directory, see ``tenancy``
    beside-1/ …    cache directories in their own right, for daemons of other pid namespaces at the same time
    index/         the LMDB environment
    objects/       ab/abcd…: one sparse file per object version
    set-aside-…/   set aside: of a release that this one does not know, or damaged; removed in the background

A directory that is not ours is refused, with the reason: it holds somebody's files. One that *was* ours but cannot be
read any more is set aside and started anew: it is only a cache. Index and data files go together, because bytes that
nothing vouches for are of no use.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tigrismount.cache.index import CacheIndex
from tigrismount.cache.probe import index_damage
from tigrismount.cache.records import READABLE_SCHEMAS, SCHEMA
from tigrismount.cache.tenancy import enter, pid_namespace
from tigrismount.errors import CacheCorruptError, CacheError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tigrismount.cache.tenancy import Tenancy

_VERSION_LABEL = "tigrismount-cache "
_VERSION_TEXT = f"{_VERSION_LABEL}{SCHEMA}\n"
_READABLE_TEXTS = tuple(f"{_VERSION_LABEL}{schema}\n" for schema in READABLE_SCHEMAS)
_ASIDE_PREFIX = "set-aside-"
_BESIDE_PREFIX = "beside-"
_NAMESPACES_MAX = 16
"""Pid namespaces that use one directory at a time; each has a cache of its own in it, of the configured size."""
_OURS = {"VERSION", "VERSION.new", "lock", "users", "index", "objects"}
_IGNORED = {"lost+found"}
"""What a directory may hold besides and still count as empty: the root of a fresh ext4."""
BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"
"""Other after each boot (random(4))."""
_LOCK_TIMEOUT_S = 30.0
"""Longer than any start: setting aside is a rename, and checking an index has a limit of its own."""
_TROUBLE = frozenset(
    {
        *(errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EUCLEAN, errno.ENODEV, errno.ENXIO, errno.ESTALE),
        *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    }
)
"""What a disk that fails, is full or away says, or a machine that is short of something: nothing is wrong with the
directory that was chosen."""

_log = logging.getLogger(__name__)


class CacheDirectory:
    """Paths inside a cache directory.

    Args:
        path: The directory.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        """The directory itself."""
        self.version_path = os.path.join(path, "VERSION")
        """File that says what layout this is."""
        self.index_path = os.path.join(path, "index")
        """Directory of the LMDB environment."""
        self.objects_path = os.path.join(path, "objects")
        """Directory of the data files."""
        self.lock_path = os.path.join(path, "lock")
        """File that is locked while somebody opens the cache."""
        self.tenancy: Tenancy | None = None
        """This process's use of it, while it has its index open for writing."""
        self.opened: tuple[int, int] | None = None
        """What ``identity`` said when that was opened."""

    def check_same(self) -> None:
        """Check that the index is still the file it was: somebody may remove the cache of a running daemon.

        A data file that was opened before is one of ours, then: another cache's is made after its index.

        Raises:
            CacheError: It is gone, or another one.
        """
        if self.opened is None:
            return
        try:
            same = self.identity() == self.opened
        except FileNotFoundError:
            same = False
        if not same:
            raise CacheError(f"the cache in {self.path} was removed while in use; mount again to have one")

    def identity(self) -> tuple[int, int]:
        """Return device and inode of the index.

        Raises:
            OSError: It is not there, or cannot be looked at.
        """
        status = os.stat(os.path.join(self.index_path, "data.mdb"))
        return status.st_dev, status.st_ino

    def make_objects(self) -> None:
        """Make the directory of the data files again where it was removed; not without the index beside it.

        Raises:
            OSError: The cache as a whole is gone, or cannot be written.
        """
        self.identity()  # a tree without index and VERSION would be somebody else's to the next mount
        os.makedirs(self.objects_path, mode=0o700, exist_ok=True)

    def leave(self) -> None:
        """Use the directory no longer; its index is closed. Idempotent."""
        if self.tenancy is not None:
            self.tenancy.leave()

    def object_path(self, digest: bytes) -> str:
        """Return the path of a version's data file."""
        name = digest.hex()
        return os.path.join(self.objects_path, name[:2], name)

    def version_text(self) -> str:
        """Return what VERSION says, empty when there is none.

        Raises:
            OSError: It cannot be read.
        """
        try:
            with open(self.version_path, encoding="ascii", errors="replace") as file:
                return file.read(80)
        except FileNotFoundError:
            return ""

    def check_version(self) -> None:
        """Check that this release can read the layout.

        Raises:
            CacheError: There is no cache here, or one of another release.
            OSError: It cannot be read.
        """
        text = self.version_text()
        if not text:
            raise CacheError(f"{self.path} is not a tigrismount cache: it has no VERSION")
        if text not in _READABLE_TEXTS:
            raise CacheError(f"the cache in {self.path} is of another release: {text.strip()!r}")


def open_cache_directory(path: str) -> tuple[CacheDirectory, CacheIndex]:
    """Make *path* a cache directory if it is none, and open its index. Blocks.

    Args:
        path: The directory; missing parents are made.

    Raises:
        ConfigError: It cannot be made or written, or is not ours to use.
        CacheError: Its index is in use or cannot be opened for another reason, or its disk fails or is full.
    """
    namespace = pid_namespace(kernel_boot_id())
    besides = [os.path.join(path, f"{_BESIDE_PREFIX}{number}") for number in range(1, _NAMESPACES_MAX)]
    try:
        for place in (path, *besides):
            opened = _open_unless_others(CacheDirectory(place), namespace)
            if opened is not None:
                return opened
            _log.warning("daemons of another pid namespace use the cache in %s; this one looks beside it", place)
        raise CacheError(f"daemons of {_NAMESPACES_MAX} other pid namespaces use the cache in {path}")
    except OSError as error:
        if error.errno in _TROUBLE:
            raise CacheError(f"the cache in {path} cannot be opened: {error.strerror}") from error
        raise ConfigError(
            f"the cache directory {path} cannot be used: {error.strerror}; choose another one with --cache-dir"
        ) from error


def _open_unless_others(directory: CacheDirectory, namespace: str) -> tuple[CacheDirectory, CacheIndex] | None:
    """Open a directory; None while daemons of another pid namespace use it."""
    _claim(directory)
    with _locked(directory.lock_path):
        directory.tenancy = enter(directory.path, namespace)
        if directory.tenancy is None:
            return None
        try:
            return directory, _open_layout(directory)
        except BaseException:
            directory.leave()
            raise


@contextmanager
def visiting(directory: CacheDirectory) -> Iterator[Tenancy]:
    """Use a directory for a while that exists already, as one of its daemons does.

    Raises:
        CacheError: Daemons of another pid namespace use it.
        OSError: It cannot be locked.
    """
    with _locked(directory.lock_path):
        tenancy = enter(directory.path, pid_namespace(kernel_boot_id()))
    if tenancy is None:
        raise CacheError(
            f"daemons of another pid namespace use the cache in {directory.path}: run this in their container"
        )
    try:
        yield tenancy
    finally:
        tenancy.leave()


def _claim(directory: CacheDirectory) -> None:
    path = directory.path
    try:  # a disk that fails says so here, and must not be taken for one that has no such directory
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise ConfigError(f"the cache directory {path} is not a directory; choose another one with --cache-dir")
    except FileNotFoundError:
        os.makedirs(path, mode=0o700, exist_ok=True)
    status = os.stat(path)
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"the cache directory {path} belongs to uid {status.st_uid}, this process is uid {os.geteuid()}; "
            "choose another one with --cache-dir"
        )
    foreign = _foreign_name(directory)
    if foreign:
        raise ConfigError(
            f"the directory {path} is not empty and not a tigrismount cache (it holds {foreign!r}); "
            "choose another one with --cache-dir"
        )
    if stat.S_IMODE(status.st_mode) != 0o700:
        os.chmod(path, 0o700)


def _foreign_name(directory: CacheDirectory) -> str:
    """Return the name of something that shows the directory to be somebody else's, empty when it is free or ours."""
    if directory.version_text().startswith(_VERSION_LABEL):
        return ""
    names = {name for name in os.listdir(directory.path) if not name.startswith((_ASIDE_PREFIX, _BESIDE_PREFIX))}
    names -= _IGNORED
    # Ours without a readable VERSION still has the lock, and nothing that we did not make.
    return "" if not names or ("lock" in names and names <= _OURS) else min(names - {"lock"}, default="")


@contextmanager
def _locked(path: str) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline_s = time.monotonic() + _LOCK_TIMEOUT_S
        while not _try_lock(fd):
            if time.monotonic() > deadline_s:
                raise CacheError(f"{path} has been held by another process for {_LOCK_TIMEOUT_S:.0f} s")
            time.sleep(0.02)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # A filesystem without locks: two daemons may race here once, and the worst is a cache set aside.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


def _open_layout(directory: CacheDirectory) -> CacheIndex:
    reason = _unusable(directory)
    if reason:
        _set_aside(directory, reason)
    _make_layout(directory)
    try:
        return _open_index(directory)
    except CacheCorruptError as error:
        _set_aside(directory, str(error))
        _make_layout(directory)
        return _open_index(directory)


def _open_index(directory: CacheDirectory) -> CacheIndex:
    index = CacheIndex(directory.index_path)
    try:
        directory.opened = directory.identity()
    except BaseException:
        index.close()
        raise
    return index


def _unusable(directory: CacheDirectory) -> str:
    """Return why what is in the directory cannot be used, empty when it can or there is nothing.

    Raises:
        CacheError: It could not be looked at in time.
    """
    has_data = os.path.exists(os.path.join(directory.index_path, "data.mdb"))
    version_text = directory.version_text()
    if not version_text:
        return "it has no VERSION" if has_data or os.path.exists(directory.objects_path) else ""
    if version_text not in _READABLE_TEXTS:
        return f"it is of another release ({version_text.strip()!r})"
    in_use = directory.tenancy is not None and not directory.tenancy.alone
    return index_damage(directory.index_path, in_use=in_use) if has_data else ""


def _make_layout(directory: CacheDirectory) -> None:
    # VERSION first and, when setting aside, last: whatever is here without it is not ours.
    if directory.version_text() != _VERSION_TEXT:
        new_path = directory.version_path + ".new"
        with open(new_path, "w", encoding="ascii", opener=_private_opener) as file:
            file.write(_VERSION_TEXT)
            file.flush()
            os.fsync(file.fileno())
        os.rename(new_path, directory.version_path)
    for path in (directory.index_path, directory.objects_path):
        os.makedirs(path, mode=0o700, exist_ok=True)


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _set_aside(directory: CacheDirectory, reason: str) -> None:
    aside_path = os.path.join(directory.path, f"{_ASIDE_PREFIX}{time.time_ns():x}")
    os.mkdir(aside_path, 0o700)
    for path in (directory.index_path, directory.objects_path, directory.version_path):
        if os.path.lexists(path):
            os.rename(path, os.path.join(aside_path, os.path.basename(path)))
    _log.warning("the cache in %s starts empty; what was there is set aside and removed: %s", directory.path, reason)


def remove_old_caches(directory: CacheDirectory) -> None:
    """Remove what was set aside, now or before. Blocks for as long as that takes; may be stopped and run again.

    Args:
        directory: The cache directory.
    """
    for name in os.listdir(directory.path):
        if name.startswith(_ASIDE_PREFIX):
            shutil.rmtree(os.path.join(directory.path, name), ignore_errors=True)


def kernel_boot_id(path: str = BOOT_ID_PATH) -> str:
    """Return the kernel's name for this boot of the machine.

    Args:
        path: Where the kernel says it.

    Raises:
        CacheError: A sandbox hides it: then nobody can tell whether what the cache holds was synced.
    """
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError as error:
        raise CacheError(
            f"the disk cache cannot be used: {path}: {error.strerror}; let this process see /proc/sys"
        ) from error
