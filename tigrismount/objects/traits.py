"""What the answers tell about who gives them: Tigris itself, its gateway TAG, or some other cache on the way.

Tigris's own headers may be sent only where they are understood, and a cache on the way changes what an answer is worth:
TAG ignores ``If-Match`` and the snapshot header on a hit, and answers with old bytes after an overwrite or a delete. So
every answer is looked at; what was seen once holds for the life of the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tigrismount.objects.endpoints import is_tigris

if TYPE_CHECKING:
    from collections.abc import Mapping

_TAG_WORDS = frozenset({"HIT", "MISS", "REVALIDATED", "BYPASS", "DISABLED"})
"""The values of TAG's ``X-Cache``; other caches put a host name behind the word."""


class StoreTraits:
    """What is known of the store behind an endpoint; written by request threads, read by all.

    Args:
        endpoint_url: Whose host tells something before the first answer does.
    """

    def __init__(self, endpoint_url: str) -> None:
        self._endpoint_url = endpoint_url
        self._is_tigris = is_tigris(endpoint_url)
        self.cache = ""
        """What caches on the way, for people: ``TAG``, ``a caching proxy``, or nothing seen."""

    @property
    def is_tigris(self) -> bool:
        """Whether Tigris's own request headers are understood, as far as is known by now."""
        return self._is_tigris or self.cache == "TAG"

    @property
    def may_lag(self) -> bool:
        """Whether an answer may be about an older version than the store has, so that asking again is worth it."""
        return self._is_tigris or bool(self.cache)

    def observe(self, headers: Mapping[str, str]) -> None:
        """Learn from an answer.

        Args:
            headers: Its headers; any mapping that ignores case, or has names in lower case.
        """
        if "tigris" in headers.get("server", "").lower():
            self._is_tigris = True
        word = headers.get("x-cache", "").strip()
        if word and self.cache != "TAG":
            self.cache = "TAG" if word.upper() in _TAG_WORDS else "a caching proxy"

    def notes(self) -> list[str]:
        """Return what ``status`` should say of it."""
        return [f"behind {self.cache}: {self._endpoint_url} answers with X-Cache"] if self.cache else []
