"""Learned orders: in which order a file was read, kept for its next load.

An order is kept twice: under the version that was read, and under the *shape* of its layout, which the next version
of the file, a sibling shard with layers of the same sizes, and the same model under another name have too. It is a
hint: it may be missing, damaged or wrong, and then costs what not having it costs.
"""

from __future__ import annotations

import hashlib
import logging
import struct
from typing import TYPE_CHECKING

from tigrismount.core.blockorder import decode
from tigrismount.core.fileplan import WHOLE
from tigrismount.errors import FormatError
from tigrismount.formats.shards import natural_order

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tigrismount.cache.base import RecordStore
    from tigrismount.core.blockorder import BlockOrder
    from tigrismount.core.layout import Layout
    from tigrismount.core.types import ObjectId

log = logging.getLogger(__name__)

TABLE = "orders"
"""Name of the record table."""
MAX_SHAPED_TENSORS = 20_000
"""Tensors of a layout whose shape is worked out, at about 4 µs each; larger files are known by their version."""


class Orders:
    """Keeps and finds orders.

    Args:
        records: Where they are kept.
    """

    def __init__(self, records: RecordStore) -> None:
        self._records = records
        self.found = 0
        """Orders that a load could follow."""
        self.kept = 0
        """Orders learned."""

    async def find(self, obj: ObjectId, layout: Layout | None) -> BlockOrder | None:
        """Return the order in which *obj*, or a file of its shape, was read last; None when nobody knows."""
        for key in _keys(obj, layout):
            order = _decoded(await self._records.get(TABLE, key), obj)
            if order is not None:
                self.found += 1
                return order
        return None

    async def was_partial(self, obj: ObjectId) -> bool:
        """Tell whether only a part of *obj* was read when it was read last; False where nobody knows."""
        for key in _keys(obj, None):
            order = _decoded(await self._records.get(TABLE, key), obj)
            if order is not None:
                return order.size_bytes < WHOLE * obj.size_bytes
        return False

    async def keep(self, obj: ObjectId, layout: Layout | None, order: BlockOrder) -> None:
        """Keep the order in which *obj* was read."""
        record = order.encode()
        for key in _keys(obj, layout):
            if not await self._records.put(TABLE, key, record):
                return
        self.kept += 1


def find_order(records: Mapping[bytes, bytes], obj: ObjectId, layout: Layout | None) -> BlockOrder | None:
    """Return what :meth:`Orders.find` would, from the *records* of a cache that nobody has open."""
    orders = (_decoded(records.get(key), obj) for key in _keys(obj, layout))
    return next((order for order in orders if order is not None), None)


def _decoded(record: bytes | None, obj: ObjectId) -> BlockOrder | None:
    if record is None:
        return None
    try:
        return decode(record, obj.size_bytes)
    except FormatError as exc:
        log.info("%s: %s", obj.key, exc)
        return None


def _keys(obj: ObjectId, layout: Layout | None) -> list[bytes]:
    """Return the keys that an order has: of the version, where it has a name that lasts, and of the shape."""
    keys = []
    if obj.cacheable:
        named = "\0".join((obj.bucket, obj.key, obj.etag, str(obj.size_bytes)))
        keys.append(b"v" + hashlib.sha256(named.encode("utf-8", "surrogatepass")).digest()[:20])
    if layout is not None and 1 < len(layout.tensors) <= MAX_SHAPED_TENSORS:
        keys.append(b"s" + _shape(layout))
    return keys


def order_by_name(layout: Layout) -> tuple[int, ...]:
    """Return the numbers of the tensors in the natural order of their names; empty where there are too many."""
    if len(layout.tensors) > MAX_SHAPED_TENSORS:
        return ()
    numbers = {tensor.name: number for number, tensor in enumerate(layout.tensors)}
    return tuple(numbers[name] for name in natural_order(numbers))


def _shape(layout: Layout) -> bytes:
    """Return a digest of where tensors lie and in which order their names are, whatever the names."""
    digest = hashlib.sha256()
    for tensor, number in zip(layout.tensors, order_by_name(layout), strict=True):
        start, stop = tensor.start - layout.data_start, tensor.stop - layout.data_start
        digest.update(struct.pack("<QQQ", start, stop, number))
    return digest.digest()[:20]
