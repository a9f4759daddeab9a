"""User metadata that came with a listing, so that no link has to be asked for by itself.

Asked for it, Tigris puts the user metadata of objects into the rows of a listing. A symbolic link is an empty object
whose metadata say where it leads, so a tree of links (a Hugging Face hub cache) otherwise costs a HEAD for each.

That it was asked for does not mean that it is offered. It counts as offered from the first row on that carries any;
before that, a row without metadata says nothing, and is asked for as anywhere else.

Source: TigrisFS, which asks in the same way and keeps its links so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tigrismount.objects.metadata import sha256_of, symlink_target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from xml.etree import ElementTree as ET

    from tigrismount.objects.client import ListPage, ObjectInfo

MARK = b"<Metadata>"
"""What a listing holds in which rows carry any."""

_HTTP_PREFIX = "x-amz-meta-"


def metadata_of(rows: Iterable[ET.Element]) -> tuple[Mapping[str, str], ...]:
    """Return the user metadata that each row of a listing carries.

    Args:
        rows: Its ``Contents`` elements.
    """
    return tuple([_metadata_of(row) for row in rows])


class ListedMetadata:
    """Completes the rows of listings; safe to use from many threads."""

    def __init__(self) -> None:
        self._offered = False

    def complete(self, page: ListPage, metadata: Sequence[Mapping[str, str]]) -> ListPage:
        """Return *page* with what its metadata say, and with no doubt about links where they are offered.

        Args:
            page: The rows.
            metadata: What ``metadata_of`` returned for the same listing.
        """
        if len(metadata) == len(page.objects) and any(metadata):
            self._offered = True
        elif not self._offered:
            return page
        told = metadata if len(metadata) == len(page.objects) else [{}] * len(page.objects)
        return replace(page, objects=tuple(map(_completed, page.objects, told)))


def _completed(info: ObjectInfo, metadata: Mapping[str, str]) -> ObjectInfo:
    answer = {"ContentLength": info.id.size_bytes, "Metadata": metadata}
    return replace(info, symlink_target=symlink_target(answer), sha256=sha256_of(answer) if metadata else info.sha256)


def _metadata_of(row: ET.Element) -> Mapping[str, str]:
    found = {}
    for element in row:
        if _name(element) == "Metadata":
            pair = {_name(child): child.text or "" for child in element}
            # As a HEAD has it, whose values reach us as Latin-1: TigrisFS escapes no letter, of whatever alphabet.
            value = pair.get("Value", "").encode().decode("latin-1")
            found[pair.get("Name", "").lower().removeprefix(_HTTP_PREFIX)] = value
    return found


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]
