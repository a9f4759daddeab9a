"""rclone mount: parallel streams from version 1.70 on; an older one is used without them.

Which of its two ways is the faster depends on how a file is read: ``full`` keeps what was read on the disk, ``off``
keeps nothing.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from benchmarks.peer import ACCESS_KEY, SECRET_KEY, STREAMS, Peer, Place

if TYPE_CHECKING:
    from collections.abc import Mapping


class Rclone(Peer):
    """rclone."""

    name = "rclone"
    variants = ("cache full", "cache off")

    def command(self, executable: str, place: Place, variant: str) -> list[str]:
        """Mount with metadata for an hour, large requests of the kernel, and as many streams as ours has GETs."""
        flags = [
            "--s3-provider=Other",
            f"--s3-endpoint={place.endpoint_url}",
            f"--s3-access-key-id={ACCESS_KEY}",
            f"--s3-secret-access-key={SECRET_KEY}",
            "--s3-force-path-style",
            "--read-only",
            "--no-modtime",
            "--dir-cache-time=1h",
            "--max-read-ahead=4M",
            f"--cache-dir={place.cache}",
            f"--vfs-cache-mode={variant.removeprefix('cache ')}",
            "--vfs-read-chunk-size=8M",
            "--buffer-size=64M",
        ]
        if has_streams(executable):
            flags += [f"--vfs-read-chunk-streams={STREAMS}", "--vfs-read-chunk-size-limit=0"]
        return [executable, "mount", f":s3:{place.bucket}/{place.prefix}", str(place.mountpoint), *flags]

    def environment(self, place: Place) -> Mapping[str, str]:
        """Keep away from the user's configuration."""
        return {"RCLONE_CONFIG": str(place.mountpoint.with_name("rclone.conf"))}

    def version(self, executable: str) -> str:
        """Say whether it has streams, too."""
        return super().version(executable) + ("" if has_streams(executable) else " (no streams: older than 1.70)")


def has_streams(executable: str) -> bool:
    """Tell whether this rclone reads one file by several streams."""
    output = subprocess.run([executable, "mount", "--help"], check=False, capture_output=True, text=True).stdout
    return "--vfs-read-chunk-streams" in output


PEER = Rclone()
