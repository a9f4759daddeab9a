"""Mountpoint for Amazon S3, with and without its disk cache, which costs a copy that a first load need not wait for.

Its executable is ``mount-s3``. Where the store speaks TLS it trusts the system's certificates alone, so the bench's own
must be among them.
"""

from __future__ import annotations

from benchmarks.peer import Peer, Place


class Mountpoint(Peer):
    """mountpoint-s3."""

    name = "mount-s3"
    variants = ("cache", "no cache")

    def command(self, executable: str, place: Place, variant: str) -> list[str]:
        """Mount with names that are trusted for ever, as fast as the machine's network may be."""
        command = [
            executable,
            place.bucket,
            str(place.mountpoint),
            "--foreground",
            "--read-only",
            f"--prefix={place.prefix}/",
            f"--endpoint-url={place.endpoint_url}",
            "--region=us-east-1",
            "--force-path-style",
            "--metadata-ttl=indefinite",
            "--maximum-throughput-gbps=100",
        ]
        if variant == "cache":
            place.cache.mkdir(exist_ok=True)
            command.append(f"--cache={place.cache}")
        return command


PEER = Mountpoint()
