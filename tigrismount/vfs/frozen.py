"""How a frozen mount begins: which version is meant, who may see it, and what is known of it already.

A mount asks the store what its snapshot means, and proves with the answer that its key is good. Where an earlier mount
of the same version, with the same key, has kept names, that is all: nothing is listed. Where the store is away at that
moment, such a mount can begin all the same, and says so: what is kept and cached is still right. That needs a version
that is known without the store: one that was given, as a version or a time, or one that a snapshot's name came to
before. ``latest`` and ``now`` ask about the present, and only the store knows that.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from tigrismount.errors import ObjectUnavailableError
from tigrismount.objects.s3 import S3Client
from tigrismount.objects.selectors import LATEST, NOW, selected_version
from tigrismount.objects.snapshots import find_version, refuse_caches
from tigrismount.vfs.kept import TABLE, KeptNames, have_kept, keep_mount
from tigrismount.vfs.names import LiveNames

if TYPE_CHECKING:
    from tigrismount.cache.base import RecordStore
    from tigrismount.objects.credentials import Credentials
    from tigrismount.objects.options import S3Config
    from tigrismount.vfs.options import VfsConfig

log = logging.getLogger(__name__)

_PLACE_BYTES = 16
"""Bytes of a place's digest: it stands before every kept name, and collides for nobody."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a frozen mount begins."""

    s3: S3Config
    """The connection, with the version."""
    known: bool
    """Whether names of that version are kept, for the holder of this key."""
    away: str = ""
    """Why the store could not be asked; empty where it was."""


async def begin_frozen(
    config: S3Config, vfs: VfsConfig, credentials: Credentials | None, records: RecordStore
) -> Beginning:
    """Find out what the snapshot means and prove the right to it, with as few requests as that takes.

    Args:
        config: With a snapshot that was asked for.
        vfs: What is mounted.
        credentials: As for :class:`S3Client`.
        records: The cache's records.

    Raises:
        ConfigError: There can be no such snapshot here.
        ObjectError: There is none, the key is refused, or the store is away and too little is known.
    """
    assert config.snapshot is not None
    client = await trio.to_thread.run_sync(S3Client, config, credentials)
    name_key = _place(client, "snapshot", vfs, config.snapshot)
    try:
        remembered = await _remembered(config.snapshot, records, name_key)
        try:
            version = await find_version(client, vfs.bucket, config.snapshot, clock_ns=time.time_ns())
        except ObjectUnavailableError as exc:
            if remembered is None or not await have_kept(records, _place_of_names(client, vfs, remembered)):
                raise
            log.warning("serving snapshot %s as it is cached, as the store cannot be used: %s", remembered, exc)
            return Beginning(replace(config, snapshot_version=remembered), known=True, away=str(exc))
        known = await have_kept(records, _place_of_names(client, vfs, version))
        if not known:
            await refuse_caches(client, vfs.bucket)
        if version != remembered:
            await records.put(TABLE, name_key, version.encode())
    finally:
        with trio.CancelScope(shield=True):
            await client.aclose()
    log.info("snapshot %s of s3://%s is version %s", config.snapshot, vfs.bucket, version)
    return Beginning(replace(config, snapshot_version=version), known)


async def prove_frozen(client: S3Client, vfs: VfsConfig, records: RecordStore, beginning: Beginning) -> None:
    """Prove access to a snapshot unless that was done, and take it down for the next mount.

    Args:
        client: Pinned to the snapshot.
        vfs: What is mounted.
        records: The cache's records.
        beginning: How the mount begins.

    Raises:
        ObjectError: As in :meth:`ObjectClient.check_access`.
    """
    assert beginning.s3.snapshot_version is not None
    if not beginning.known:
        await client.check_access(vfs.bucket, vfs.prefix)
    await keep_mount(records, _place_of_names(client, vfs, beginning.s3.snapshot_version))


def kept_names(client: S3Client, config: S3Config, vfs: VfsConfig, records: RecordStore) -> KeptNames | None:
    """Return the names of a frozen mount; None for any other mount.

    Args:
        client: Pinned to the snapshot.
        config: The connection.
        vfs: What is mounted.
        records: The cache's records.
    """
    if config.snapshot_version is None:
        return None
    generation, place = client.key_generation, _place_of_names(client, vfs, config.snapshot_version)
    return KeptNames(LiveNames(client), records, place, may_keep=lambda: client.key_generation == generation)


def _place_of_names(client: S3Client, vfs: VfsConfig, version: str) -> bytes:
    """Return the place under which the names of a frozen mount are kept.

    Args:
        client: Whose key it is.
        vfs: What is mounted.
        version: The snapshot.
    """
    return _place(client, "names", vfs, version, vfs.prefix)


async def _remembered(selector: str, records: RecordStore, name_key: bytes) -> str | None:
    """Return the version that *selector* means as far as that is known without the store."""
    given = selected_version(selector)
    if given is not None:
        return str(given)
    if selector in (LATEST, NOW):
        return None
    kept = await records.get(TABLE, name_key)
    return kept.decode("ascii", "replace") if kept is not None else None


def _place(client: S3Client, kind: str, vfs: VfsConfig, *what: str) -> bytes:
    # Another endpoint may be a gateway, which a snapshot must not be read through: nothing is known of it here.
    return client.seal(json.dumps([kind, client.endpoint_url, vfs.store_id, vfs.bucket, *what]).encode())[:_PLACE_BYTES]
