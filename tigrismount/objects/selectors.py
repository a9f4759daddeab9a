"""How a snapshot is named on the command line: a version, a name, ``latest``, ``now`` or a time.

Free of everything heavy, because the configuration checks it before an engine is loaded.
"""

from __future__ import annotations

import datetime as dt
import re

LATEST = "latest"
"""Selects the newest snapshot that somebody took."""
NOW = "now"
"""Selects the present moment."""

SECOND_NS = 10**9
"""Nanoseconds in a second, the unit of versions."""

_NAME_CHARACTERS_MAX = 255
"""More than any name a store or a person makes."""

_VERSION = re.compile(r"[1-9]\d{18}", re.ASCII)
"""Nanoseconds since the epoch have nineteen digits from 2001 to 2262."""

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_LIKE_A_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d", re.ASCII)

_EXPECTED_TIME = "expected a time with its zone, such as 2026-07-01T12:00:00Z"


def parse_selector(value: object) -> str:
    """Return what *value* selects, as text.

    Args:
        value: Text, or a version that TOML made a number of.

    Raises:
        ValueError: It can be neither a version, a time nor a name.
    """
    text = str(value).strip()
    is_text_or_number = isinstance(value, str | int) and not isinstance(value, bool)
    if not is_text_or_number or not text or not text.isprintable() or len(text) > _NAME_CHARACTERS_MAX:
        raise ValueError("expected a snapshot's version or name, latest, now, or a time such as 2026-07-01T12:00:00Z")
    if _LIKE_A_TIME.match(text):
        _time_ns(text)
    return text


def selected_version(selector: str) -> int | None:
    """Return the version that *selector* is, or the one of the moment it names; None for anything else.

    Raises:
        ValueError: It looks like a time and is none.
    """
    if _VERSION.fullmatch(selector):
        return int(selector)
    return _time_ns(selector) if _LIKE_A_TIME.match(selector) else None


def _time_ns(text: str) -> int:
    """Return an RFC 3339 time in nanoseconds since the epoch, exactly."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(_EXPECTED_TIME)
    zone = "+00:00" if match[4] in "Zz" else match[4]
    try:
        seconds = int(dt.datetime.fromisoformat(f"{match[1]}T{match[2]}{zone}").timestamp())
    except ValueError:
        raise ValueError(_EXPECTED_TIME) from None
    return seconds * SECOND_NS + int((match[3] or "").ljust(9, "0"))
