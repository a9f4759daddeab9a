"""The kinds of value an option can have: a parser each.

A parser takes what a flag, a variable or a TOML file holds (text, or TOML's own numbers and booleans) and returns the
value, or raises ``ValueError`` with what it expected. All are pure.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tigrismount.config.units import MIB, parse_seconds, parse_share, parse_size_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_FETCH_PROCESSES = 32
"""Above what any network was seen to need; each takes some 60 MiB."""

LOOPBACK = "127.0.0.1"
"""Where services listen unless told otherwise: nobody from outside gets there."""


def one_of(*choices: str) -> Callable[[object], str]:
    """Return a parser that takes one of *choices*."""

    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return str(value)

    return parse


def whole_number(least: int, most: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from *least* to *most*, both included."""

    def parse(value: object) -> int:
        text = str(value).strip()
        if isinstance(value, bool) or not re.fullmatch(r"\d+", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(f"expected a whole number from {least} to {most}")
        return int(text)

    return parse


def parse_switch(value: object) -> bool:
    """Return whether *value* says on.

    Raises:
        ValueError: It says neither on nor off.
    """
    if isinstance(value, bool):
        return value
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if str(value).strip().lower() not in known:
        raise ValueError("expected true or false")
    return known[str(value).strip().lower()]


def parse_text(value: object) -> str:
    """Return *value* without blanks around it; that of a Secret which was made with echo ends in a line break.

    Raises:
        ValueError: It is empty, no text, or holds control characters.
    """
    text = value.strip() if isinstance(value, str) else ""
    if not text or not text.isprintable():
        raise ValueError("expected text")
    return text


def parse_path(value: object) -> str:
    """Return *value* as it is; ``resolve`` makes it absolute.

    Raises:
        ValueError: It cannot be a path.
    """
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("expected a path")
    return value


def parse_cache_directories(value: object) -> tuple[str, ...]:
    """Return paths, none of them for ``off``, which takes back what came before it.

    Several are a list, as a repeated flag and TOML have it, or one text with ``:`` between, as in ``PATH``.

    Raises:
        ValueError: They cannot be paths.
    """
    written = list(value) if isinstance(value, (list, tuple)) else [value]
    paths: dict[str, None] = {}
    for path in (path for item in written for path in (item.split(":") if isinstance(item, str) else [item])):
        if path is False or path == "off":
            paths.clear()
        else:
            paths[parse_path(path)] = None
    return tuple(paths)


def parse_mode(value: object) -> int:
    """Return permission bits, from octal text or from a TOML number.

    Raises:
        ValueError: They are none.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        mode = value  # TOML's 0o444 is a number already
    elif isinstance(value, str) and re.fullmatch(r"(?:0o)?[0-7]{1,4}", value):
        mode = int(value.removeprefix("0o"), 8)
    else:
        raise ValueError("expected octal permission bits such as 0444")
    if not 0 <= mode <= 0o777:
        raise ValueError("expected octal permission bits from 0 to 0777")
    return mode


def parse_endpoint(value: object) -> str:
    """Return an HTTP URL without its last slash.

    Raises:
        ValueError: It is none, or it holds credentials, which belong elsewhere.
    """
    text = parse_text(value)
    try:
        parts = urlsplit(text)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("expected a URL such as https://t3.storage.dev") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("expected a URL without credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not port_is_valid
        or parts.query
        or parts.fragment
    ):
        raise ValueError("expected a URL such as https://t3.storage.dev")
    return text.rstrip("/")


def parse_listen_address(value: object) -> str:
    """Return ``HOST:PORT`` to listen on, the loopback address where no host is named.

    Raises:
        ValueError: It is none.
    """
    match = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]*):)?(\d{1,5})", str(value).strip())
    if match is None or isinstance(value, bool) or not 0 < int(match[2]) < 1 << 16:
        raise ValueError("expected an address to listen on such as 127.0.0.1:9102, or a port")
    return f"{match[1] or LOOPBACK}:{match[2]}"


def parse_block_bytes(value: object) -> int:
    """Return a block size.

    Raises:
        ValueError: It is no power of two from 1 to 64 MiB.
    """
    size_bytes = parse_size_bytes(value)
    if not MIB <= size_bytes <= 64 * MIB or size_bytes & (size_bytes - 1):
        raise ValueError("expected a power of two from 1MiB to 64MiB")
    return size_bytes


def size_from(least_bytes: int, least: str) -> Callable[[object], int]:
    """Return a parser of sizes from *least_bytes* up; *least* is how a person writes that."""

    def parse(value: object) -> int:
        size_bytes = parse_size_bytes(value)
        if size_bytes < least_bytes:
            raise ValueError(f"expected at least {least}")
        return size_bytes

    return parse


def parse_deadline_s(value: object) -> float:
    """Return finite seconds, at least one.

    Raises:
        ValueError: They are not.
    """
    seconds = parse_seconds(value)
    if not 1 <= seconds < math.inf:
        raise ValueError("expected a time from 1s up, and not inf: a read that waits for ever hangs its process")
    return seconds


def parse_kernel_read_ahead(value: object) -> int | None:
    """Return KiB, 0 to leave the kernel's value alone, None for ``auto``.

    Raises:
        ValueError: It is none of these.
    """
    if value == "auto":
        return None
    try:
        return whole_number(0, 1 << 20)(value)
    except ValueError:
        raise ValueError("expected auto, or a number of KiB up to 1048576") from None


def parse_fetch_processes(value: object) -> int | None:
    """Return how many, None for ``auto``.

    Raises:
        ValueError: It is neither.
    """
    if value == "auto":
        return None
    try:
        return whole_number(0, MOST_FETCH_PROCESSES)(value)
    except ValueError:
        raise ValueError(f"expected auto, or a whole number from 0 to {MOST_FETCH_PROCESSES}") from None


def parse_free_floor(value: object) -> float:
    """Return the share of a filesystem to leave free.

    Raises:
        ValueError: It is no percentage, or leaves nothing to use.
    """
    fraction = parse_share(value).fraction
    if fraction > 0.95:
        raise ValueError("expected a percentage from 0% to 95%")
    return fraction
