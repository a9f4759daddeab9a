"""Patterns over keys, as shells write them: ``*`` and ``?`` stop at a slash, ``**`` does not, ``[abc]`` is a choice.

Pure: a pattern becomes the longest prefix without a wildcard, which a store can list, and a regular expression for
what is listed.
"""

from __future__ import annotations

import re

_WILD = re.compile(r"[*?\[]")
_TOKEN = re.compile(r"(\*\*/)|(\*\*)|(\*)|(\?)|\[([!^]?+)(\][^\]]*|[^\]]+)\]|(.)", re.DOTALL)


def is_glob(text: str) -> bool:
    """Tell whether *text* has a wildcard in it."""
    return _WILD.search(text) is not None


def literal_prefix(pattern: str) -> str:
    """Return what all keys that match *pattern* begin with."""
    found = _WILD.search(pattern)
    return pattern if found is None else pattern[: found.start()]


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Return a regular expression for ``fullmatch`` with whole keys.

    Args:
        pattern: ``**/`` stands for any number of directories, none included; an unclosed ``[`` for itself, and a
            choice of nothing too.
    """
    return re.compile("".join(_translate(match) for match in _TOKEN.finditer(pattern)), re.DOTALL)


def _translate(match: re.Match[str]) -> str:
    directories, anything, within, one, negated, choice, literal = match.groups()
    if directories:
        return "(?:.*/)?"
    if anything:
        return ".*"
    if within:
        return "[^/]*"
    if one:
        return "[^/]"
    if choice is not None:
        members = choice.replace("\\", "\\\\").replace("[", "\\[").replace("&&", "&\\&").replace("]", "\\]")
        chosen = f"(?!/)[{'^' if negated else ''}{members}]"
        return chosen if _is_regular(chosen) else "(?!)"  # a range that goes backwards holds nothing
    return re.escape(literal)


def _is_regular(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True
