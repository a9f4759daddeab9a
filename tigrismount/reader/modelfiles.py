"""Which files make up a model: from a directory, an index or a pipeline to its weight files, in their order.

As loaders do it: where there is an index its shards are the model, and other weight files beside them (a second
format, an original checkpoint) are not; without one it is every tensor file of the directory, by name. A diffusers
pipeline is its components, each a directory like that.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tigrismount.errors import FormatError
from tigrismount.formats.registry import format_of
from tigrismount.formats.shards import (
    MAX_INDEX_BYTES,
    PIPELINE_NAME,
    is_index,
    is_pipeline,
    natural_order,
    parse_pipeline,
    read_index,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file, wherever it is."""

    name: str
    """Path below the directory that was named."""
    size_bytes: int
    """Its size."""
    handle: Any = None
    """What its place knows it by."""


class Place(Protocol):
    """Directories and files of a filesystem or of a bucket."""

    async def files_in(self, directory: str) -> dict[str, ModelFile]:
        """Return the files in *directory*, a path below the one that was named, by name; none where there is none."""

    async def read(self, file: ModelFile, start: int, stop: int) -> bytes:
        """Return exactly bytes ``[start, stop)`` of a file."""


@dataclass(slots=True)
class Found:
    """The files of a model."""

    files: list[ModelFile] = field(default_factory=list)
    """Its weight files, in the order in which loaders take them."""
    missing: list[str] = field(default_factory=list)
    """Files that an index names and that are not there."""
    others: list[str] = field(default_factory=list)
    """Tensor files beside them that no index names."""
    claimed_bytes: int | None = None
    """Bytes of all tensors as the indexes claim."""


async def find_model(place: Place, directory: str = "") -> Found:
    """Return the files of the model in *directory*, those of all components where it is a pipeline.

    Raises:
        FormatError: An index is damaged or names what it must not.
    """
    listing = await place.files_in(directory)
    if PIPELINE_NAME not in listing:
        return await _find_weights(place, directory, listing)
    found = Found()
    for component in await _parsed(place, listing[PIPELINE_NAME], parse_pipeline):
        below = posixpath.join(directory, component)
        _merge(found, await _find_weights(place, below, await place.files_in(below)))
    return found


async def find_by_index(place: Place, name: str) -> Found:
    """Return the files of the model whose index or pipeline file is *name*, in the directory that was named.

    Raises:
        FormatError: The index is damaged or names what it must not.
    """
    if is_pipeline(name):
        return await find_model(place)
    listing = await place.files_in("")
    return await _follow(place, "", listing, [listing[name]])


def is_index_name(name: str) -> bool:
    """Tell whether a file of this name says which other files make up a model."""
    return is_index(name) or is_pipeline(name)


async def _find_weights(place: Place, directory: str, listing: dict[str, ModelFile]) -> Found:
    indexes = [listing[name] for name in natural_order(filter(is_index, listing))]
    # Of a model in both formats loaders take safetensors.
    preferred = [file for file in indexes if ".safetensors." in file.name.lower()] or indexes
    if preferred:
        return await _follow(place, directory, listing, preferred)
    return Found([listing[name] for name in _tensor_files(listing)])


async def _follow(place: Place, directory: str, listing: dict[str, ModelFile], indexes: Iterable[ModelFile]) -> Found:
    found, listings = Found(), {"": listing}
    for index in indexes:
        said = await _parsed(place, index, read_index)
        if said.total_size_bytes is not None:
            found.claimed_bytes = (found.claimed_bytes or 0) + said.total_size_bytes
        for shard in said.shards:
            below, _, last = shard.rpartition("/")
            if below not in listings:
                listings[below] = await place.files_in(posixpath.join(directory, below))
            file = listings[below].get(last)
            if file is None:
                found.missing.append(posixpath.join(directory, shard))
            elif file not in found.files:
                found.files.append(file)
    named = {file.name for file in found.files}
    found.others = [listing[name].name for name in _tensor_files(listing) if listing[name].name not in named]
    return found


def _tensor_files(names: Iterable[str]) -> tuple[str, ...]:
    return natural_order(name for name in names if format_of(name) is not None)


async def _parsed(place: Place, file: ModelFile, parse: Callable[[bytes], T]) -> T:
    """Return what *parse* makes of a file; says which file where it cannot."""
    if file.size_bytes > MAX_INDEX_BYTES:
        raise FormatError(f"{file.name}: {file.size_bytes} bytes are above the {MAX_INDEX_BYTES} that we parse")
    content = await place.read(file, 0, file.size_bytes)
    try:
        return parse(content)
    except FormatError as exc:
        raise FormatError(f"{file.name}: {exc.detail}", offset=exc.offset) from exc


def _merge(found: Found, part: Found) -> None:
    found.files += part.files
    found.missing += part.missing
    found.others += part.others
    if part.claimed_bytes is not None:
        found.claimed_bytes = (found.claimed_bytes or 0) + part.claimed_bytes
