"""What is published on this node: the driver's only state, in one file.

The kernel knows what is mounted where, but not for which volume, with which options, and for which key. That is kept
here, so that a driver that was restarted answers as the one before it would have. The file is replaced as a whole
(written beside, synced, renamed), is readable by root alone, and holds no secret, only fingerprints of them
(``credentials``). One that makes no sense is set aside: what is then mounted and unknown is taken down by whoever
starts, and Kubernetes publishes anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import threading
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tigrismount.csi import credentials
from tigrismount.csi.mounts import MountSpec
from tigrismount.csi.refusal import Code, RefusalError
from tigrismount.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

_VERSION = 1
_SALT_BYTES = 32
_ID_DIGITS = 24  # 96 bits of a hash: unique on any node, and short enough for a log line


@dataclass(frozen=True, slots=True)
class Record:
    """One mount, and the volume's targets that show it."""

    mount_id: str
    """Its name among the mounts."""
    volume_id: str
    """As Kubernetes calls it."""
    source: str
    """What is mounted."""
    options: Mapping[str, str]
    """With which options of the volume's own."""
    secret: str
    """Fingerprint of the key in use; empty for the driver's own."""
    targets: tuple[str, ...] = field(default=())
    """Where it is bound, canonical paths."""

    @property
    def spec(self) -> MountSpec:
        """What is mounted, as the mounts take it."""
        return MountSpec(self.source, self.options)


class Ledger:
    """The records, in memory and in a file; safe to use from several threads.

    Args:
        path: The file; its directory exists.

    Raises:
        MountError: The file is there and cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._salt = secrets.token_bytes(_SALT_BYTES)
        self._records: dict[str, Record] = {}
        self._load()

    def records(self) -> list[Record]:
        """Return all records as they are now."""
        with self._lock:
            return list(self._records.values())

    def at(self, target: str) -> Record | None:
        """Return the record of what is published at *target*."""
        return next((record for record in self.records() if target in record.targets), None)

    def of(self, volume_id: str) -> list[Record]:
        """Return the records of a volume."""
        return [record for record in self.records() if record.volume_id == volume_id]

    def same(self, volume_id: str, spec: MountSpec, secret: str) -> Record | None:
        """Return the mount that a further target of the same volume, options and key may share."""
        found = (record for record in self.of(volume_id) if record.spec == spec and record.secret == secret)
        return next(found, None)

    def new(self, volume_id: str, spec: MountSpec, secret: str) -> Record:
        """Return a record that is not kept yet, with an id that no other has."""
        parts = [volume_id, spec.source, sorted(spec.options.items()), secret]
        with self._lock:
            # The key of a mount can be replaced, so its id may be that of another key's by now.
            for number in range(len(self._records) + 1):
                digest = hashlib.sha256(json.dumps([*parts, number]).encode()).hexdigest()[:_ID_DIGITS]
                if digest not in self._records:
                    break
        return Record(digest, volume_id, spec.source, dict(spec.options), secret)

    def put(self, record: Record) -> None:
        """Keep *record*, in place of the one with its id.

        Raises:
            RefusalError: The file cannot be written; nothing has changed.
        """
        with self._lock:
            self._replace({**self._records, record.mount_id: record})

    def remove(self, mount_id: str) -> None:
        """Forget a record.

        Raises:
            RefusalError: The file cannot be written; nothing has changed.
        """
        with self._lock:
            self._replace({known: record for known, record in self._records.items() if known != mount_id})

    def fingerprint(self, keys: Mapping[str, str]) -> str:
        """Return what *keys* are compared by on this node."""
        return credentials.fingerprint(keys, self._salt)

    def _replace(self, records: dict[str, Record]) -> None:
        state = {"version": _VERSION, "salt": self._salt.hex(), "mounts": list(map(asdict, records.values()))}
        try:
            _write(self._path, json.dumps(state, indent=1).encode())
        except OSError as exc:
            raise RefusalError(Code.INTERNAL, f"{self._path}: cannot be written: {exc.strerror}") from exc
        self._records = records

    def _load(self) -> None:
        try:
            self._parse(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return
        except OSError as exc:  # such as no descriptor left: that says nothing of what is in it
            raise MountError(f"{self._path}: cannot be read: {exc.strerror}; all volumes stay as they are") from exc
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            aside = self._path.with_suffix(".unreadable")
            with contextlib.suppress(OSError):
                self._path.rename(aside)
            log.warning("%s: cannot be read and is set aside as %s: %s", self._path, aside, exc)

    def _parse(self, state: Any) -> None:
        if state["version"] != _VERSION:
            raise ValueError(f"it has version {state['version']!r}, and this driver knows {_VERSION}")
        records = list(map(_record, state["mounts"]))
        self._salt = bytes.fromhex(state["salt"])
        self._records = {record.mount_id: record for record in records}


def _record(values: dict[str, Any]) -> Record:
    """Return the record of *values*; members that a later driver has added are left out, so that one may go back."""
    known = {name: values[name] for name in ("mount_id", "volume_id", "source", "options", "secret")}
    return Record(**known, targets=tuple(values["targets"]))


def with_target(record: Record, target: str) -> Record:
    """Return *record* with one target more."""
    return replace(record, targets=(*(known for known in record.targets if known != target), target))


def without_target(record: Record, target: str) -> Record:
    """Return *record* with one target less."""
    return replace(record, targets=tuple(known for known in record.targets if known != target))


def _write(path: Path, data: bytes) -> None:
    """Replace *path* by a file with *data*, so that after a crash there is the old one or the new one."""
    beside = path.with_suffix(".new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
