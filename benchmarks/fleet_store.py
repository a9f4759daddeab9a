"""What stands behind the nodes of ``benchmarks.fleet``: a store of stated capacity, and TAG in front of it.

Nothing here moves bytes. Each answers a request at once with the moment at which its answer will be complete, from
three things: a bucket of tokens (requests a second; who finds it empty is refused), pipes (bytes a second, first come,
first served, so that what they carry adds up), and the pace of one connection.

A request may stand for those of several nodes that do the same in the same instant: its *weight*.

TAG does what it was measured to do: a range of an object that it has not is passed on, each by itself, also when
others ask for the same; then the whole object is fetched once over one connection, and only when all of it is there
are ranges answered from it. What takes it longer than five minutes is given up. Larger objects than its threshold are
never kept, and above a number of requests in flight it refuses.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES = 32 << 20
"""What of a whole object is sent through pipes at once: short beside what it takes, so that others have their turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """All that is assumed of the world; none of it is ours."""

    store_requests_s: float = 5500.0
    """Requests that the store takes a second, above which it answers 503 SlowDown. Tigris documents no limit; this is
    the GETs a second and prefix that AWS documents for S3."""
    store_burst_s: float = 1.0
    """How long it lets pile up what was not used of that."""
    store_bytes_s: float = 50e9
    """What leaves the store: 400 Gbit/s. Nobody documents one; the requests are the narrower bound at 8 MiB each."""
    first_byte_s: float = 0.02
    """From a request to the first byte of its answer, refusals too: as in ``benchmarks.run``."""
    connection_bytes_s: float = 80e6
    """What one connection brings: eight readers of 64 MB objects on Tigris were published to get 716 MB/s together."""
    node_bytes_s: float = 25e9 / 8
    """A node's network: 25 Gbit/s."""
    loader_bytes_s: float = 3e9
    """What the loader takes out of the mount where it need not wait."""
    tag_in_bytes_s: float = 100e9 / 8
    """TAG's network towards the store: the 100 Gbit/s of its published benchmark."""
    tag_out_bytes_s: float = 10.7 * (1 << 30)
    """What one TAG serves from its cache: its published figure for 1 MiB and larger at 64 threads."""
    tag_first_byte_s: float = 0.004
    """From a request to the first byte of a hit: 1 to 6 ms were published."""
    tag_in_flight: int = 1024
    """Requests that one TAG takes at once: its default."""
    tag_threshold_bytes: int = 16 << 30
    """Its ``cache.size_threshold``: as in our examples. Its default is 1 GiB."""
    tag_timeout_s: float = 300.0
    """How long it waits for a whole object."""


class Clock(Protocol):
    """The events of a run."""

    now_s: float

    def at(self, when_s: float, event: Callable[[], None]) -> None:
        """Have *event* happen at a moment."""
        ...


class Pipe:
    """Carries bytes at a rate, first come, first served."""

    def __init__(self, rate_bytes_s: float) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._free_s = 0.0

    def carry(self, now_s: float, size_bytes: float) -> float:
        """Return when the last of these bytes has passed."""
        self._free_s = max(self._free_s, now_s) + size_bytes / self._rate_bytes_s
        return self._free_s


class Store:
    """The store, and what it has seen."""

    def __init__(self, clock: Clock, world: Assumptions) -> None:
        self._clock = clock
        self._world = world
        self._most = world.store_requests_s * world.store_burst_s
        self._tokens = self._most
        self._counted_s = 0.0
        self._pipe = Pipe(world.store_bytes_s)
        self.requests: Counter[int] = Counter()
        """Requests by the second in which they came."""
        self.refused = 0
        self.sent_bytes = 0

    def get(self, size_bytes: int, weight: int) -> float | None:
        """Return when the answer is complete; None for a refusal.

        Args:
            size_bytes: Bytes of the range; 0 for what is not a GET.
            weight: Nodes that ask so.
        """
        now_s = self._clock.now_s
        self.requests[int(now_s)] += weight
        self._tokens = min(self._most, self._tokens + (now_s - self._counted_s) * self._world.store_requests_s)
        self._counted_s = now_s
        if self._tokens < weight:
            self.refused += weight
            return None
        self._tokens -= weight
        return self.more(size_bytes, weight) + self._world.first_byte_s

    def more(self, size_bytes: int, weight: int = 1) -> float:
        """Return when these bytes are complete, which belong to a request whose answer has begun."""
        now_s = self._clock.now_s
        self.sent_bytes += size_bytes * weight
        paced_s = now_s + size_bytes / self._world.connection_bytes_s
        return max(paced_s, self._pipe.carry(now_s, size_bytes * weight))


