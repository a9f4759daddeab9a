from __future__ import annotations

import pytest

from tigrismount.bench.sample import choose
from tigrismount.core.types import ObjectId
from tigrismount.errors import MountError

MIB = 1 << 20


def obj(name: str, mib: int) -> ObjectId:
    return ObjectId(bucket="b", key=name, etag="e", size_bytes=mib * MIB)


def test_whole_objects_are_taken_while_twice_their_bytes_fit():
    sample = choose([obj("a", 300), obj("b", 100), obj("c", 80), obj("d", 5)], 400 * MIB)
    assert [extent.obj.key for extent in sample.extents] == ["b", "c", "d"]
    assert sample.is_whole
    assert 2 * sample.size_bytes <= 400 * MIB


def test_all_there_is_is_taken_where_it_fits():
    sample = choose([obj("a", 3), obj("b", 1)], 2048 * MIB)
    assert (sample.size_bytes, sample.is_whole) == (4 * MIB, True)


def test_of_an_object_too_large_the_end_is_read():
    """Behind it lies nothing that a mount could fetch ahead, so the bound holds."""
    sample = choose([obj("a", 5000), obj("b", 2)], 400 * MIB)
    [extent] = sample.extents
    assert (extent.obj.key, sample.is_whole) == ("a", False)
    assert extent.start + extent.size_bytes == 5000 * MIB
    assert 2 * sample.size_bytes <= 400 * MIB


@pytest.mark.parametrize("objects", [[], [obj("config.json", 0)]])
def test_what_says_nothing_is_refused(objects):
    with pytest.raises(MountError, match="no object of 1 MiB"):
        choose(objects, 400 * MIB)
