"""A PyTorch checkpoint (``torch.save``): a zip file with the bytes of each storage in a member ``data/N``.

The members are the extents; the pickle beside them (``data.pkl``) gives names, dtypes and shapes, and is read as data
(``pickletrace``), never unpickled. Several tensors may share one storage, tied weights or slices: then the storage is
the extent that is planned by, and the tensors are views of it.

Reads: the head of the file, which usually holds the pickle too, its tail with the directory, and the local header of
the first and the last storage, as a check that offsets were worked out rightly.

Source: PyTorch ``torch/serialization.py``, ``caffe2/serialize/inline_container.cc``.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tigrismount.core.layout import Layout, TensorExtent
from tigrismount.core.types import Extent
from tigrismount.errors import ForeignFormatError, FormatError
from tigrismount.formats.parsing import Parser, read_first
from tigrismount.formats.pickletrace import Traced, trace
from tigrismount.formats.zipdirectory import LOCAL_BYTES, LOCAL_SIGNATURE, Member, check_local_header, read_members

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

MAX_PICKLE_BYTES = 4 << 20
"""Longest pickle that is read for names, some 20,000 tensors; beyond that storages go by their number."""
_PICKLE = "data.pkl"
_STORAGES = "data/"
_RAW = "U8"
"""Element type of a storage that no tensor takes as a whole."""


def parse(size_bytes: int) -> Parser:
    """Return a parser of a file of *size_bytes*."""
    head = yield from read_first(size_bytes)
    if not head.startswith(LOCAL_SIGNATURE):
        # Older checkpoints are bare pickles, and many other things are called .bin.
        raise ForeignFormatError("is no zip file, so no PyTorch checkpoint of 1.6 or later", offset=0)
    members = yield from read_members(size_bytes)
    pickle = next((m for m in members if m.name.count("/") == 1 and m.name.endswith("/" + _PICKLE)), None)
    if pickle is None:
        raise ForeignFormatError("is a zip file without data.pkl, so no PyTorch checkpoint", offset=0)
    prefix = pickle.name.removesuffix(_PICKLE) + _STORAGES
    storages = {m.name.removeprefix(prefix): m for m in members if m.name.startswith(prefix)}
    yield from _check(storages, head)
    traced = yield from _trace(pickle, head)
    return _layout(storages, traced)


def _check(storages: dict[str, Member], head: bytes) -> Generator[Extent, bytes, None]:
    placed = list(storages.values())
    for member in placed:
        if not member.stored:
            raise FormatError(f"storage {member.name!r:.80} is compressed", offset=member.header_start)
    for member in {m.name: m for m in (*placed[:1], *placed[-1:])}.values():
        check_local_header((yield from _bytes(member.header_start, member.header_start + LOCAL_BYTES, head)), member)


def _trace(pickle: Member, head: bytes) -> Generator[Extent, bytes, list[Traced]]:
    """Return what the pickle says, nothing where it cannot be followed."""
    if not pickle.stored or pickle.size_bytes > MAX_PICKLE_BYTES:
        return []
    data = yield from _bytes(pickle.start, pickle.stop, head)
    try:
        return trace(data)
    except FormatError:
        return []


def _bytes(start: int, stop: int, head: bytes) -> Generator[Extent, bytes, bytes]:
    """Return bytes of the file, from its head where they are there."""
    if stop <= len(head):
        return head[start:stop]
    return (yield Extent(start, stop))


def _layout(storages: dict[str, Member], traced: Iterable[Traced]) -> Layout:
    users: defaultdict[str, list[TensorExtent]] = defaultdict(list)
    names: set[str] = set()
    for tensor in traced:
        extent = _extent(tensor, storages.get(tensor.storage))
        if extent is not None and extent.name not in names:
            names.add(extent.name)
            users[tensor.storage].append(extent)
    tensors, views = [], []
    for key, member in storages.items():
        whole = next((t for t in users[key] if (t.start, t.stop) == (member.start, member.stop)), None)
        name = _STORAGES + key
        while whole is None and name in names:  # somebody named a tensor like a storage
            name += "'"
        names.add(name)
        tensors.append(whole or TensorExtent(name, _RAW, (member.size_bytes,), member.start, member.stop))
        views += [tensor for tensor in users[key] if tensor is not whole]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.stop))
    return Layout(tensors[0].start if tensors else 0, tuple(tensors), tuple(views))


def _extent(tensor: Traced, member: Member | None) -> TensorExtent | None:
    """Return where a tensor lies in its storage, None when it does not lie in it."""
    if member is None:
        return None
    elements = 0 if 0 in tensor.shape else 1
    if elements:
        elements += sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    start = member.start + tensor.offset * tensor.item_bytes
    stop = start + elements * tensor.item_bytes
    return TensorExtent(tensor.name, tensor.dtype, tensor.shape, start, stop) if stop <= member.stop else None