class Direct:
    """The way to the store without anything between."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, _shard: int, size_bytes: int, weight: int) -> float | None:
        """See :meth:`Store.get`."""
        return self._store.get(size_bytes, weight)

    def ended(self, weight: int) -> None:
        """An answer is complete."""


class Tag:
    """The way through one or several TAGs that share a cache by key.

    Args:
        clock: Events.
        store: What is behind.
        world: What it does.
        shards_bytes: Sizes of the objects.
        count: How many there are.
        warmed: Whether it has all of them from the start.
    """

    def __init__(
        self, clock: Clock, store: Store, world: Assumptions, shards_bytes: list[int], *, count: int, warmed: bool
    ) -> None:
        self._clock = clock
        self._store = store
        self._world = world
        self._shards_bytes = shards_bytes
        fits = [size_bytes <= world.tag_threshold_bytes for size_bytes in shards_bytes]
        self._cached = [warmed and fit for fit in fits]
        self._fetching = [not fit for fit in fits]
        self._in = Pipe(world.tag_in_bytes_s * count)
        self._out = Pipe(world.tag_out_bytes_s * count)
        self._most_in_flight = world.tag_in_flight * count
        self._in_flight = 0
        self.refused = 0
        """Requests that it refused itself."""
        self.hits = 0
        self.hit_bytes = 0
        self.background_bytes = 0

    def get(self, shard: int, size_bytes: int, weight: int) -> float | None:
        """Return when the answer is complete; None for a refusal, its own or the store's."""
        if self._in_flight + weight > self._most_in_flight:
            self.refused += weight
            return None
        now_s, total_bytes = self._clock.now_s, size_bytes * weight
        if size_bytes and self._cached[shard]:
            self.hits += weight
            self.hit_bytes += total_bytes
            paced_s = now_s + self._world.tag_first_byte_s + size_bytes / self._world.node_bytes_s
        else:
            answered_s = self._store.get(size_bytes, weight)
            if answered_s is None:
                return None
            paced_s = max(answered_s, self._in.carry(now_s, total_bytes)) + self._world.tag_first_byte_s
            if size_bytes and not self._fetching[shard]:
                self._fetching[shard] = True
                self._clock.at(paced_s, lambda: self._fetch(shard))
        self._in_flight += weight
        return max(paced_s, self._out.carry(now_s, total_bytes))

    def ended(self, weight: int) -> None:
        """An answer is complete."""
        self._in_flight -= weight

    def _fetch(self, shard: int) -> None:
        """Begin to fetch a whole object; the next range begins anew where the store refuses it."""
        if self._store.get(0, 1) is None:
            self._fetching[shard] = False
        else:
            self._piece(shard, self._shards_bytes[shard], self._clock.now_s)

    def _piece(self, shard: int, left_bytes: int, begun_s: float) -> None:
        if not left_bytes:
            self._cached[shard] = True
            return
        if self._clock.now_s - begun_s > self._world.tag_timeout_s:
            self._fetching[shard] = False
            return
        size_bytes = min(PIECE_BYTES, left_bytes)
        self.background_bytes += size_bytes
        done_s = max(self._store.more(size_bytes), self._in.carry(self._clock.now_s, size_bytes))
        self._clock.at(done_s, lambda: self._piece(shard, left_bytes - size_bytes, begun_s))
