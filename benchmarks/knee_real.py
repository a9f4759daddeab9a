"""``python -m benchmarks.knee_real``: the same question as ``knee``, answered by a real client and a real server.

The server is a process of our own that answers late, paces each connection and all of them together, and refuses above
a number of requests in flight. Rates are a tenth of what ``knee`` simulates, and so are ranges, so that the network
decides and not this machine. A real ``S3Client`` fetches ranges of one object, as many at once as it says are worth it;
others have a fixed number. All take turns, so that what else happens here hits each of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import socket
import statistics
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tigrismount.core.adaptive import AdaptiveLimit
from tigrismount.core.types import ObjectId
from tigrismount.objects.bandwidth import Bandwidth
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.options import S3Config
from tigrismount.objects.s3 import S3Client

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from tigrismount.core.adaptive import Ticket

PART_BYTES = 800 << 10
PARTS = 4096
OBJ = ObjectId("bench", "object", "abc", PART_BYTES * PARTS)
PIECE_BYTES = 64 << 10
CEILING = 128
MB = 1_000_000
_PAUSE_S = 1.0
"""Between turns, until the server has ended what the last client left behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What the server does."""

    name: str
    latency_s: float
    rate_bytes_s: int
    """Of one connection."""
    total_bytes_s: int | None = None
    """Of all."""
    in_flight_max: int = 1 << 30
    """GETs above which it answers 503."""


PLACES = (
    Place(name="near, 40 MB/s each, 80 MB/s", latency_s=0.001, rate_bytes_s=40 * MB, total_bytes_s=80 * MB),
    Place(name="standard, 8 MB/s each, 70 MB/s", latency_s=0.02, rate_bytes_s=8 * MB, total_bytes_s=70 * MB),
    Place(name="very far, 2 MB/s each", latency_s=0.2, rate_bytes_s=2 * MB),
    Place(name="standard, at most 12 at once", latency_s=0.02, rate_bytes_s=8 * MB, in_flight_max=12),
)


class Server:
    """Answers range GETs until the process is killed."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._total = Bandwidth(place.total_bytes_s)
        self._lock = threading.Lock()
        self._in_flight = 0

    def serve(self, port: Connection) -> None:
        """Tell the port, and answer."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        port.send(listener.getsockname()[1])
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._answer_all, args=(connection,), daemon=True).start()

    def _answer_all(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as lines:
            while lines.readline():
                headers = dict(line.decode().lower().split(": ", 1) for line in iter(lines.readline, b"\r\n"))
                start, last = map(int, headers["range"].strip().removeprefix("bytes=").split("-"))
                with self._lock:
                    self._in_flight += 1
                    refused = self._in_flight > self._place.in_flight_max
                try:
                    time.sleep(self._place.latency_s)
                    self._refuse(connection) if refused else self._answer(connection, start, last + 1)
                finally:
                    with self._lock:
                        self._in_flight -= 1

    def _refuse(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n")

    def _answer(self, connection: socket.socket, start: int, stop: int) -> None:
        head = f'HTTP/1.1 206 OK\r\nETag: "abc"\r\nContent-Range: bytes {start}-{stop - 1}/{OBJ.size_bytes}\r\n'
        connection.sendall(f"{head}Content-Length: {stop - start}\r\n\r\n".encode())
        piece, begun_s, sent = bytes(PIECE_BYTES), time.monotonic(), 0
        while sent < stop - start:
            count = min(PIECE_BYTES, stop - start - sent)
            self._total.spend(count)
            connection.sendall(piece[:count])
            sent += count
            time.sleep(max(0.0, begun_s + sent / self._place.rate_bytes_s - time.monotonic()))


class Fixed(AdaptiveLimit):
    """A limit that stays what it is."""

    def __init__(self, number: int) -> None:
        super().__init__(number, number, draw=lambda: 0.5)
        self._number = number

    @property
    def limit(self) -> int:
        """The number."""
        return self._number

    def refused(self, ticket: Ticket, now_s: float, retry_after_s: float = 0.0) -> None:
        """Change nothing."""


class Sink:
    """Memory that all write to: what comes is not looked at."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._done = 0

    def next_view(self) -> memoryview:
        """Return what is not filled yet."""
        return self._memory[self._done :]

    def wrote(self, count: int) -> None:
        """Note that more is."""
        self._done += count


@dataclass(slots=True)
class Turn:
    """What one client did for some seconds."""

    bytes_s: float
    get_s: float
    in_flight: list[int]
    """Every tenth of a second."""
    slow_downs: int


