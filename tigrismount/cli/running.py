"""Running the engine inside a command: what ends it is one error, not a group of them."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from tigrismount.errors import TigrisMountError

if TYPE_CHECKING:
    from types import FrameType

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


@contextmanager
def ended_as_interrupted() -> Iterator[None]:
    """Have SIGTERM, and a terminal that goes, end the block as Ctrl-C does: what was made in it is taken down."""

    def interrupt(_number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)  # which trio has its own of; a shell's background job has none
        if not callable(handler):
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    signals = [signal.SIGTERM, signal.SIGHUP]
    before = {number: found for number in signals if (found := signal.getsignal(number)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
