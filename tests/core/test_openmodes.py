"""The rules by which the kernel opens one node, whatever comes in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tigrismount.core.journal import MAGIC, decode_records, encode_record
from tigrismount.core.openmodes import OpenModes, OpenState


def test_a_node_that_is_open_is_opened_in_the_same_way():
    modes = OpenModes()
    modes.opened(7, through=False)
    modes.back(7, 3)

    with pytest.raises(ValueError, match="other way"):
        modes.opened(7, through=True)
    assert modes.opened(7, through=False) == OpenState(7, opens=2, is_through=False, backing_id=3)


def test_the_way_may_change_once_nobody_has_it_open():
    modes = OpenModes()
    modes.back(7, 3)
    modes.opened(7, through=True)
    modes.released(7)

    assert modes.opened(7, through=False).is_cached


def test_without_a_backing_file_nothing_is_opened_onto_it():
    with pytest.raises(ValueError, match="no backing file"):
        OpenModes().opened(7, through=True)


def test_a_backing_file_stays_while_the_node_is_open_onto_it_and_after():
    modes = OpenModes()
    modes.back(7, 3)
    modes.opened(7, through=True)

    with pytest.raises(ValueError, match="is open"):
        modes.back(7, 0)
    assert modes.released(7) == OpenState(7, is_through=True, backing_id=3)
    assert modes.states() == [OpenState(7, is_through=True, backing_id=3)]
    modes.back(7, 0)
    assert modes.states() == []


def test_a_backing_file_that_nobody_has_proven_is_so_for_a_successor_too():
    """Mutation: a successor opens files onto it without a look."""
    modes = OpenModes()
    modes.back(7, 3, is_proven=False)
    doubtful = modes.opened(7, through=False)
    records = decode_records(MAGIC + encode_record(doubtful) + encode_record(modes.back(7, 4)))
    assert [record for record, _ in records] == [
        OpenState(7, opens=1, backing_id=3, is_proven=False),
        OpenState(7, opens=1, backing_id=4),
    ]


def test_a_release_that_nobody_counted_the_open_of_changes_nothing():
    modes = OpenModes()
    assert modes.released(7) == OpenState(7)
    assert modes.states() == []


ACTIONS = st.tuples(st.sampled_from(["through", "cached", "release", "back", "unback"]), st.integers(2, 4))


@given(st.lists(ACTIONS, max_size=40))
def test_what_the_kernel_would_refuse_is_refused_here_and_a_successor_knows_the_same(actions: list[tuple[str, int]]):
    modes, written = OpenModes(), MAGIC
    for action, node_id in actions:
        before = modes.of(node_id)
        try:
            if action in ("through", "cached"):
                state = modes.opened(node_id, through=action == "through")
                assert not before.opens or before.is_through == state.is_through, "two ways at once"
                assert not state.is_through or state.backing_id
            elif action == "release":
                state = modes.released(node_id)
            else:
                state = modes.back(node_id, node_id * 10 if action == "back" else 0)
                assert not before.is_passthrough
        except ValueError:
            assert modes.of(node_id) == before
            continue
        written += encode_record(state)

    successor = OpenModes()
    for record, _ in decode_records(written):
        assert isinstance(record, OpenState)
        successor.restore(record)
    assert sorted(map(repr, successor.states())) == sorted(map(repr, modes.states()))


def test_a_successor_knows_which_file_it_is_and_takes_a_record_without_for_one_that_nobody_knows():
    """Mutation: without it no successor can tell that it has another file than the kernel."""
    known = OpenModes().back(7, 3, (1 << 40, 1 << 63))
    unknown = OpenState(8, opens=1, is_through=True, backing_id=4)
    data = MAGIC + encode_record(known) + encode_record(unknown)
    assert [item for item, _ in decode_records(data)] == [known, unknown]
