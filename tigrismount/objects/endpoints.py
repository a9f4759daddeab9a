"""What the host in an endpoint URL tells about the store behind it.

Pure functions on URLs, free of boto3, so that configuration and credentials can ask too.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from tigrismount.objects.options import S3Config

TIGRIS_DOMAINS = ("storage.dev", "tigris.dev", "storageapi.dev", "tigrisfiles.io", "tigrisbucket.io", "tigrisblob.io")
"""Domains Tigris serves buckets on: the S3 API (first three) and public objects."""

_TIGRIS_HOSTS = frozenset((*(f"t3.{domain}" for domain in TIGRIS_DOMAINS), "fly.storage.tigris.dev"))
"""Hosts below them that are no single bucket's."""

_AMAZON_DOMAINS = ("amazonaws.com", "amazonaws.com.cn")

_VIRTUAL_HOSTED_DOMAINS = (*TIGRIS_DOMAINS, *_AMAZON_DOMAINS)
"""Domains with a wildcard name and certificate for ``bucket.host``; nothing else may be assumed to have one."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_tigris(endpoint_url: str) -> bool:
    """Tell whether *endpoint_url* is one of Tigris's own hosts (a gateway in front of Tigris is not)."""
    return _lies_under(endpoint_url, TIGRIS_DOMAINS)


def is_unprotected(endpoint_url: str) -> bool:
    """Tell whether requests to *endpoint_url* cross a network that anybody on the way can read and change."""
    parts = urlsplit(endpoint_url)
    host = (parts.hostname or "").lower().rstrip(".")
    if parts.scheme != "http" or host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def is_amazon(endpoint_url: str) -> bool:
    """Tell whether *endpoint_url* is Amazon's own S3."""
    return _lies_under(endpoint_url, _AMAZON_DOMAINS)


def store_id(endpoint_url: str) -> str:
    """Return the name of the store in node ids and cache keys: ``tigris``, else the normalised endpoint.

    Two spellings of one endpoint give one id: letter case, a default port and a trailing slash do not count. What came
    without TLS may be anybody's, so it never serves those who ask Tigris with TLS. No more does what came from the host
    of a bucket, or from below a path: all that is asked for there is in that one bucket, whatever bucket was named.
    """
    parts = urlsplit(endpoint_url)
    host = (parts.hostname or "").lower()
    if parts.scheme == "https" and host.rstrip(".") in _TIGRIS_HOSTS and not parts.path.strip("/"):
        return "tigris"
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def addressing_style(config: S3Config) -> Literal["virtual", "path"]:
    """Return where the bucket goes in URLs.

    Bucket names with dots are path-style all the same: botocore sees to it, since no wildcard certificate matches.
    """
    if config.addressing != "auto":
        return config.addressing
    return "virtual" if _lies_under(config.endpoint_url, _VIRTUAL_HOSTED_DOMAINS) else "path"


def _lies_under(endpoint_url: str, domains: tuple[str, ...]) -> bool:
    host = (urlsplit(endpoint_url).hostname or "").lower().rstrip(".")
    return any(host == domain or host.endswith("." + domain) for domain in domains)
