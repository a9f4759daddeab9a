"""Running the engine inside a command: what ends it is one error, not a group of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from tigrismount.errors import TigrisMountError

T = TypeVar("T")


def run_engine(work: Callable[[], Awaitable[T]]) -> T:
    """Run *work* to its end and return what it returns.

    Raises:
        KeyboardInterrupt: Somebody pressed Ctrl-C.
        TigrisMountError: The first of ours that it raised, also out of a group.
    """
    import trio

    try:
        return trio.run(work)
    except BaseExceptionGroup as group:
        raise _most_telling(group) from group


def _most_telling(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the exception that says best why a group was raised."""
    leaves = list(_leaves(group))
    for kind in (KeyboardInterrupt, TigrisMountError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
