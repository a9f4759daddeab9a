"""What is mounted: a bucket, or the keys of a bucket under a prefix, as people name it.

``s3://bucket[/prefix]``, ``t3://…``, ``bucket[/prefix]`` and TigrisFS's ``bucket:prefix`` mean the same. A source that
cannot be a bucket is refused here, with what is wrong, because the store would answer ``NoSuchBucket`` or
``SignatureDoesNotMatch`` and send people looking in the wrong place.

Source: Amazon S3 User Guide, 'General purpose bucket naming rules'; Tigris follows them. Buckets of Google's and Ceph's
may have an underscore, and so may Amazon's oldest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE_VARIABLES = ("BUCKET_NAME", "TIGRIS_STORAGE_BUCKET", "MODEL_BUCKET_NAME")
"""Environment variables that name a source when the command line does not; the first one set wins."""

_EXAMPLE = "example: s3://my-bucket/models/llama"
_SCHEMES = ("s3", "t3")
_WITH_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_MAX_KEY_BYTES = 1024  # S3's limit on the length of a key


@dataclass(frozen=True, slots=True)
class Source:
    """A bucket and the prefix shown at the root of the mount."""

    bucket: str
    """Bucket name; empty stands for all buckets."""
    prefix: str = ""
    """Empty, or a key prefix that ends with ``/``."""

    @property
    def url(self) -> str:
        """The one way we write it: ``s3://bucket/prefix``, without the last slash; ``s3://`` for all buckets."""
        if not self.bucket:
            return "s3://"
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


ALL_BUCKETS = Source("")
"""What ``--all-buckets`` mounts."""


def parse_source(text: str) -> Source:
    """Return the bucket and prefix that *text* names.

    Raises:
        ConfigError: It names none; says what is wrong and shows an example.
    """
    match = _WITH_SCHEME.fullmatch(text)
    scheme, rest = (match[1].lower(), match[2]) if match else ("", text)
    if "@" in rest.partition("/")[0]:  # not echoed: it may be a secret
        raise ConfigError(f"a source takes no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; {_EXAMPLE}")
    if scheme and scheme not in _SCHEMES:
        hint = "; a store's address goes into --endpoint-url" if scheme in ("http", "https") else ""
        raise ConfigError(f"source {text!r}: the scheme {scheme}:// is neither s3:// nor t3://{hint}; {_EXAMPLE}")
    bucket, prefix = _split(rest, colon_allowed=not scheme)
    if not scheme and bucket.lower() in _SCHEMES:  # too short for a bucket
        raise ConfigError(f"source {text!r}: two slashes belong behind the scheme {bucket}:; {_EXAMPLE}")
    reason = _bucket_fault(bucket) or _prefix_fault(prefix)
    if reason:
        raise ConfigError(f"source {text!r}: {reason}; {_EXAMPLE}")
    return Source(bucket, prefix)


def source_from_environment(environment: Mapping[str, str]) -> tuple[Source, str]:
    """Return the source named by the environment, and the variable that named it.

    Raises:
        ConfigError: No variable is set, or what it holds is no source.
    """
    for variable in SOURCE_VARIABLES:
        if text := environment.get(variable, ""):
            try:
                return parse_source(text), variable
            except ConfigError as exc:
                raise ConfigError(f"environment variable {variable}: {exc.detail}") from None
    raise ConfigError(f"no source: name a bucket, or set {' or '.join(SOURCE_VARIABLES)}; {_EXAMPLE}")


def _split(rest: str, *, colon_allowed: bool) -> tuple[str, str]:
    """Return bucket and normalised prefix; a colon separates them only in the form without a scheme."""
    match = re.match(r"([^/:]*)[/:]?" if colon_allowed else r"([^/]*)/?", rest)
    assert match is not None  # both patterns match the empty string
    prefix = rest[match.end() :]
    if rest[match.end() - 1 : match.end()] == ":":
        prefix = prefix.removeprefix("/")  # rclone and TigrisFS users write bucket:/prefix
    return match[1], f"{prefix.removesuffix('/')}/" if prefix else ""


def _bucket_fault(bucket: str) -> str:
    if not bucket:
        return "the bucket name is missing"
    if bucket != bucket.lower():
        return f"bucket names have no upper-case letters ({bucket.lower()!r}?)"
    if not 3 <= len(bucket) <= 63:
        return f"bucket names have 3 to 63 characters, {bucket!r} has {len(bucket)}"
    if wrong := re.search(r"[^a-z0-9._-]", bucket):
        return f"bucket names are made of a-z, 0-9, '.', '-' and '_', not {wrong[0]!r}"
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])", bucket) or ".." in bucket:
        return "bucket names begin and end with a letter or digit, and have no two dots in a row"
    if re.fullmatch(r"\d+\.\d+\.\d+\.\d+", bucket):
        return "a bucket name cannot look like an IP address"
    return ""


def _prefix_fault(prefix: str) -> str:
    if any(component in ("", ".", "..") for component in prefix.split("/")[:-1]):
        return "the prefix has an empty, '.' or '..' component, which no path can reach"
    if "\0" in prefix:
        return "the prefix holds a NUL byte"
    if len(prefix.encode(errors="surrogateescape")) > _MAX_KEY_BYTES:
        return f"the prefix is longer than a key can be ({_MAX_KEY_BYTES} bytes)"
    return ""
