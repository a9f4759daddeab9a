"""GeeseFS with its disk cache, and the description that it shares with what descends from it."""

from __future__ import annotations

from benchmarks.peer import Peer, Place


class Geesefs(Peer):
    """GeeseFS, or a descendant that takes the same flags.

    Args:
        name: The executable.
    """

    def __init__(self, name: str = "geesefs") -> None:
        self.name = name

    def command(self, executable: str, place: Place, variant: str) -> list[str]:
        """Mount with ListObjectsV2, large reads at once rather than after 20 MB, and twice the default's memory."""
        place.cache.mkdir(exist_ok=True)
        flags = [
            "-f",
            "-o",
            "ro",
            f"--endpoint={place.endpoint_url}",
            "--region=us-east-1",
            "--no-detect",
            "--no-expire-multipart",
            "--list-type=2",
            "--stat-cache-ttl=1h",
            "--memory-limit=2000",
            "--large-read-cutoff=0",
            "--read-ahead-large=262144",
            "--read-ahead-parallel=8192",
            f"--cache={place.cache}",
        ]
        if place.endpoint_url.startswith("https:"):
            flags.append("--no-verify-ssl")
        return [executable, *flags, f"{place.bucket}:{place.prefix}", str(place.mountpoint)]


PEER = Geesefs()
