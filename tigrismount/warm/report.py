"""What warming says about itself: while it runs, and at its end. Plain values that travel as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that was asked for and is not in the cache."""

    what: str
    """The object, or the argument that names nothing: ``s3://bucket/key``."""
    reason: str
    """Why, and what to do next; one line."""
    not_found: bool = False
    """Whether the argument named nothing at all."""


@dataclass(slots=True)
class Progress:
    """How far it is; changed as it goes on, and read by whoever shows it."""

    phase: str = "listing"
    """``listing``, ``comparing`` (with what is cached), ``fetching`` or ``checking``."""
    objects: int = 0
    """Objects that were asked for, as far as they are known."""
    objects_done: int = 0
    """Of those, how many are wholly cached."""
    bytes: int = 0
    """Bytes of all of them."""
    cached_bytes: int = 0
    """Bytes that were cached before."""
    wanted_bytes: int = 0
    """Bytes to fetch, or to check."""
    done_bytes: int = 0
    """Of those, how many are done."""


@dataclass(slots=True)
class WarmReport:
    """How it ended."""

    objects: int = 0
    """Objects that were asked for."""
    bytes: int = 0
    """Their bytes."""
    cached_bytes: int = 0
    """Bytes that were in the cache before."""
    fetched_bytes: int = 0
    """Bytes that were brought into it."""
    checked_bytes: int = 0
    """Bytes that were read back and compared with their checksums."""
    seconds: float = 0.0
    """How long it took."""
    fetch_seconds: float = 0.0
    """Of that, from the first GET until the last block was on the disk."""
    requests: dict[str, int] = field(default_factory=dict)
    """Requests to the store, by kind; of everybody who uses the same client."""
    failures: list[Failure] = field(default_factory=list)
    """What is not in the cache; empty when all is well."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> WarmReport:
        """Return what ``to_json`` was called on; members of another release are left out."""
        known = {name: data[name] for name in cls.__slots__ if name in data}
        known["failures"] = [
            Failure(**{name: failure[name] for name in Failure.__slots__ if name in failure})
            for failure in known.get("failures", ())
        ]
        return cls(**known)
