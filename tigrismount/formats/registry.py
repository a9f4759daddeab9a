"""Which format a file is in, by its name; the one place that lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.formats import safetensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.core.layout import Layout


@dataclass(frozen=True, slots=True)
class TensorFormat:
    """A format whose header lies at the start of the file and says how long it is."""

    name: str
    """What people call it."""
    suffix: str
    """How names of such files end, in lower case."""
    length_field_bytes: int
    """Bytes at the start of the file that ``header_length`` needs."""
    header_length: Callable[[bytes, int], int]
    """From the first bytes and the file's size to the bytes of the header; raises FormatError."""
    parse_header: Callable[[bytes, int], Layout]
    """From the header and the file's size to the layout; raises FormatError."""


FORMATS = (
    TensorFormat(
        "safetensors", ".safetensors", safetensors.LENGTH_BYTES, safetensors.header_length, safetensors.parse_header
    ),
)
"""Every format that we can plan by."""


def format_of(key: str) -> TensorFormat | None:
    """Return the format that the name *key* promises, None when it promises none we know."""
    name = key.lower()
    return next((known for known in FORMATS if name.endswith(known.suffix)), None)
