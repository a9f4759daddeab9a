"""Which format a file is in, by its name; the one place that lists them.

Files of a content-addressed store (Hugging Face's hub cache, ollama) are named by their digest and promise nothing;
for those the first bytes decide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.core.types import Extent
from tigrismount.errors import ForeignFormatError
from tigrismount.formats import gguf, safetensors, torchzip
from tigrismount.formats.parsing import MAX_HEADER_BYTES, Parsing
from tigrismount.formats.zipdirectory import LOCAL_SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tigrismount.formats.parsing import Parser

SNIFFED_BYTES = safetensors.LENGTH_BYTES + 1
"""First bytes of a file that tell its format."""


@dataclass(frozen=True, slots=True)
class TensorFormat:
    """A format that we can plan by."""

    name: str
    """What people call it."""
    pattern: re.Pattern[str]
    """What the names of such files match."""
    parse: Callable[[int], Parser]
    """From the file's size to a parser of it."""

    def begin(self, size_bytes: int, max_bytes: int = MAX_HEADER_BYTES) -> Parsing:
        """Begin to parse a file of *size_bytes*, by reading at most *max_bytes* of it; see ``Parsing``."""
        return Parsing(self.parse(size_bytes), size_bytes, max_bytes)


def _sniff(size_bytes: int) -> Parser:
    head = yield Extent(0, min(SNIFFED_BYTES, size_bytes))
    found = format_of_bytes(head)
    if found is None:
        raise ForeignFormatError("is no tensor file", offset=0)
    return (yield from found.parse(size_bytes))


def _named(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


SAFETENSORS = TensorFormat("safetensors", _named(r"\.safetensors\Z"), safetensors.parse)
GGUF = TensorFormat("GGUF", _named(r"\.gguf\Z"), gguf.parse)
# Plenty of files end in .bin; checkpoints among them are called model something (pytorch_model, adapter_model).
PYTORCH = TensorFormat("PyTorch", _named(r"\.(?:pt|pth|ckpt)\Z|model[^/]*\.bin\Z"), torchzip.parse)
DIGEST = TensorFormat("tensor", re.compile(r"(?:\A|/)(?:sha256-)?[0-9a-f]{64}\Z"), _sniff)

FORMATS = (SAFETENSORS, GGUF, PYTORCH, DIGEST)
"""Every format that we can plan by."""


def format_of(key: str) -> TensorFormat | None:
    """Return the format that the name *key* promises, None when it promises none we know."""
    return next((known for known in FORMATS if known.pattern.search(key)), None)


def format_of_bytes(head: bytes) -> TensorFormat | None:
    """Return the format of a file that begins with *head*, at least ``SNIFFED_BYTES`` long, None when it has none."""
    if head.startswith(gguf.MAGIC):
        return GGUF
    if head.startswith(LOCAL_SIGNATURE):
        return PYTORCH
    text_bytes = int.from_bytes(head[: safetensors.LENGTH_BYTES], "little")
    if head[safetensors.LENGTH_BYTES : SNIFFED_BYTES] == b"{" and text_bytes <= MAX_HEADER_BYTES:
        return SAFETENSORS
    return None
