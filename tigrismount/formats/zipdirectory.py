"""The directory of a zip file whose members are stored as they are: names, sizes, and where their bytes lie.

The directory is at the end of the file and has the offset of each member's *local header*, but not how long that is:
writers pad it so that the data is aligned. Reading a header per member would be a request per tensor, which is what
makes ``torch.load`` slow over a network. We work it out from behind instead: a member's bytes end where the next
local header begins, but for the *data descriptor* that writers of streams put between, whose length follows from
flags in the directory. Files written otherwise, with holes between members, are caught by the look at the first and
last local header that ``torchzip`` takes.

What overlaps, points outside, is compressed, encrypted or split over disks is refused.

Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 to 4.5; miniz, as vendored in PyTorch.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING

from tigrismount.core.types import Extent
from tigrismount.errors import FormatError
from tigrismount.formats.parsing import FIRST_READ_BYTES, MAX_TENSORS

if TYPE_CHECKING:
    from collections.abc import Generator

LOCAL_SIGNATURE = b"PK\x03\x04"
LOCAL_BYTES = 30
"""A local header without its name and padding."""
_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_SIGNATURE = b"PK\x06\x07"
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_SIGNATURE = b"PK\x06\x06"
_ENTRY = struct.Struct("<4s6H3L5H2L")
_ENTRY_SIGNATURE = b"PK\x01\x02"
_LOCAL_LENGTHS = struct.Struct("<26x2H")
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFF_FFFF
"""A field whose value did not fit and is given in 64 bits elsewhere."""
_EXTRA_ZIP64 = 1
_FLAG_ENCRYPTED, _FLAG_DESCRIPTOR = 1, 8
_STORED = 0
_DESCRIPTOR_BYTES = {False: 16, True: 24}
"""Data descriptor with its signature: with sizes of 32 and of 64 bits."""
_MAX_LOCAL_BYTES = LOCAL_BYTES + 2 * 0xFFFF
"""A local header with the longest name and padding."""
_OFFSET = attrgetter("header_start")


@dataclass(frozen=True, slots=True)
class Member:
    """One file in the archive."""

    name: str
    """Its whole name."""
    header_start: int
    """First byte of its local header."""
    size_bytes: int
    """Bytes of it."""
    tail_bytes: int
    """Bytes between its data and whatever comes next."""
    stored: bool
    """Whether its bytes lie in the file as they are."""
    start: int = 0
    """First byte of its data."""

    @property
    def stop(self) -> int:
        """One past the last byte of its data."""
        return self.start + self.size_bytes


def read_members(size_bytes: int) -> Generator[Extent, bytes, tuple[Member, ...]]:
    """Read the directory of a file of *size_bytes*; return its members in the order they lie in the file."""
    tail_start = max(0, size_bytes - FIRST_READ_BYTES)
    tail = yield Extent(tail_start, size_bytes)
    count, start, stop = _find_directory(tail, tail_start, size_bytes)
    if start >= tail_start:
        raw = tail[start - tail_start : stop - tail_start]
    else:
        raw = yield Extent(start, stop)
    return _place(_entries(raw, count, start), start)


def check_local_header(raw: bytes, member: Member) -> None:
    """Compare a member's local header with what was worked out for it.

    Args:
        raw: ``LOCAL_BYTES`` bytes from ``member.header_start`` on.
        member: The member.

    Raises:
        FormatError: Its data begins elsewhere.
    """
    name_bytes, extra_bytes = _LOCAL_LENGTHS.unpack(raw)
    found = member.header_start + LOCAL_BYTES + name_bytes + extra_bytes
    if not raw.startswith(LOCAL_SIGNATURE) or found != member.start:
        raise FormatError(f"member {member.name!r:.80} is not where we expect it", offset=member.header_start)


def _find_directory(tail: bytes, tail_start: int, size_bytes: int) -> tuple[int, int, int]:
    """Return the count of the directory's entries, and its extent."""
    where = tail.rfind(_END_SIGNATURE, 0, max(0, len(tail) - _END.size + len(_END_SIGNATURE)))
    if where < 0:
        raise FormatError("has no zip directory at its end: it is truncated", offset=size_bytes)
    _, disk, first_disk, here, count, length, start, comment = _END.unpack_from(tail, where)
    end = tail_start + where
    if end + _END.size + comment != size_bytes:
        raise FormatError("something follows the zip directory", offset=end)
    if disk not in (0, _FULL_16) or first_disk not in (0, _FULL_16) or here != count:
        raise FormatError("is split over several disks", offset=end)
    locator = tail[max(0, where - _LOCATOR.size) : where]
    if len(locator) == _LOCATOR.size and locator.startswith(_LOCATOR_SIGNATURE):
        wide_start, wide = _wide_end(_LOCATOR.unpack(locator)[2], tail, tail_start)
        narrow_and_full = ((count, _FULL_16), (length, _FULL_32), (start, _FULL_32))
        for (narrow, full), value in zip(narrow_and_full, wide, strict=True):
            if narrow not in (full, value):
                raise FormatError("the two ends of the zip directory do not agree", offset=end)
        (count, length, start), end = wide, wide_start
    if start + length != end or count * _ENTRY.size > length:
        raise FormatError("the zip directory is not where its end says", offset=start)
    if count > MAX_TENSORS:
        raise FormatError(f"{count} members are above the {MAX_TENSORS} we plan for", offset=end)
    return count, start, start + length