class Fetcher:
    """One client that fetches all the time, while it is its turn."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._memory = memoryview(bytearray(PART_BYTES))
        self._parts = itertools.cycle(range(PARTS))
        self._out = 0
        self._took_s: list[float] = []
        self._changed = trio.Event()

    async def turn(self, seconds: float) -> Turn:
        """Fetch for so long."""
        in_flight: list[int] = []
        self._took_s = []
        before, began_s = self._client.statistics(), trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, in_flight)
            with trio.move_on_after(seconds):
                while True:
                    while self._out < self._client.get_limit:
                        self._out += 1
                        nursery.start_soon(self._fetch)
                    self._changed = trio.Event()
                    await self._changed.wait()
            after, elapsed_s = self._client.statistics(), trio.current_time() - began_s
            nursery.cancel_scope.cancel()
        self._out = 0
        received = after.bytes_fetched - before.bytes_fetched
        return Turn(
            bytes_s=received / elapsed_s,
            get_s=statistics.fmean(self._took_s or [0.0]),
            in_flight=in_flight,
            slow_downs=after.slow_downs - before.slow_downs,
        )

    async def _watch(self, in_flight: list[int]) -> None:
        while True:
            in_flight.append(self._out)
            await trio.sleep(0.1)

    async def _fetch(self) -> None:
        start, began_s = next(self._parts) * PART_BYTES, trio.current_time()
        await self._client.fetch(OBJ, start, start + PART_BYTES, Sink(self._memory))
        self._took_s.append(trio.current_time() - began_s)
        self._out -= 1
        self._changed.set()


def _client(url: str, number: int | None) -> S3Client:
    key = Credentials(source="the bench", access_key_id="id", secret_access_key="secret")
    ceiling = number if number is not None else CEILING
    client = S3Client(S3Config(endpoint_url=url, concurrency=ceiling + max(1, ceiling // 8)), key)
    if number is not None:
        client._data_lane._limit = Fixed(number)  # what this is compared with
        client._stragglers._has_room = lambda: False
    return client


async def _measure(url: str, numbers: Sequence[int | None], seconds: float, rounds: int) -> dict[str, list[Turn]]:
    clients = {"found" if number is None else str(number): _client(url, number) for number in numbers}
    fetchers = {name: Fetcher(client) for name, client in clients.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in clients}
    for number in range(rounds):
        for name, fetcher in fetchers.items():
            await trio.sleep(_PAUSE_S)
            turns[name].append(turn := await fetcher.turn(seconds))
            middle = statistics.median(turn.in_flight)
            print(f"  round {number + 1} · {name}: {turn.bytes_s / 1e6:.0f} MB/s, {middle:.0f} out", file=sys.stderr)
    for client in clients.values():
        await client.aclose()
    return turns


def _lines(place: Place, turns: dict[str, list[Turn]]) -> list[str]:
    best = max(statistics.median(turn.bytes_s for turn in rows) for name, rows in turns.items() if name != "found")
    lines = []
    for name, rows in turns.items():
        rate = statistics.median(turn.bytes_s for turn in rows)
        in_flight = statistics.median(itertools.chain.from_iterable(turn.in_flight for turn in rows))
        lines.append(
            f"| {place.name} | {name} | {rate / 1e6:.0f} MB/s | {rate / best:.2f} | {rows[0].bytes_s / 1e6:.0f} MB/s "
            f"| {in_flight:.0f} | {statistics.median(turn.get_s for turn in rows):.2f} s "
            f"| {' '.join(str(turn.slow_downs) for turn in rows)} |"
        )
    return lines


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.knee_real", description=__doc__.split("\n")[0])
    parser.add_argument("--place", default="", help="only those whose name has this in it")
    parser.add_argument("--numbers", default="2,8,16,32", help="fixed numbers, as 2,8")
    parser.add_argument("--seconds", type=float, default=10.0, help="that each turn takes [10]")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each [2]")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    numbers = [None, *map(int, arguments.numbers.split(","))]
    figures = {}
    print("| place | GETs at once | median | by the best | first turn | out | a GET takes | refused by turn |")
    print("|---|---|---:|---:|---:|---:|---:|---|")
    for place in (place for place in PLACES if arguments.place in place.name):
        port, theirs = multiprocessing.Pipe(duplex=False)
        server = multiprocessing.Process(target=Server(place).serve, args=(theirs,), daemon=True)
        server.start()
        url = f"http://127.0.0.1:{port.recv()}"
        turns = trio.run(_measure, url, numbers, arguments.seconds, arguments.rounds)
        server.kill()
        print("\n".join(_lines(place, turns)), flush=True)
        figures[place.name] = {name: [dataclasses.asdict(turn) for turn in rows] for name, rows in turns.items()}
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
