"""How to reach the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DEFAULT_ENDPOINT_URL = "https://t3.storage.dev"
"""Tigris's canonical S3 endpoint (Tigris documentation, 'Endpoints')."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Config:
    """Connection to one S3-compatible endpoint. Credentials are *not* here: they are looked up where they are used."""

    endpoint_url: str = DEFAULT_ENDPOINT_URL
    """Base URL of the S3 API."""
    region: str = "auto"
    """SigV4 region; Tigris expects ``auto``, passed explicitly because boto3 would fall back to us-east-1."""
    profile: str | None = None
    """Named profile of the AWS configuration files; None means none was asked for."""
    no_sign_request: bool = False
    """Send anonymous requests (public buckets)."""
    addressing: Literal["auto", "virtual", "path"] = "auto"
    """Where the bucket goes: ``auto`` is virtual-hosted for Tigris's and AWS's hosts, path-style for all others."""
    ca_bundle: str | None = None
    """PEM file of certificate authorities to trust instead of the system's."""
    request_timeout_s: float = 300.0
    """Seconds a data read keeps trying before it fails; long, because a failed page fault kills the process."""
    metadata_timeout_s: float = 30.0
    """Seconds a listing or look-up keeps trying."""
    max_retries: int = 1000
    """Retries of one request within its timeout; the timeout is the real bound."""
    connect_timeout_s: float = 5.0
    """Seconds to open one connection."""
    stall_timeout_s: float = 15.0
    """Seconds without a byte after which a GET is cut and resumed from where it was."""
    concurrency: int = 32
    """Most GETs in flight at once; also sizes the connection pool."""
    bandwidth_bytes_s: int | None = None
    """Most bytes a second of all data reads together; None for no limit."""
    requester_pays: bool = False
    """Send ``x-amz-request-payer: requester``."""
    snapshot: str | None = None
    """The frozen state to mount, as it was asked for: a version, a name, a time, ``latest`` or ``now``."""
    snapshot_version: str | None = None
    """The version that it turned out to mean; sent with every request. Found once, and then kept."""
    consistent: bool = False
    """Ask Tigris for consistent answers about metadata, which may come from far away."""
    tigris_prefetch: bool = False
    """Let Tigris move the data of listed objects near us."""
    fetch_processes: int = 0
    """Most processes that GETs are sent from, besides the threads of this one."""
    fetch_process_start_bytes: int = 32 << 20
    """Bytes asked for before the first of them is started: who reads a few small files needs none."""
    fetch_process_least_bytes: int = 1 << 20
    """Smallest range that one is given: of less, the way there and back is a good part of the cost."""