def _wide_end(start: int, tail: bytes, tail_start: int) -> tuple[int, tuple[int, int, int]]:
    """Return where the 64-bit end record lies, and its count, length and start of the directory."""
    raw = tail[start - tail_start :][: _END64.size] if start >= tail_start else b""
    if len(raw) < _END64.size or not raw.startswith(_END64_SIGNATURE):
        raise FormatError("has no 64-bit zip directory where it says", offset=start)
    _, _, _, _, _, _, here, count, length, directory_start = _END64.unpack(raw)
    if here != count:
        raise FormatError("is split over several disks", offset=start)
    return start, (count, length, directory_start)


def _entries(raw: bytes, count: int, start: int) -> list[Member]:
    """Return the members as the directory has them, not yet placed."""
    members, position, names = [], 0, set()
    for _ in range(count):
        if position + _ENTRY.size > len(raw):
            raise FormatError("the zip directory ends early", offset=start + position)
        fields = _ENTRY.unpack_from(raw, position)
        name_stop = position + _ENTRY.size + fields[10]
        extra_stop = name_stop + fields[11]
        if fields[0] != _ENTRY_SIGNATURE or extra_stop > len(raw):
            raise FormatError("the zip directory is damaged", offset=start + position)
        name = raw[position + _ENTRY.size : name_stop].decode("utf-8", "replace")
        if name in names:
            raise FormatError(f"member {name!r:.80} is given twice", offset=start + position)
        names.add(name)
        members.append(_member(name, fields, raw[name_stop:extra_stop], start + position))
        position = extra_stop + fields[12]
    return members


def _member(name: str, fields: tuple[int, ...], extra: bytes, offset: int) -> Member:
    flags, method, packed_bytes, size_bytes, header_start = fields[3], fields[4], fields[8], fields[9], fields[16]
    if flags & _FLAG_ENCRYPTED:
        raise FormatError(f"member {name!r:.80} is encrypted", offset=offset)
    wide = _zip64_values(extra)
    descriptor_bytes = _DESCRIPTOR_BYTES[bool(wide)] if flags & _FLAG_DESCRIPTOR else 0
    try:  # each field that did not fit has its value there, in this order
        size_bytes = wide.pop(0) if size_bytes == _FULL_32 else size_bytes
        packed_bytes = wide.pop(0) if packed_bytes == _FULL_32 else packed_bytes
        header_start = wide.pop(0) if header_start == _FULL_32 else header_start
    except IndexError as exc:
        raise FormatError(f"member {name!r:.80} lacks its 64-bit fields", offset=offset) from exc
    stored = method == _STORED
    if stored and packed_bytes != size_bytes:
        raise FormatError(f"member {name!r:.80} is stored in another size than its own", offset=offset)
    return Member(name, header_start, packed_bytes, descriptor_bytes, stored)


def _zip64_values(extra: bytes) -> list[int]:
    """Return the 64-bit numbers of an entry's extra fields."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == _EXTRA_ZIP64:
            raw = extra[position : position + length]
            return list(struct.unpack(f"<{len(raw) // 8}Q", raw[: len(raw) // 8 * 8]))
        position += length
    return []


def _place(members: list[Member], directory_start: int) -> tuple[Member, ...]:
    """Work out where each member's data begins, from where the next thing does."""
    members.sort(key=_OFFSET)
    stops = [after.header_start for _, after in pairwise(members)] + [directory_start]
    placed = []
    for member, stop in zip(members, stops, strict=True):
        start = stop - member.tail_bytes - member.size_bytes
        # The name is as long in the local header; between it and the data there is only padding.
        least = member.header_start + LOCAL_BYTES + len(member.name.encode())
        if not least <= start <= member.header_start + _MAX_LOCAL_BYTES:
            raise FormatError(
                f"member {member.name!r:.80} leaves a hole or overlaps another", offset=member.header_start
            )
        placed.append(replace(member, start=start))
    return tuple(placed)
