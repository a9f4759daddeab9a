"""How each file is open in the kernel: through its page cache, or onto a file of the disk cache (FUSE passthrough).

The kernel has two rules, and answers an open that breaks one with EIO: all opens of a node at one time are of one kind,
and all passthrough opens of it name one backing file. So the kind is chosen by who opens a file that is not open, and
whoever comes while it is gets the same.

The rules outlive a worker, so each change is returned as an ``OpenState`` to be written down for the next one
(``core.journal``). An open is counted, and written down, before the kernel hears of it, a release after the kernel has
its answer: a worker that dies between the two leaves a count too high and never one too low. Too high costs speed: the
node keeps its kind until the kernel forgets it.

A backing file may outlive the last release: what is mapped stays mapped when its file is closed. So a node keeps its
backing id until :meth:`OpenModes.back`, which is for somebody else to find the moment for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class OpenState:
    """How one node is open."""

    node_id: int
    """The node."""
    opens: int = 0
    """How often it is open; may be too high behind a takeover."""
    is_through: bool = False
    """Whether, where it is open, reads go to the backing file."""
    backing_id: int = 0
    """The kernel's number of the backing file, 0 where there is none."""
    file: tuple[int, int] = (0, 0)
    """Device and inode number of the backing file; zeros where nobody has noted them."""
    is_proven: bool = True
    """Whether nothing of the backing file needs a look; one that a worker took over may be another than was proven."""

    @property
    def is_passthrough(self) -> bool:
        """Whether it is open, and its reads go to a backing file."""
        return self.opens > 0 and self.is_through

    @property
    def is_cached(self) -> bool:
        """Whether it is open, and its reads come to us."""
        return self.opens > 0 and not self.is_through


class OpenModes:
    """All nodes that are open or have a backing file."""

    def __init__(self) -> None:
        self._states: dict[int, OpenState] = {}

    def of(self, node_id: int) -> OpenState:
        """Return how a node is open."""
        return self._states.get(node_id) or OpenState(node_id)

    def states(self) -> list[OpenState]:
        """Return all states that a successor must know."""
        return list(self._states.values())

    def restore(self, state: OpenState) -> None:
        """Take over a state that an earlier process wrote down; the last one of a node holds."""
        self._keep(state)

    def opened(self, node_id: int, *, through: bool) -> OpenState:
        """Count an open.

        Args:
            node_id: The node.
            through: Whether its reads go to the node's backing file.

        Raises:
            ValueError: It is open in the other way, or has no backing file: the kernel would answer with EIO.
        """
        state = self.of(node_id)
        if state.opens and state.is_through != through:
            raise ValueError(f"node {node_id} is open in the other way: {state}")
        if through and not state.backing_id:
            raise ValueError(f"node {node_id} has no backing file")
        return self._keep(replace(state, opens=state.opens + 1, is_through=through))

    def released(self, node_id: int) -> OpenState:
        """Count a release; one of a node that is not open is of an open that nobody remembers."""
        state = self.of(node_id)
        return self._keep(replace(state, opens=max(0, state.opens - 1)))

    def back(
        self, node_id: int, backing_id: int, file: tuple[int, int] = (0, 0), *, is_proven: bool = True
    ) -> OpenState:
        """Give a node that is not open a backing file, or another one; 0 takes it away.

        Args:
            node_id: The node.
            backing_id: The kernel's number of the file.
            file: Its device and inode number.
            is_proven: Whether nothing of the file needs a look.

        Raises:
            ValueError: It is open onto one.
        """
        state = self.of(node_id)
        if state.is_passthrough:
            raise ValueError(f"node {node_id} is open: {state}")
        return self._keep(replace(state, backing_id=backing_id, file=file, is_proven=is_proven))

    def _keep(self, state: OpenState) -> OpenState:
        if state.opens or state.backing_id:
            self._states[state.node_id] = state
        else:
            self._states.pop(state.node_id, None)
        return state
