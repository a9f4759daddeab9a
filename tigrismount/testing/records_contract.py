"""What every ``RecordStore`` must do, as tests: subclass, say how to open one, and inherit them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tigrismount.cache.kept import TableBounds

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from tigrismount.cache.base import RecordStore

BOUNDS = {
    "orders": TableBounds(entries=4, size_bytes=100_000),
    "pins": TableBounds(entries=2, size_bytes=100_000, drops_oldest=False),
    "loads": TableBounds(entries=1000, size_bytes=10_000),
    "checksums": TableBounds(entries=3, size_bytes=100_000, drops_last=b"bad/"),
}
"""Tables small enough to fill."""


class RecordStoreContract:
    """The specification of ``cache.base.RecordStore``."""

    def open_records(self) -> AbstractAsyncContextManager[RecordStore]:
        """Open a store with the tables of ``BOUNDS``; what an earlier call of the same test kept is there."""
        raise NotImplementedError

    async def test_what_is_put_is_found_until_deleted(self) -> None:
        """A value comes back, a second put replaces it, delete forgets it."""
        async with self.open_records() as records:
            assert await records.get("orders", b"a") is None
            assert await records.put("orders", b"a", b"1")
            assert await records.put("orders", b"a", b"")
            assert await records.get("orders", b"a") == b""
            await records.delete("orders", b"a")
            await records.delete("orders", b"a")
            assert await records.get("orders", b"a") is None

    async def test_a_restart_loses_nothing(self) -> None:
        """What one process kept the next one finds."""
        async with self.open_records() as records:
            await records.put("orders", b"a", b"1")
        async with self.open_records() as records:
            assert await records.items("orders") == [(b"a", b"1")]

    async def test_tables_are_strangers(self) -> None:
        """The same key in another table is another record."""
        async with self.open_records() as records:
            await records.put("orders", b"a", b"1")
            assert await records.get("loads", b"a") is None
            assert await records.items("loads") == []

    async def test_items_come_in_key_order(self) -> None:
        """Only those with the prefix, sorted, no more than the limit; keys of any length, alike for long."""
        keys = [
            b"",
            b"x",
            b"x" * 399,
            b"x" * 400,
            b"x" * 401,
            b"x" * 900 + b"a",
            b"x" * 900 + b"b",
            b"y",
            b"\xff" * 1024,
        ]
        async with self.open_records() as records:
            for key in reversed(keys):
                assert await records.put("loads", key, b"v" + key[-1:])
            assert [key for key, _ in await records.items("loads") or ()] == keys
            assert await records.items("loads", b"y") == [(b"y", b"vy")]
            for prefix_bytes in (1, 399, 400, 401, 900):
                expected = [key for key in keys if key.startswith(b"x" * prefix_bytes)]
                for limit in range(9):
                    found = await records.items("loads", b"x" * prefix_bytes, limit) or ()
                    assert [key for key, _ in found] == expected[:limit]
            for key in keys:
                assert await records.get("loads", key) == b"v" + key[-1:]

    async def test_a_full_table_drops_what_was_put_longest_ago(self) -> None:
        """Putting anew counts, reading does not."""
        async with self.open_records() as records:
            for key in (b"a", b"b", b"c", b"d", b"a", b"e"):
                assert await records.put("orders", key, key)
                await records.get("orders", b"b")
            assert [key for key, _ in await records.items("orders") or ()] == [b"a", b"c", b"d", b"e"]

    async def test_what_is_to_go_last_goes_last(self) -> None:
        """Mutation: versions that were found right since, a hundred thousand, take the refusal of another one back."""
        async with self.open_records() as records:
            for key in (b"bad/a", b"ok/b", b"ok/c", b"ok/d", b"ok/e"):
                assert await records.put("checksums", key, key)
            assert [key for key, _ in await records.items("checksums") or ()] == [b"bad/a", b"ok/d", b"ok/e"]
            for key in (b"bad/d", b"bad/c", b"bad/b"):
                assert await records.put("checksums", key, key)
            assert [key for key, _ in await records.items("checksums") or ()] == [b"bad/b", b"bad/c", b"bad/d"]
            assert await records.put("checksums", b"ok/f", b"")
            assert [key for key, _ in await records.items("checksums") or ()] == [b"bad/b", b"bad/c", b"ok/f"]

    async def test_bytes_are_bounded_too(self) -> None:
        """Large records push out more than one; one of more than a quarter of the bound is not kept."""
        async with self.open_records() as records:
            assert not await records.put("loads", b"a", bytes(2501))
            for number in range(40):
                assert await records.put("loads", b"%d" % number, bytes(2400))
                assert sum(len(value) for _, value in await records.items("loads") or ()) <= 10_000
            assert await records.get("loads", b"39") is not None

    async def test_pins_are_never_dropped(self) -> None:
        """A full table of pins takes no more, but those it has can change."""
        async with self.open_records() as records:
            assert await records.put("pins", b"a", b"1")
            assert await records.put("pins", b"b", b"1")
            assert not await records.put("pins", b"c", b"1")
            assert await records.put("pins", b"a", b"2")
            assert await records.items("pins") == [(b"a", b"2"), (b"b", b"1")]

    async def test_unknown_tables_are_mistakes(self) -> None:
        """A table that nobody has bounded would grow for ever."""
        async with self.open_records() as records:
            with pytest.raises(ValueError, match="no table"):
                await records.put("other", b"a", b"1")
            with pytest.raises(ValueError, match="no table"):
                await records.get("other", b"a")
