from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import termios
import time

import pytest
import urllib3
from botocore.response import StreamingBody

from tigrismount.objects.body import BodyReader
from tigrismount.testing.object_contract import pattern

DATA = pattern(50_000)


@pytest.fixture
def pool():
    with urllib3.PoolManager(retries=False) as pool:
        yield pool


@pytest.fixture
def get(server, pool):
    with contextlib.ExitStack() as bodies:

        def get() -> BodyReader:
            raw = pool.request("GET", server.url, preload_content=False, decode_content=False)
            bodies.callback(raw.close)
            return BodyReader(StreamingBody(raw, raw.headers.get("Content-Length")))

        yield get


def read_all(reader: BodyReader, view_bytes: int = 7_000) -> bytes:
    memory = bytearray(len(DATA))
    filled = 0
    while count := reader.readinto(memoryview(memory)[filled : filled + view_bytes]):
        filled += count
    return bytes(memory[:filled])


def framed(data: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (data[:1000], data[1000:], b""))


def test_a_plain_body_is_read_straight_from_the_socket(server, say, get):
    server.answer(say.response(200, DATA))
    reader = get()
    assert reader.direct
    assert read_all(reader) == DATA


def test_what_comes_in_pieces_is_read_by_one_call(server, say, get):
    def later(_request) -> bytes:
        time.sleep(0.05)
        return DATA[30_000:]

    server.answer(say.response(200, DATA)[: -len(DATA)], DATA[:20_000], DATA[20_000:30_000], later)
    reader, memory = get(), memoryview(bytearray(len(DATA)))
    assert reader.readinto(memory[:40_000]) == 40_000
    assert reader.readinto(memory[40_000:]) == 10_000
    assert memory == DATA
    assert reader.readinto(memory) == 0


def test_a_read_that_waits_in_vain_times_out_and_keeps_what_came(server, say, pool):
    server.answer(say.response(200, DATA)[: -len(DATA)] + DATA[:20_000], say.Then.STALL)
    raw = pool.request("GET", server.url, preload_content=False, decode_content=False, timeout=0.2)
    reader, memory = BodyReader(StreamingBody(raw, len(DATA))), memoryview(bytearray(len(DATA)))
    assert reader.readinto(memory) == 20_000
    assert memory[:20_000] == DATA[:20_000]
    with pytest.raises(TimeoutError):
        reader.readinto(memory)
    reader.close(complete=False)


@pytest.mark.parametrize(
    "headers", [{"Content_Encoding": "gzip"}, {"Content_Length": None, "Transfer_Encoding": "chunked"}]
)
def test_any_other_body_takes_the_ordinary_way_and_reads_the_same(server, say, get, headers):
    body = framed(DATA) if "Transfer_Encoding" in headers else DATA
    server.answer(say.response(200, **{"Content_Length": len(DATA), **headers}) + body)
    reader = get()
    assert not reader.direct
    assert read_all(reader) == DATA


def test_a_body_of_an_unknown_kind_takes_the_ordinary_way():
    class Strange:
        def __init__(self) -> None:
            self.pieces = [DATA[:10], DATA[10:]]

        def read(self, count):
            if not self.pieces:
                return b""
            piece = self.pieces.pop(0)
            if len(piece) > count:
                self.pieces.insert(0, piece[count:])
            return piece[:count]

    reader = BodyReader(Strange())
    assert not reader.direct
    assert read_all(reader) == DATA
    assert reader.readinto(memoryview(bytearray(10))) == 0, "and at the end it ends"


@pytest.mark.parametrize("headers", [{}, {"Content_Encoding": "gzip"}])
def test_a_finished_body_gives_its_connection_back(server, say, get, headers):
    server.answer(say.response(200, DATA, **headers))
    for _ in range(3):
        reader = get()
        read_all(reader)
        reader.close(complete=True)
    assert server.connections == 1


@pytest.mark.parametrize("headers", [{}, {"Content_Encoding": "gzip"}])
def test_an_unfinished_body_takes_its_connection_along(server, say, get, headers):
    server.answer(say.response(200, DATA, **headers))
    for _ in range(2):
        reader = get()
        reader.readinto(memoryview(bytearray(10)))
        reader.close(complete=False)
    reader = get()
    assert read_all(reader) == DATA
    reader.close(complete=True)
    assert server.connections == 3


def test_a_body_that_ends_early_ends_the_read(server, say, get):
    server.answer(say.response(200, DATA)[:-1000], say.Then.CLOSE)
    reader = get()
    assert read_all(reader) == DATA[:-1000]
    reader.close(complete=False)


def test_interrupting_a_body_of_an_unknown_kind_is_harmless():
    BodyReader(object()).interrupt()


def waiting_bytes(source: socket.socket) -> int:
    """Return how many bytes wait in the socket under a body."""
    count = array.array("i", [0])
    fcntl.ioctl(source, termios.FIONREAD, count)
    return count[0]


def test_an_interrupted_tls_body_gives_no_bytes_that_nobody_deciphered(say, certificate):
    """What lies in the socket when it is shut down can still be read, as it came over the wire."""
    context, bundle = certificate
    server = say.Server(tls=context)
    server.answer(say.response(200, DATA))
    try:
        with urllib3.PoolManager(retries=False, ca_certs=bundle) as pool:
            raw = pool.request("GET", server.url, preload_content=False, decode_content=False)
            reader = BodyReader(StreamingBody(raw, raw.headers.get("Content-Length")))
            memory = bytearray(len(DATA))
            first = reader.readinto(memoryview(memory)[:20_000])
            assert (reader.direct, first) == (True, 20_000)
            while waiting_bytes(raw._connection.sock) < 17_000:  # all but the two records that were read
                time.sleep(0.001)
            reader.interrupt()
            with contextlib.suppress(ValueError, OSError):
                while reader.readinto(memoryview(memory)[20_000:]):
                    pass
            raw.close()
            assert memory == DATA[:20_000] + bytes(30_000)
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("headers", "first"),
    [({}, 0), ({"Content_Encoding": "gzip"}, 20_000)],
    ids=["before its first read", "encoded"],
)
def test_an_interrupted_tls_body_gives_none_by_the_layers_above_its_socket(say, certificate, headers, first):
    """They read it in another way, which goes past TLS once that is shut down."""
    context, bundle = certificate
    server = say.Server(tls=context)
    head = say.response(200, **{"Content_Length": len(DATA), **headers})
    server.answer(head, DATA)  # in records of their own
    try:
        with urllib3.PoolManager(retries=False, ca_certs=bundle) as pool:
            raw = pool.request("GET", server.url, preload_content=False, decode_content=False)
            reader = BodyReader(StreamingBody(raw, raw.headers.get("Content-Length")))
            memory = bytearray(len(DATA))
            assert not first or reader.readinto(memoryview(memory)[:first]) == first
            while waiting_bytes(raw._connection.sock) < 8_000:
                time.sleep(0.001)
            reader.interrupt()
            with contextlib.suppress(Exception):
                while reader.readinto(memoryview(memory)[first:]):
                    pass
            raw.close()
            assert all(found in (0, right) for found, right in zip(memory, DATA, strict=True))
    finally:
        server.stop()
