"""Trouble on request: rules by which the embedded S3 server answers badly.

A rule says *which* requests (a regular expression on ``METHOD /bucket/key?query``), *which of those* (let ``skip``
pass, then hit ``count``) and *what happens*. Rules are data, so that a test in another process can post them as
JSON; the first rule that matches wins. What each action does to the client:

======== ==========================================================================================
status   an S3 error document with ``status`` and ``code``, the object is not touched
delay    the true answer, ``delay_s`` later
truncate the true header (with the full ``Content-Length``), ``after_bytes`` of the body, then a clean close
reset    the same, then a TCP reset
stall    the same, then silence for ``delay_s``, then a clean close
======== ==========================================================================================
"""

from __future__ import annotations

import re
import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

Action = Literal["status", "delay", "truncate", "reset", "stall"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRule:
    """One kind of trouble, for some requests."""

    match: str
    """Regular expression searched in ``METHOD /bucket/key?query``."""
    action: Action
    """What happens to a request that is hit."""
    skip: int = 0
    """Matching requests that pass unharmed first."""
    count: int = 1
    """Matching requests that are hit after those; -1 is all of them."""
    status: int = 503
    """HTTP status of action ``status``."""
    code: str = "SlowDown"
    """S3 error code of action ``status``."""
    delay_s: float = 0.0
    """Seconds that ``delay`` and ``stall`` last."""
    after_bytes: int = 0
    """Body bytes that ``truncate``, ``reset`` and ``stall`` let through."""
    access_key: str = ""
    """Only requests signed with this key; empty is any."""

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise ValueError(f"no such fault action: {self.action}")
        re.compile(self.match)

    def to_json(self) -> dict[str, Any]:
        """Return the rule as plain data."""
        return asdict(self)


class Rule(Protocol):
    """What every rule says about the requests it is for."""

    @property
    def match(self) -> str:
        """Regular expression searched in ``METHOD /bucket/key?query``."""

    @property
    def skip(self) -> int:
        """Matching requests that pass unharmed first."""

    @property
    def count(self) -> int:
        """Matching requests that are hit after those; -1 is all of them."""


RuleT = TypeVar("RuleT", bound=Rule)


class FaultBook(Generic[RuleT]):
    """The rules in force, with what each has seen; safe to ask from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[RuleT] = []
        self._seen: list[int] = []

    def replace(self, rules: list[RuleT]) -> None:
        """Put *rules* in force in place of all others, with nothing seen yet."""
        with self._lock:
            self._rules = rules
            self._seen = [0] * len(rules)

    def hit(self, request: str, *, concerns: Callable[[RuleT], bool] = lambda _: True) -> RuleT | None:
        """Return the rule that *request* falls to, and count it.

        Args:
            request: ``METHOD /bucket/key?query``.
            concerns: Tells of a rule whether it is about such a request at all.
        """
        with self._lock:
            for index, rule in enumerate(self._rules):
                if re.search(rule.match, request) and concerns(rule):
                    self._seen[index] += 1
                    position = self._seen[index] - rule.skip
                    if position > 0 and (rule.count < 0 or position <= rule.count):
                        return rule
        return None
