"""The Secret of a volume: which keys it may have, and how two are compared without keeping either.

Names are those of AWS's variables, and of the Secrets that other drivers of S3 buckets use, so that one that is there
already works. What is no secret in it (endpoint, region) is told apart, because options are kept and shown.

A secret is never written anywhere by the driver. To see whether two are the same, even after the driver was restarted,
a fingerprint is kept: keyed with a random value of this node, so that it tells nothing to who reads it elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tigrismount.config.merge import suggest
from tigrismount.config.options import BY_KEY
from tigrismount.csi.refusal import invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEY_ID, _KEY, _TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
_ENDPOINT, _REGION = "endpoint_url", "region"

_NAMES = {
    _KEY_ID: _KEY_ID,
    _KEY: _KEY,
    _TOKEN: _TOKEN,
    "AWS_ENDPOINT_URL": _ENDPOINT,
    "AWS_ENDPOINT_URL_S3": _ENDPOINT,
    "AWS_REGION": _REGION,
    "TIGRIS_STORAGE_ACCESS_KEY_ID": _KEY_ID,
    "TIGRIS_STORAGE_SECRET_ACCESS_KEY": _KEY,
    "TIGRIS_STORAGE_ENDPOINT": _ENDPOINT,
    # Of csi-s3, which Tigris' documentation has recommended.
    "accessKeyID": _KEY_ID,
    "secretAccessKey": _KEY,
    "endpoint": _ENDPOINT,
    "region": _REGION,
}
"""What each key of a Secret means."""


@dataclass(frozen=True, slots=True)
class VolumeSecret:
    """What the Secret of a volume says."""

    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By AWS's names; empty where the volume brings no key."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the mount that are no secrets, by their names for ``-o``."""


def parse_secret(secret: Mapping[str, str]) -> VolumeSecret:
    """Return what *secret* means; no value is ever part of a message.

    Raises:
        RefusalError: It has a key that means nothing, twice the same, or half of a pair.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, value in sorted(secret.items()):
        meaning = _NAMES.get(name)
        if meaning is None:
            raise invalid(f"Secret: unknown key {name!r}{suggest(name, _NAMES)}; it may have {_KEY_ID} and {_KEY}")
        text = value.strip()  # `echo … | base64` leaves a newline, and no key has blanks
        if not text:
            raise invalid(f"Secret: {name} is empty")
        if not text.isprintable() or not text.isascii():
            raise invalid(f"Secret: {name} holds characters that no key has; it was perhaps encoded twice")
        if meaning in (_ENDPOINT, _REGION):
            _check_option(name, meaning, text)
        if meaning in found and found[meaning][1] != text:
            raise invalid(f"Secret: {found[meaning][0]} and {name} say different things; keep one")
        found[meaning] = (name, text)
    if _KEY_ID in found and _KEY not in found:
        raise invalid(f"Secret: {found[_KEY_ID][0]} is there, but no {_KEY}")
    if _KEY_ID not in found and (_KEY in found or _TOKEN in found):
        raise invalid(f"Secret: {found.get(_KEY, found.get(_TOKEN, ('', '')))[0]} is there, but no {_KEY_ID}")
    values = {meaning: text for meaning, (_, text) in found.items()}
    return VolumeSecret(
        keys={name: values[name] for name in (_KEY_ID, _KEY, _TOKEN) if name in values},
        options={name: values[name] for name in (_ENDPOINT, _REGION) if name in values},
    )


def _check_option(name: str, key: str, text: str) -> None:
    try:
        BY_KEY[key].parse(text)
    except ValueError as exc:
        raise invalid(f"Secret: {name}: {exc}") from None


def fingerprint(keys: Mapping[str, str], salt: bytes) -> str:
    """Return a text that is the same for the same *keys* on the same node, and tells nothing about them."""
    if not keys:
        return ""
    return hmac.new(salt, json.dumps(sorted(keys.items())).encode(), hashlib.sha256).hexdigest()
