"""The suites by name: each runs its variants once per round, and says in the end what they mean.

The names are those of the targets that every release is held to; what each compares is in docs/benchmarks.md.
"""

from __future__ import annotations

from benchmarks.suite import Suite
from benchmarks.suites import (
    again,
    amplification,
    beside,
    cold,
    fill,
    first_bytes,
    listing,
    memory,
    over_memory,
    pages,
    passthrough,
    published,
    push,
    reopened,
    starting,
    tls,
    together,
)

SUITES = {
    "p1": Suite(cold.run, cold.rows),
    "p2": Suite(beside.run, beside.rows),
    "p3": Suite(again.run, again.rows),
    "p4": Suite(reopened.run, reopened.rows),
    "p6": Suite(first_bytes.run, first_bytes.rows),
    "p7": Suite(amplification.run, amplification.rows),
    "p8": Suite(together.run, together.rows),
    "p9": Suite(memory.run, memory.rows),
    "p10": Suite(listing.run, listing.rows),
    "p11": Suite(starting.run, starting.rows),
    "fio": Suite(published.run, published.rows),
    "pages": Suite(pages.run, pages.rows),
    "passthrough": Suite(passthrough.run, passthrough.rows),
    "push": Suite(push.run, push.rows),
    "stub": Suite(over_memory.run, over_memory.rows),
    "tls": Suite(tls.run, tls.rows),
    "warm": Suite(fill.run, fill.rows),
}
"""P5, the daemon's CPU, is counted by p1 and p3."""
