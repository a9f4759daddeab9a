"""One ranged GET as a value, and its answer, whoever sends it: a thread of this process, or a fetch process.

The request says everything that an answer depends on, the key to sign with and the headers included, so that whoever
sends it needs to know nothing else. Nothing is decided here: whether the answer is the range that was asked for, and
what to do where it is not, is for ``s3``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tigrismount.objects.body import BodyReader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tigrismount.objects.responses import Target


@dataclass(frozen=True, slots=True)
class RangeGet:
    """What to ask for."""

    arguments: Mapping[str, str]
    """Of boto3's ``get_object``."""
    target: Target
    """What the request is about, for messages."""
    signed: Mapping[str, str] = field(default_factory=dict)
    """Further headers that are signed."""
    unsigned: Mapping[str, str] = field(default_factory=dict)
    """Further headers that are not."""


class Body(Protocol):
    """The body of an answer; ``body.BodyReader`` says more."""

    def readinto(self, view: memoryview) -> int:
        """Read into *view* and return the count; zero only at the end."""

    def interrupt(self) -> None:
        """Make a read that hangs in another thread end now."""

    def close(self, *, complete: bool) -> None:
        """End the use of the body."""


class RangeAnswer(NamedTuple):
    """The answer's head, and its body on its way."""

    status: int
    """HTTP status, no error."""
    headers: Mapping[str, str]
    """Headers, names in lower case."""
    version_id: str | None
    """The version id that it named."""
    body: Body
    """To be closed."""


def range_answer(answer: Mapping[str, Any]) -> RangeAnswer:
    """Return boto3's *answer* to a GET that this process sent."""
    metadata = answer["ResponseMetadata"]
    body = BodyReader(answer["Body"])
    return RangeAnswer(metadata["HTTPStatusCode"], metadata["HTTPHeaders"], answer.get("VersionId"), body)
