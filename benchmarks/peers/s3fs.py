"""s3fs with its disk cache and parallel requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.peer import ACCESS_KEY, SECRET_KEY, STREAMS, Peer, Place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class S3fs(Peer):
    """s3fs."""

    name = "s3fs"

    def command(self, executable: str, place: Place, variant: str) -> list[str]:
        """Mount the whole bucket: it shows no directory that has no object of its own when given one."""
        options = [
            f"url={place.endpoint_url}",
            "use_path_request_style",
            "ro",
            f"use_cache={place.cache}",
            "del_cache",
            f"parallel_count={STREAMS}",
            "multipart_size=8",
            "multireq_max=64",
            "kernel_cache",
            "no_check_certificate",
            "ssl_verify_hostname=0",
        ]
        return [executable, place.bucket, str(place.mountpoint), "-f", "-o", ",".join(options)]

    def environment(self, place: Place) -> Mapping[str, str]:
        """Give the key under its own names."""
        return {"AWSACCESSKEYID": ACCESS_KEY, "AWSSECRETACCESSKEY": SECRET_KEY}

    def directory(self, place: Place) -> Path:
        """Return the prefix within the bucket."""
        return place.mountpoint / place.prefix


PEER = S3fs()
