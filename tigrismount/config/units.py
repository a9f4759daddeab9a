"""Sizes, shares and times as people write them.

Sizes: ``8MiB``, ``200G``, ``1.5g``, ``4096``. A bare ``K``, ``M``, ``G``, ``T`` or ``P`` means the binary unit, as in
systemd and Docker; only the full ``kB``, ``MB``, ``GB`` are decimal, as SI has them. Times: ``30s``, ``5m``,
``1m30s``, ``500ms``, ``inf``; a bare number counts seconds. Every parser takes text, or the number a TOML file holds,
and raises ``ValueError`` with what it expected; who asked adds where the value came from.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

MIB = 1 << 20
"""Bytes in one mebibyte."""

_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*([KMGTP]?)(I?B?)", re.IGNORECASE | re.ASCII)
_SHARE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*%", re.ASCII)
_TIME_PART = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*(ms|s|m|h|d)\s*", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MOST_BYTES = 1 << 62
"""Sizes above this cannot be file offsets; a typo, not a wish."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of something whose size is not known yet, such as a filesystem."""

    fraction: float
    """From 0 to 1."""


def parse_size_bytes(value: object) -> int:
    """Return the bytes that *value* means.

    Args:
        value: Text such as ``8MiB``, or a whole number of bytes.

    Raises:
        ValueError: It is no size.
    """
    match = _SIZE.fullmatch(_text(value).strip())
    if not match or match[3].upper() == "I":
        raise ValueError("expected a size such as 8MiB or 200G")
    decimal = bool(match[2]) and match[3].upper() == "B"
    whole, _, fraction = match[1].partition(".")
    # In whole numbers: exact above 2**53, where floats are not.
    scaled = int(whole + fraction) * (1000 if decimal else 1024) ** _POWERS[match[2].upper()]
    size_bytes: int = scaled // 10 ** len(fraction)
    if size_bytes > _MOST_BYTES:
        raise ValueError("is larger than any disk")
    return size_bytes


def parse_share(value: object) -> Share:
    """Return the share that *value*, such as ``80%``, means.

    Raises:
        ValueError: It is no percentage from 0 to 100.
    """
    match = _SHARE.fullmatch(_text(value).strip())
    if not match or float(match[1]) > 100:
        raise ValueError("expected a percentage such as 80%")
    return Share(float(match[1]) / 100)


def parse_size_or_share(value: object) -> int | Share:
    """Return bytes for a size, a share for a percentage.

    Raises:
        ValueError: It is neither.
    """
    if _text(value).strip().endswith("%"):
        return parse_share(value)
    try:
        return parse_size_bytes(value)
    except ValueError:
        raise ValueError("expected a size such as 200G, or a percentage such as 80%") from None


def parse_seconds(value: object) -> float:
    """Return the seconds that *value* means; ``inf`` is allowed.

    Raises:
        ValueError: It is no time.
    """
    text = _text(value).strip().lower()
    if text in ("inf", "infinity"):
        return math.inf
    if re.fullmatch(r"\d{1,20}(?:\.\d{1,20})?", text, re.ASCII):
        return float(text)
    parts = _TIME_PART.findall(text)
    if not parts or _TIME_PART.sub("", text):
        raise ValueError("expected a time such as 30s, 5m or inf")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def format_size(size_bytes: int) -> str:
    """Return *size_bytes* for a person: binary units, at most one digit after the point."""
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("expected text or a number")  # noqa: TRY004 -- every parser promises ValueError
    return str(value)
