"""What one mount of the mounter tells the driver: answers to its questions, and news when there are any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tigrismount.mounter.wire import failure_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tigrismount.holder.protocol import Message

    Say = Callable[..., None]
    """Sends a message to the driver, if there is one: type, descriptors, and members by name."""


class Report:
    """The voice of one mount.

    Args:
        mount_id: Its name.
        say: Sends a message.
    """

    def __init__(self, mount_id: str, say: Say) -> None:
        self._mount_id = mount_id
        self._say = say
        self._told: dict[str, Any] = {}
        self._is_hushed = False

    def hush(self) -> None:
        """Say no more but answers: the name is another mount's now, which must not be taken for lost with this one."""
        self._is_hushed = True

    def say(self, type_: str, fds: Sequence[int] = (), /, **body: object) -> None:
        """Say something about this mount."""
        if self._is_hushed and body.get("order") is None:
            return
        self._say(type_, fds, **{"id": self._mount_id, **body})

    def answer(self, question: Message, type_: str, /, **body: object) -> None:
        """Answer a question of the driver's."""
        self.say(type_, order=question.body.get("order"), **body)

    def fail(self, question: Message, kind: str, text: str) -> None:
        """Answer a question with why it could not be done."""
        self.answer(question, "failed", kind=failure_kind(kind), message=text)

    def state(self, *, serves: bool, degraded: str, reason: str, count: int, pid: int) -> None:
        """Say how the mount does, where that is another state than was said last."""
        state = {"serves": serves, "degraded": degraded, "reason": reason, "count": count, "pid": pid}
        if state != self._told:
            self._told = state
            self.say("state", **state)

    def forget(self) -> None:
        """Say the next state in any case: a driver that has heard nothing listens."""
        self._told = {}
