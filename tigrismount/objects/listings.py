"""The body of an answer to ListObjectsV2, parsed by ourselves.

Everything else that the store answers is small, and botocore's business. A page of a listing is a thousand rows, of
which botocore makes as many dictionaries by looking each element up in its model of S3, and a date by a parser that
knows every way to write one: 50 to 100 microseconds a row, more than all the rest of a mount spends on a name. So the
body is taken out of its hands before it parses (``headers``), and comes here. The rows are walked once, whatever they
carry: names and sizes always, small files and user metadata where Tigris was asked for them.

What botocore tolerates is tolerated: any namespace or none, keys in the encoding that it asks for, dates in any form.

Source: Amazon S3 API reference, ListObjectsV2.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree as ET

from botocore.utils import parse_timestamp

from tigrismount.core.types import ObjectId
from tigrismount.errors import ObjectProtocolError
from tigrismount.objects import inlined, listed
from tigrismount.objects.client import ListPage, ObjectInfo
from tigrismount.objects.responses import WORD_MAX_CHARACTERS, bare_etag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tigrismount.objects.responses import Target

TOKEN_MAX_CHARACTERS = 16 << 10
"""Longest continuation token: it is sent in a URL, of which servers take half of that, and kept for each directory."""
_STANDARD = "STANDARD"
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
"""What XML Schema has for them; what is neither must not end a directory."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One page, and what came with it."""

    page: ListPage
    """The rows."""
    contents: Sequence[bytes | None]
    """The bytes that each object's row carries, None for rows without; nothing where no row has any."""
    metadata: Sequence[Mapping[str, str]]
    """The user metadata that each object's row carries; nothing where no row has any."""


def parse_listing(document: bytes, query: Mapping[str, Any], target: Target) -> Listing:
    """Return a page; anything that is not one must not pass for an empty bucket.

    Args:
        document: The answer's body.
        query: What was asked.
        target: What it was about.

    Raises:
        ObjectProtocolError: It is no listing or another one, or leads in circles.
        LookupError: A row lacks what every row has.
        ValueError: A number or a date is none.
    """
    try:
        # As botocore does: expat bounds what entities may grow to, and what it may say of its encoding is passed over.
        root = ET.fromstring(document, ET.XMLParser(encoding="utf-8"))  # noqa: S314
    except ET.ParseError as exc:
        detail = f"{target.endpoint_url} answered something that is not S3's XML: is it an S3 endpoint?"
        raise ObjectProtocolError(detail, bucket=target.bucket) from exc
    names = _Names()
    rows: list[ET.Element] = []
    prefixes: list[ET.Element] = []
    about: dict[str, str] = {}
    for child in root:
        name = names[child.tag]
        if name == "Contents":
            rows.append(child)
        elif name == "CommonPrefixes":
            prefixes.append(child)
        else:
            about[name] = child.text or ""
    encoded = about.get("EncodingType") == "url"
    bucket = query["Bucket"]
    page = ListPage(
        tuple([_info(bucket, _fields(row, names), encoded=encoded) for row in rows]),
        tuple([_decoded(_fields(row, names)["Prefix"], encoded=encoded) for row in prefixes]),
        _token(about, query, target),
    )
    _check_asked_for(page, query.get("Prefix", ""), target)
    return Listing(
        page,
        inlined.contents_of(rows) if inlined.MARK in document else (),
        listed.metadata_of(rows) if listed.MARK in document else (),
    )


def _check_asked_for(page: ListPage, prefix: str, target: Target) -> None:
    """Refuse rows of other places: whoever asks whether there is anything under a prefix would be told so by them."""
    if not prefix:
        return
    for key in (*(info.id.key for info in page.objects), *page.prefixes):
        if not key.startswith(prefix):
            detail = f"the listing of {prefix!r} holds {key[:200]!r}, which was not asked for"
            raise ObjectProtocolError(detail, bucket=target.bucket)


def _token(about: Mapping[str, str], query: Mapping[str, Any], target: Target) -> str | None:
    if "IsTruncated" not in about:
        detail = f"{target.endpoint_url} answered a listing with something else: is it an S3 endpoint?"
        raise ObjectProtocolError(detail, bucket=target.bucket)
    more = _BOOLEANS.get(about["IsTruncated"].strip().lower())
    if more is None:
        detail = f"the listing says {about['IsTruncated'][:40]!r} where it should say whether there is more"
        raise ObjectProtocolError(detail, bucket=target.bucket)
    if not more:
        return None
    token = about.get("NextContinuationToken")
    if not token or token == query.get("ContinuationToken"):
        raise ObjectProtocolError("the listing says there is more but not where to go on", bucket=target.bucket)
    if len(token) > TOKEN_MAX_CHARACTERS:
        raise ObjectProtocolError("the listing says where to go on in too many words", bucket=target.bucket)
    return token


class _Names(dict[str, str]):
    """Names of elements without their namespace; the few there are come back thousands of times."""

    def __missing__(self, tag: str) -> str:
        name = self[tag] = tag.rpartition("}")[2]
        return name


def _fields(row: ET.Element, names: _Names) -> dict[str, str]:
    """Return the texts of a row's elements by their names."""
    return {names[child.tag]: child.text or "" for child in row}


def _info(bucket: str, row: Mapping[str, str], *, encoded: bool) -> ObjectInfo:
    key, size_bytes = _decoded(row["Key"], encoded=encoded), int(row["Size"])
    if size_bytes < 0:
        raise ObjectProtocolError(f"the store says that it has {size_bytes} bytes", bucket=bucket, key=key)
    mtime_s = _seconds(row.get("LastModified", ""))
    storage_class = row.get("StorageClass") or _STANDARD
    if storage_class == _STANDARD:
        storage_class = _STANDARD  # one string for a million rows
    etag = bare_etag(row.get("ETag"))
    if len(etag) > WORD_MAX_CHARACTERS or len(storage_class) > WORD_MAX_CHARACTERS:
        detail = "the listing has an entity tag or a storage class that is longer than any"
        raise ObjectProtocolError(detail, bucket=bucket, key=key)
    is_strong = bool(etag) and not etag.startswith("W/")
    return ObjectInfo(ObjectId(bucket, key, etag, size_bytes, 0 if is_strong else int(mtime_s)), mtime_s, storage_class)


def _decoded(text: str, *, encoded: bool) -> str:
    """Return a name; as in forms, a space may come as a plus sign."""
    if not encoded or ("%" not in text and "+" not in text):
        return text
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "surrogateescape")


def _seconds(text: str) -> float:
    """Return a date as seconds since the epoch, 0 where there is none."""
    if not text:
        return 0.0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = parse_timestamp(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
