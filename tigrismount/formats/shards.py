"""Files that say which other files make up a model: the index of a sharded checkpoint, and a diffusers pipeline.

``model.safetensors.index.json`` (and ``pytorch_model.bin.index.json``) maps tensor names to file names beside it;
``model_index.json`` at the root of a diffusers pipeline names its components, each a subdirectory. Both come from
whoever wrote the bucket: names that leave the directory, or that name another index, are refused, so that following
them can neither escape nor loop. Whether the files exist is for the caller to find out.

Source: transformers ``utils/hub.py`` (``get_checkpoint_shard_files``), diffusers ``pipelines/pipeline_utils.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigrismount.errors import FormatError
from tigrismount.formats.parsing import MAX_NUMBER
from tigrismount.formats.strictjson import check_text, parse_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")
"""How the name of a shard index ends."""
PIPELINE_NAME = "model_index.json"
"""The name of a pipeline's own file."""
MAX_INDEX_BYTES = 32 << 20
"""Longest index that is parsed: three times that of a model with 100,000 tensors."""
MAX_SHARDS = 10_000
"""Most files of one model: ten times the largest of today."""
MAX_NAME_BYTES = 1024
"""S3's limit on the length of a key."""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """What the index of a sharded checkpoint says."""

    shards: tuple[str, ...]
    """File names, relative to the index, each once and in the order in which loaders take them: by name, numbers
    by their value."""
    weight_map: Mapping[str, str]
    """From tensor name to file name, in the order of the index."""
    total_size_bytes: int | None
    """Bytes of all tensors as the index claims; None where it claims nothing that could be."""


def is_index(key: str) -> bool:
    """Tell whether the name *key* promises a shard index."""
    return key.lower().endswith(INDEX_SUFFIXES)


def is_pipeline(key: str) -> bool:
    """Tell whether the name *key* promises a diffusers pipeline."""
    return key.rpartition("/")[2] == PIPELINE_NAME


def parse_index(data: bytes) -> tuple[str, ...]:
    """Return the shards that an index names, in order; see ``read_index``."""
    return read_index(data).shards


def read_index(data: bytes) -> ShardIndex:
    """Return what a shard index says.

    Args:
        data: The whole file.

    Raises:
        FormatError: It is no index, or names something that cannot be a shard beside it.
    """
    members = _members(data)
    weight_map, metadata = members.get("weight_map"), members.get("metadata")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise FormatError("index has no weight_map from tensor names to file names")
    shards = dict.fromkeys(weight_map.values())
    if len(shards) > MAX_SHARDS:
        raise FormatError(f"index names {len(shards)} files, above {MAX_SHARDS}")
    for name in shards:
        _check_name(name)
        if name.lower().endswith(".json"):
            raise FormatError(f"index names {name!r:.80}, which is no shard")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    total_size_bytes = total if type(total) is int and 0 <= total <= MAX_NUMBER else None
    return ShardIndex(natural_order(shards), weight_map, total_size_bytes)


def parse_pipeline(data: bytes) -> tuple[str, ...]:
    """Return the subdirectories of a diffusers pipeline, in the order of its ``model_index.json``.

    Args:
        data: The whole file.

    Raises:
        FormatError: It is no pipeline, or a component cannot be a subdirectory.
    """
    components = []
    for name, value in _members(data).items():
        # [library, class] is a component; [null, null] one that was left out, anything else a setting.
        if name.startswith("_") or not isinstance(value, list) or len(value) != 2:
            continue
        if all(isinstance(word, str) for word in value):
            _check_name(name)
            if "/" in name:
                raise FormatError(f"pipeline names {name!r:.80}, which is no subdirectory")
            components.append(name)
    return tuple(components)


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return *names* in the order a person would put them: numbers by their value, not by their digits."""
    return tuple(sorted(names, key=_natural))


def _natural(name: str) -> list[tuple[int, int, str]]:
    # Leading zeros go, so that no text becomes a number of unbounded length: compare the count of digits first.
    parts = re.split(r"([0-9]+)", name)
    keys = []
    for index, part in enumerate(parts):
        digits = part.lstrip("0") if index % 2 else ""
        keys.append((index % 2, len(digits), digits or part))
    return keys


def _members(data: bytes) -> dict[str, object]:
    if len(data) > MAX_INDEX_BYTES:
        raise FormatError(f"index of {len(data)} bytes is above the {MAX_INDEX_BYTES} we parse")
    return parse_object(data, "index")


def _check_name(name: str) -> None:
    """Refuse what no path below this directory can be."""
    if any(component in ("", ".", "..") for component in name.split("/")) or "\0" in name:
        raise FormatError(f"index names {name!r:.80}, which is not below its directory")
    check_text(name)
    if len(name.encode()) > MAX_NAME_BYTES:
        raise FormatError(f"index names {name!r:.80}, which is longer than a key can be")
