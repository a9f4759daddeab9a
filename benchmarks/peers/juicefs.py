"""JuiceFS, which keeps files in a layout of its own: the model is copied into a volume before it is mounted.

So it needs a store that takes writes (``--embedded``), and what it reads is its own objects of 4 MiB, not ours.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from benchmarks.peer import ACCESS_KEY, SECRET_KEY, Peer, PeerFailedError, Place

if TYPE_CHECKING:
    from pathlib import Path


class Juicefs(Peer):
    """JuiceFS."""

    name = "juicefs"

    def prepare(self, executable: str, place: Place) -> None:
        """Make a volume in the bucket with SQLite beside the mountpoint, and copy the prefix into it."""
        database = self._database(place)
        if database.exists():
            return
        keys = [f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}"]
        bucket = f"{place.endpoint_url}/{place.bucket}"
        source = f"minio://{ACCESS_KEY}:{SECRET_KEY}@{bucket.partition('://')[2]}/{place.prefix}/"
        steps = [
            [executable, "format", "--storage=minio", f"--bucket={bucket}", *keys, f"sqlite3://{database}", "peer"],
            [executable, "sync", source, f"jfs://META/{place.prefix}/"],
        ]
        for step in steps:
            environment = {"META": f"sqlite3://{database}", "PATH": "/usr/bin:/bin"}
            finished = subprocess.run(step, check=False, capture_output=True, text=True, env=environment)
            if finished.returncode:
                database.unlink(missing_ok=True)
                said = " ".join(finished.stderr.split())[-200:]
                raise PeerFailedError(f"{self.name} cannot copy the model (it needs --embedded): {said}")

    def command(self, executable: str, place: Place, variant: str) -> list[str]:
        """Mount with names that are trusted for an hour and read-ahead of 1 GiB."""
        flags = ["--read-only", f"--cache-dir={place.cache}", "--buffer-size=1024", "--prefetch=3", "--no-usage-report"]
        ttl = ["--attr-cache=3600", "--entry-cache=3600", "--dir-entry-cache=3600", "--open-cache=3600"]
        return [executable, "mount", *flags, *ttl, f"sqlite3://{self._database(place)}", str(place.mountpoint)]

    def directory(self, place: Place) -> Path:
        """Return the prefix within the volume."""
        return place.mountpoint / place.prefix

    def _database(self, place: Place) -> Path:
        return place.mountpoint.with_name(f"juicefs-{place.prefix}.db")


PEER = Juicefs()
