"""Which format a file is in, by its name; the one place that lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.formats import gguf, safetensors
from tigrismount.formats.parsing import MAX_HEADER_BYTES, Parsing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.formats.parsing import Parser


@dataclass(frozen=True, slots=True)
class TensorFormat:
    """A format that we can plan by."""

    name: str
    """What people call it."""
    suffixes: tuple[str, ...]
    """How names of such files end, in lower case."""
    parse: Callable[[int], Parser]
    """From the file's size to a parser of it."""

    def begin(self, size_bytes: int, max_bytes: int = MAX_HEADER_BYTES) -> Parsing:
        """Begin to parse a file of *size_bytes*, by reading at most *max_bytes* of it; see ``Parsing``."""
        return Parsing(self.parse(size_bytes), size_bytes, max_bytes)


FORMATS = (
    TensorFormat("safetensors", (".safetensors",), safetensors.parse),
    TensorFormat("GGUF", (".gguf",), gguf.parse),
)
"""Every format that we can plan by."""


def format_of(key: str) -> TensorFormat | None:
    """Return the format that the name *key* promises, None when it promises none we know."""
    name = key.lower()
    return next((known for known in FORMATS if name.endswith(known.suffixes)), None)
