"""Finds out once what a snapshot means, and keeps it in the configuration."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from tigrismount.objects.s3 import S3Client
from tigrismount.objects.snapshots import resolve_snapshot

if TYPE_CHECKING:
    from tigrismount.objects.credentials import Credentials
    from tigrismount.objects.options import S3Config

log = logging.getLogger(__name__)


async def with_snapshot(config: S3Config, bucket: str, credentials: Credentials | None) -> S3Config:
    """Return *config* with the version that its snapshot means now; where it has one, or no snapshot, as it is.

    Args:
        config: Perhaps with a snapshot that was asked for.
        bucket: The bucket it is of.
        credentials: As for :class:`S3Client`.

    Raises:
        ConfigError: There can be no such snapshot here.
        ObjectError: There is none, or the store could not say.
    """
    if config.snapshot is None or config.snapshot_version is not None:
        return config
    client = await trio.to_thread.run_sync(S3Client, config, credentials)
    try:
        version = await resolve_snapshot(client, bucket, config.snapshot, clock_ns=time.time_ns())
    finally:
        with trio.CancelScope(shield=True):
            await client.aclose()
    log.info("snapshot %s of s3://%s is version %s", config.snapshot, bucket, version)
    return replace(config, snapshot_version=version)
