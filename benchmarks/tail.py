"""``python -m benchmarks.tail``: what one slow connection in twenty costs, with and without giving GETs up.

The store is a process of our own that answers after 20 ms and paces each connection, so that the network and not this
machine decides; a share of the answers comes at a fiftieth of the pace, or does not begin at all. Three variants fetch
the same ranges, in turns: no slow answers, slow ones, and slow ones with a client that waits for every GET. The table
shows medians and 99th percentiles of the time a range takes, as ratios to the first variant.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import socket
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tigrismount.core.types import ObjectId
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.options import S3Config
from tigrismount.objects.s3 import S3Client

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

PART_BYTES = 4 << 20
PARTS = 4096
OBJ = ObjectId("bench", "object", "abc", PART_BYTES * PARTS)
PIECE_BYTES = 256 << 10
RATE_BYTES_S = 40 << 20
LATENCY_S = 0.02
SLOWER = 50
"""How many times slower a slow answer is: seconds for what takes a tenth of one."""
WIDTH = 6
"""Ranges fetched at once: 240 MB/s in all, which leaves most of a core."""
Figures = dict[str, dict[str, float]]
VARIANTS = ("none slow", "one in twenty", "the same, waiting")


def serve(port: Connection, mode: Connection) -> None:
    """Answer range GETs until the process is killed; *mode* brings the share of slow answers."""
    share = [0.0]
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    port.send(listener.getsockname()[1])
    draw = random.Random(1)

    def listen() -> None:
        while True:
            share[0] = mode.recv()
            mode.send(None)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer_all, args=(connection, share, draw), daemon=True).start()


def _answer_all(connection: socket.socket, share: list[float], draw: random.Random) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    piece = bytes(PIECE_BYTES)
    try:
        with connection, connection.makefile("rb") as lines:
            while lines.readline():
                headers = dict(line.decode().lower().split(": ", 1) for line in iter(lines.readline, b"\r\n"))
                start, last = map(int, headers["range"].strip().removeprefix("bytes=").split("-"))
                slow = draw.random() < share[0]
                never = slow and draw.random() < 0.5
                time.sleep(LATENCY_S * (100 if never else 1))
                head = f'HTTP/1.1 206 OK\r\nETag: "abc"\r\nContent-Range: bytes {start}-{last}/{OBJ.size_bytes}\r\n'
                connection.sendall(f"{head}Content-Length: {last + 1 - start}\r\n\r\n".encode())
                begun_s, sent = time.monotonic(), 0
                rate = RATE_BYTES_S / (SLOWER if slow else 1)
                while sent < last + 1 - start:
                    count = min(PIECE_BYTES, last + 1 - start - sent)
                    connection.sendall(piece[:count])
                    sent += count
                    time.sleep(max(0.0, begun_s + sent / rate - time.monotonic()))
    except OSError:
        pass  # the client gave it up


class Sink:
    """Memory for one range, used again and again."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._done = 0

    def next_view(self) -> memoryview:
        """Return what is not filled yet."""
        return self._memory[self._done :]

    def wrote(self, count: int) -> None:
        """Note that more is."""
        self._done += count


def _client(port: int, *, patient: bool) -> S3Client:
    key = Credentials(source="the bench", access_key_id="id", secret_access_key="secret")
    client = S3Client(
        S3Config(endpoint_url=f"http://127.0.0.1:{port}", region="auto", concurrency=4 * WIDTH, stall_timeout_s=60.0),
        key,
    )
    if patient:
        client._stragglers._has_room = lambda: False  # the variant that this bench is about
    return client


async def _fetch_all(client: S3Client, count: int) -> list[float]:
    """Return the seconds that each of *count* ranges took, *WIDTH* of them at a time."""
    numbers = itertools.count()
    times: list[float] = []

    async def run() -> None:
        memory = memoryview(bytearray(PART_BYTES))
        while (number := next(numbers)) < count:
            begun_s = time.monotonic()
            start = number % PARTS * PART_BYTES
            await client.fetch(OBJ, start, start + PART_BYTES, Sink(memory))
            times.append(time.monotonic() - begun_s)

    async with trio.open_nursery() as nursery:
        for _ in range(WIDTH):
            nursery.start_soon(run)
    return times


def _percentile(times: list[float], share: float) -> float:
    return sorted(times)[int(share * (len(times) - 1))]


async def _rounds(
    clients: dict[str, S3Client], slow: Callable[[float], None], rounds: int, count: int
) -> list[Figures]:
    found = []
    for client in clients.values():  # what is usual is known once a load is under way
        slow(0.0)
        await _fetch_all(client, 64)
    for number in range(rounds):
        figures = {}
        for name, client in clients.items():
            slow(0.0 if name == VARIANTS[0] else 0.05)
            times = await _fetch_all(client, count)
            figures[name] = {
                "p50_s": statistics.median(times),
                "p99_s": _percentile(times, 0.99),
                "total_s": sum(times),
            }
            print(f"  round {number + 1} · {name}: p99 {figures[name]['p99_s'] * 1000:.0f} ms", file=sys.stderr)
        found.append(figures)
    return found


def main() -> int:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.tail", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each variant runs")
    parser.add_argument("--parts", type=int, default=300, help="ranges per variant and round")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    receive, send = multiprocessing.Pipe(duplex=False)
    mode, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(send, theirs), daemon=True)
    server.start()

    def slow(share: float) -> None:
        mode.send(share)
        mode.recv()

    port = receive.recv()
    clients = {name: _client(port, patient=name == VARIANTS[2]) for name in VARIANTS}
    rounds = trio.run(_rounds, clients, slow, arguments.rounds, arguments.parts)
    print(f"{'':20}{'p50':>8}{'p99':>10}{'p99 ÷ none slow':>18}{'given up':>10}")
    for name in VARIANTS:
        p50 = statistics.median(figures[name]["p50_s"] for figures in rounds)
        p99 = statistics.median(figures[name]["p99_s"] for figures in rounds)
        ratio = statistics.median(figures[name]["p99_s"] / figures[VARIANTS[0]]["p99_s"] for figures in rounds)
        given_up = clients[name].statistics().given_up
        print(f"{name:20}{p50 * 1000:6.0f} ms{p99 * 1000:7.0f} ms{ratio:18.2f}{given_up:10}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"cores": os.cpu_count(), "rounds": rounds}, indent=1))
    server.kill()
    sys.stdout.flush()
    os._exit(0)  # threads that were given up may still wait for their first byte


if __name__ == "__main__":
    main()
