from __future__ import annotations

import pytest

from tigrismount.errors import MountError
from tigrismount.mounter.wire import Order, failure_kind

ORDER = Order(
    mount_id="m",
    source="s3://models",
    options={"push": "off"},
    mountpoint="/m",
    secret={"K": "v"},
    snapshot_version="7",
)


def test_an_order_travels_whole():
    assert Order.from_values(ORDER.to_values()) == ORDER


@pytest.mark.parametrize(
    "change",
    [{"id": 1}, {"source": None}, {"options": ["a"]}, {"options": {"a": 1}}, {"secret": "x"}, {"snapshot_version": 7}],
)
def test_what_is_no_order_is_refused(change):
    with pytest.raises(MountError, match="does not know"):
        Order.from_values({**ORDER.to_values(), **change})


def test_members_of_later_versions_are_passed_over_and_older_ones_lack_some():
    values = {**ORDER.to_values(), "later": 1}
    del values["snapshot_version"]
    assert Order.from_values(values).snapshot_version is None


def test_a_kind_of_failure_that_is_none_is_ours():
    assert failure_kind("denied") == "denied"
    assert failure_kind("misfortune") == failure_kind(None) == "internal"
