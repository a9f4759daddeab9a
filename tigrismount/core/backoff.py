"""How long to wait before a request is sent again.

Full jitter: the wait is drawn evenly from zero to a ceiling that doubles with each failure in a row. Clients that
failed together so come back spread out, and the mean load on a store in trouble falls by half each round. What the
store asks for (``Retry-After``) is waited first and the jitter added to it, or all clients told "2 s" would return
in the same instant.

Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; RFC 9110 section 10.2.3.
"""

from __future__ import annotations

BASE_S = 0.1
"""First ceiling: a few round trips to a near region, so that a single lost packet costs little."""

CAP_S = 5.0
"""Highest ceiling: a store that comes back is noticed within seconds."""

RETRY_AFTER_CAP_S = 30.0
"""Longest ``Retry-After`` that is honoured; a wrong or hostile header must not park a read for its whole deadline."""

_DOUBLINGS = 32
"""Enough to pass any cap; bounds the power for callers that fail thousands of times."""


def backoff_s(
    failures: int, draw: float, *, retry_after_s: float = 0.0, base_s: float = BASE_S, cap_s: float = CAP_S
) -> float:
    """Return the seconds to wait after the last of *failures* failures in a row.

    Args:
        failures: Failures in a row, at least 1.
        draw: Random number in ``[0, 1)``.
        retry_after_s: What the store asked for, 0 when it did not.
        base_s: Ceiling after the first failure.
        cap_s: Highest ceiling.

    Returns:
        At least the honoured part of *retry_after_s*, at most *cap_s* more.
    """
    ceiling_s = min(cap_s, base_s * 2.0 ** min(failures - 1, _DOUBLINGS))
    return min(max(retry_after_s, 0.0), RETRY_AFTER_CAP_S) + draw * ceiling_s
