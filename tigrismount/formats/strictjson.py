"""JSON objects from whoever wrote the file, read so that every reader of them reads the same.

Keys given twice, numbers that no machine holds, half surrogate pairs and words like ``NaN`` mean something else to
every parser; what has them is refused. Numbers are bounded before they become integers, and whatever goes wrong ends
in ``FormatError``. Memory is at most some 20 times the text, which the caller has bounded.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from tigrismount.errors import FormatError

MAX_DIGITS = 20
"""Decimal digits of the largest unsigned 64-bit number."""


def parse_object(raw: bytes, what: str = "header") -> dict[str, Any]:
    """Return the JSON object in *raw*; integers that are negative or above 20 digits come back as -1.

    Args:
        raw: UTF-8 text.
        what: What the text is, for the reason.

    Raises:
        FormatError: It is not an object, or means different things to different readers.
    """
    try:
        parsed = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise FormatError(f"{what} is not UTF-8", offset=exc.start) from exc
    except RecursionError as exc:
        raise FormatError(f"{what} is nested too deeply") from exc
    except json.JSONDecodeError as exc:
        raise FormatError(f"{what} is not JSON: {exc}", offset=exc.pos) from exc
    if not isinstance(parsed, dict):
        raise FormatError(f"{what} is not a JSON object")
    return parsed


def check_text(text: str) -> None:
    """Refuse half a surrogate pair, which JSON can escape but UTF-8 cannot say.

    Raises:
        FormatError: The text holds one.
    """
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise FormatError("a string is not Unicode text")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the JSON object, whose keys must be text and differ."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise FormatError("a key is given twice")
    for key in members:
        check_text(key)
    return members


def _integer(digits: str) -> int:
    """Return the number, or -1 for every number that no size or offset can be."""
    if digits.startswith("-") or len(digits) > MAX_DIGITS:
        _real(digits)
        return -1
    return int(digits)


def _real(digits: str) -> float:
    """Return a number that only entries we do not know may hold."""
    number = float(digits)
    if math.isinf(number):
        raise FormatError("a number is out of range")
    return number


def _constant(word: str) -> NoReturn:
    raise FormatError(f"{word} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_constant)
